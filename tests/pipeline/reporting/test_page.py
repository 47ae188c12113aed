"""The page as a document: whole, labelled, escaped, small, and closed to the network."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.reporting.formats import interval, visible
from pipeline.reporting.page import embed_json, render_page
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from tests.pipeline.reporting.pages import (
    HOSTILE_LABELS,
    INJECTION,
    PROMPTS,
    Element,
    find_data,
    read_html,
    read_items,
    write_hostile_report,
)
from tests.pipeline.reporting.tables import run_and_report

MEGABYTE = 1_000_000
ALL_PROMPTS = ("answer", "detailed", "described", "topic-science", "topic")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_hostile_report(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def page(report: Report) -> Element:
    return read_page(report)


def read_page(report: Report) -> Element:
    return read_html(render_page(make_document(report)))


def chart_data(page: Element) -> dict[str, dict[str, Any]]:
    """Each chart with the data that it shows."""
    found = find_data(page, "chart-data")
    shown = {
        id: {name for name in found["datasets"] if name in json.dumps(spec)} for id, spec in found["charts"].items()
    }
    return {
        id: {**spec, "datasets": {name: found["datasets"][name] for name in sorted(shown[id])}}
        for id, spec in found["charts"].items()
    }


def names_of(page: Element, tag: str) -> list[str]:
    return [element.attributes.get("id", "") for element in page.all(tag)]


def test_headings_come_in_order(page: Element) -> None:
    """One h1, and no heading more than one level below the heading before it."""
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_summary_comes_first_then_the_charts_and_the_rules_are_folded(page: Element) -> None:
    sections = [section.attributes["id"] for section in page.all("section")]
    assert sections == ["summary", "prompts", "comparisons", "items", "history", "rules", "made"]
    (rules,) = (section for section in page.all("section") if section.attributes["id"] == "rules")
    assert {table.tag for table in rules.children if isinstance(table, Element)} == {"h2", "p", "details"}


def test_the_summary_says_what_was_run_with_its_interval_and_its_warnings(page: Element, report: Report) -> None:
    summary = page.all("section")[0].text
    row = report.headline.row(0, named=True)
    assert interval(row["low"], row["high"]) in summary
    for fact in ("random, split test", "2026-01-02 03:05 UTC", "demonstration model"):
        assert fact in summary


def test_references_within_the_page_resolve(page: Element) -> None:
    """Every id is there once; every label, description and link within the page has its target."""
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in page.all():
        for name in ("for", "aria-labelledby", "aria-controls"):
            assert element.attributes.get(name, ids[0]) in ids
        if element.tag == "a":
            assert element.attributes["href"].removeprefix("#") in ids


def test_tables_fields_and_charts_have_names(page: Element) -> None:
    """A caption for each table, a scope for each header, a label for each field, sentence and table for each chart."""
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert all(header.attributes["scope"] in ("col", "row") for header in table.all("th"))
    labelled = {label.attributes["for"] for label in page.all("label")}
    assert {field.attributes["id"] for field in page.all("input", "select")} == labelled
    charts = [element for element in page.all("div") if element.attributes.get("class") == "chart"]
    assert {chart.attributes["id"] for chart in charts} == set(chart_data(page))
    for figure in page.all("figure"):
        (chart,) = (element for element in figure.all("div") if element.attributes.get("class") == "chart")
        assert chart.attributes["role"] == "img"
        assert chart.attributes["aria-label"]
        assert figure.all("table")


def test_rows_are_as_wide_as_their_header(page: Element) -> None:
    for table in page.all("table"):
        header, *rows = table.all("tr")
        assert rows or table.attributes["id"] == "item-table"
        assert {len(row.all("th", "td")) for row in rows} <= {len(header.all("th"))}


def test_nothing_in_the_page_points_outside(page: Element) -> None:
    """No element loads or links anything; the policy would not let it."""
    assert not page.all("link", "img", "iframe", "object", "embed", "base", "audio", "video")
    for element in page.all():
        assert "src" not in element.attributes
        assert element.attributes.get("href", "#").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]


def test_the_policy_allows_the_pages_own_scripts_and_style_by_hash_and_nothing_else(page: Element) -> None:
    (meta,) = (m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    policy = dict(part.strip().split(" ", 1) for part in meta.attributes["content"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in meta.attributes["content"]

    def source(element: Element) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()}'"

    scripts = [s for s in page.all("script") if s.attributes.get("type") != "application/json"]
    assert policy["script-src"].split() == [source(script) for script in scripts]
    assert policy["style-src"].split() == [source(s) for s in page.all("style")]


def test_markup_in_texts_labels_and_prompts_stays_text(page: Element) -> None:
    """They are where they belong, as text: in cells, attributes and the charts' data."""
    assert [s.attributes.get("type") for s in page.all("script")] == ["application/json"] * 2 + [None] + ["module"] * 3
    items = read_items(page)
    assert items
    assert all(INJECTION in item["text"] for item in items)
    assert {label for item in items for label in item["predicted"]} <= set(HOSTILE_LABELS)
    (gold,) = (field for field in page.all("select") if field.attributes["name"] == "gold")
    assert {option.attributes["value"] for option in gold.all("option")} <= {"", *HOSTILE_LABELS}
    assert HOSTILE_LABELS[0] in json.dumps(chart_data(page)["confusion-0"])
    assert PROMPTS[1] in json.dumps(chart_data(page)["accuracy"])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60) | st.just("<!--<script>"), min_size=5, max_size=5))
def test_any_text_is_read_back_as_it_was(report: Report, texts: list[str]) -> None:
    """Whatever five items say, the page's tree stays the same and holds them, with and without scripts (controls made
    visible)."""
    wrong = report.wrong.head(5).with_columns(text=pl.Series(texts))
    page = read_page(replace(report, wrong=wrong, items=report.items.head(5).with_columns(text=pl.Series(texts))))
    assert [item["text"] for item in read_items(page)] == [visible(text) for text in texts]
    (shown,) = (element for element in page.all("ul") if element.attributes.get("class") == "wrong")
    assert [item.all("bdi")[0].text for item in shown.all("li")] == [visible(text) for text in texts]


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_embedded_json_holds_no_markup_and_is_read_back_unchanged(value: object) -> None:
    embedded = embed_json(value)
    assert "<" not in embedded
    assert json.loads(embedded) == value


def test_control_characters_and_lone_surrogates_become_visible() -> None:
    assert visible("a\x00b\x1b[31m\r\ud800\t\n\u202e") == "a\ufffdb\ufffd[31m\ufffd\ufffd\t\n\u202e"


def test_charts_are_valid_and_hold_totals_not_items(page: Element, report: Report) -> None:
    """Each is valid Vega-Lite, draws only in the page's colours, and has far fewer rows than the run has items."""
    for name, spec in chart_data(page).items():
        alt.LayerChart.from_dict(spec, validate=True)
        rows = [row for data in spec["datasets"].values() for row in data]  # type: ignore[attr-defined]
        assert rows, name
        assert len(rows) <= 100 * len(PROMPTS) + 10
        assert not re.search(r'"(?:fill|stroke|color)": ?"(?!var\(--)', json.dumps(spec))
        assert "Article" not in json.dumps(spec)


def test_the_page_of_7600_items_5_prompts_and_all_rules_stays_under_3_megabytes(tmp_path: Path) -> None:
    """Even where every text shown is longer than what the page shows of it."""
    report = run_and_report(tmp_path, 7_600, ALL_PROMPTS, notebook=True)
    assert len(report.rules) == 9
    rng = np.random.default_rng(0)
    noise = pl.Series([rng.bytes(700).hex() for _ in range(7_600)])
    page = render_page(make_document(replace(report, items=report.items.with_columns(text=noise))))
    assert len(page.encode()) < 3 * MEGABYTE
    shown = read_items(read_html(page))
    assert {item["id"] for item in shown} > set(report.wrong["item_id"])
    num_wrong = report.wrong["item_id"].n_unique()
    room = f"as many as there is room for: the {num_wrong} confidently wrong and a"
    first = f"{len(shown):,} of 7,600 rows are here, {room}"
    assert f"{first} random sample of the others. Texts of more than 1,000 characters are cut." in page


def test_many_labels_are_listed_and_not_drawn(tmp_path: Path) -> None:
    """With 150 labels the page stays readable: no matrix of 22,500 cells."""
    names = [f"class {i}" for i in range(150)]
    report = run_and_report(tmp_path, 500, ["answer"], label_names=names, words=names)
    html = render_page(make_document(report))
    page = read_html(html)
    assert len(html) < 2 * MEGABYTE
    assert "confusion-0" not in chart_data(page)
    assert "reliability-0" in chart_data(page)
    assert "the 100 most frequent mistakes" in page.text


def test_without_gold_labels_the_page_shows_predictions_only(tmp_path: Path) -> None:
    page = read_page(run_and_report(tmp_path, 40, gold=False))
    assert "No item has a gold label" in page.text
    assert "What answer predicts" in page.text
    assert not chart_data(page)
    fields = {field.attributes["name"] for field in page.all("select")}
    assert fields == {"show", "under", "predicted", "sort"}
    assert "wrong" not in {option.attributes["value"] for option in page.all("option")}
    assert {right for item in read_items(page) for right in item["correct"]} == {None}


def test_one_prompt_without_priors_has_nothing_to_compare_and_no_past(tmp_path: Path) -> None:
    page = read_page(run_and_report(tmp_path, 40, ["answer"], priors=False))
    assert "nothing to compare" in page.text
    assert "history" not in names_of(page, "section")


def test_years_of_nightly_runs_do_not_grow_the_page(report: Report) -> None:
    """The last 60 runs are drawn and listed; the page says how many more there were."""
    runs = [
        report.history_rows.with_columns(pl.lit(f"run {i}").alias("run_id"), pl.col("finished") + timedelta(days=i))
        for i in range(400)
    ]
    page = read_page(replace(report, history=pl.concat(runs)))
    (history,) = (section for section in page.all("section") if section.attributes["id"] == "history")
    assert "The 340 oldest are left out" in history.text
    assert len(history.all("table")[-1].all("tr")) == 1 + 60 * len(PROMPTS)


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert render_page(make_document(report)) == render_page(make_document(report))


def test_a_page_of_20_prompts_of_150_classes_stays_under_3_megabytes(tmp_path: Path) -> None:
    """The tables of the labels are there for the most accurate prompts, and where to find the others is said."""
    names = [f"class {i}" for i in range(150)]
    run_and_report(tmp_path, 100, [f"prompt {i}" for i in range(20)], words=names, label_names=names)
    page = (tmp_path / "report" / "report.html").read_text()
    assert len(page.encode()) < 3 * MEGABYTE
    assert page.count("The tables of its 150 labels are in metrics.parquet and predictions.parquet.") == 17
