"""The items of a page: what each prompt predicts of them, and which of them there is room for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.reporting import item_rows
from pipeline.reporting.document import Items, find_items
from pipeline.reporting.item_data import fit_items, item_columns, pack
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from tests.pipeline.reporting import choices, tables, tasks
from tests.pipeline.reporting.pages import read_html, read_items

PROMPTS = ("answer", "topic", "described")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part-labelled run: some items have no gold label, some several right ones."""
    rng = np.random.default_rng(3)
    items = tables.with_several(tables.make_items(120, rng), rng, 0.2)
    bare = pl.col("item_id") % 7 == 0
    names = ("gold_id", "gold", "gold_ids")
    items = items.with_columns(pl.when(~bare).then(name).alias(name) for name in names)
    return tables.write_run(tmp_path_factory.mktemp("part"), prompts=PROMPTS, items=items)


def shown(out: Path) -> list[dict[str, Any]]:
    return read_items(read_html((out / "report" / "report.html").read_text(encoding="utf-8")))


def items_of(report: Report) -> Items:
    items = find_items(make_document(report))
    assert items is not None
    return items


def test_an_item_has_what_every_prompt_predicts_of_it(run: Path, report: Report) -> None:
    """By hand from predictions.parquet and the score table, for each of them, labelled or not."""
    found = load_run(run)
    predictions = {
        (row["item_id"], row["prompt"]): row
        for row in found.predictions.filter(pl.col("rule") == "sum").collect().iter_rows(named=True)
    }
    scores: dict[tuple[int, str], list[tuple[str, float]]] = {}
    for row in found.scores.sort("label_id").collect().iter_rows(named=True):
        scores.setdefault((row["item_id"], row["prompt"]), []).append((row["label"], round(row["logprob"], 2)))
    texts = dict(found.items.select("item_id", "text").collect().iter_rows())
    items, names = shown(run), report.ranked["prompt"].to_list()
    assert sorted(names) == sorted(PROMPTS)
    assert sorted(item["id"] for item in items) == sorted(texts)
    for item in items:
        rows = [predictions[item["id"], prompt] for prompt in names]
        assert item["text"] == texts[item["id"]].replace("\x1b", "\N{REPLACEMENT CHARACTER}")
        assert item["predicted"] == [row["predicted"] for row in rows]
        assert item["correct"] == [row["correct"] for row in rows]
        assert item["confidence"] == [pytest.approx(row["confidence"], abs=5.1e-4) for row in rows]
        assert item["margin"] == [pytest.approx(row["margin"], abs=5.1e-3) for row in rows]
        right = rows[0]["gold_ids"] or ([] if rows[0]["gold_id"] is None else [rows[0]["gold_id"]])
        assert item["gold"] == ([tables.AG_NEWS[i] for i in right] or None)
        for prompt, pairs in zip(names, item["scores"], strict=True):
            labels, values = zip(*scores[item["id"], prompt], strict=True)
            assert [label for label, _ in pairs] == list(labels)
            assert [value for _, value in pairs] == [pytest.approx(value, abs=0.011) for value in values]


def test_items_with_their_own_choices_have_all_columns_that_a_prompt_reads(tmp_path: Path) -> None:
    report = tables.write_report(choices.write_run(tmp_path))
    items, by_id = choices.read_items(tmp_path), {item["id"]: item for item in shown(tmp_path)}
    assert by_id.keys() == items.keys()
    columns = dict.fromkeys(column for prompt in report.manifest.prompts for column in prompt.columns)
    for number, item in items.items():
        assert by_id[number]["text"] == "\n".join(f"{column}: {item[column]}" for column in columns)
        assert set(by_id[number]["predicted"]) <= set(item["item_choices"])


def test_many_labels_leave_the_highest_scores_and_that_of_the_gold_label(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(60)]
    tables.run_and_report(tmp_path, 80, ["answer"], label_names=names, words=names, signal=0.0)
    scores = load_run(tmp_path).scores.collect()
    for item in shown(tmp_path):
        own = scores.filter(pl.col("item_id") == item["id"]).sort("logprob", descending=True)
        kept = {*own["label"].head(item_rows.NUM_SCORES), *item["gold"]}
        assert {label for label, _ in item["scores"][0]} == kept


def test_a_large_run_reads_the_confidently_wrong_and_a_sample_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_rows, "MAX_ITEMS", 150)
    first, again = (tables.run_and_report(tmp_path, 400, PROMPTS).items["item_id"].to_list() for _ in range(2))
    assert first == again
    report = tables.write_report(tmp_path)
    wrong = report.wrong["item_id"].unique(maintain_order=True).to_list()
    assert first[: len(wrong)] == wrong[:150]
    assert len(first) == len(set(first)) == 150
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "150 of 400 rows are here, as many as there is room for: " in page


def test_where_there_is_no_room_scores_go_first_and_then_items(run: Path, report: Report) -> None:
    """And the words beside the table say so; those that have to be shown are left out last."""
    items = items_of(report)
    rows = items.rows.to_dicts()
    whole = len(pack(items, rows))
    assert fit_items(items, whole).sentence == "All 120 rows are here."
    fewer = fit_items(items, whole - 100)
    assert fewer.sentence.startswith("All 120 rows are here. Label scores are here only of the confidently wrong.")
    least = fit_items(items, whole // 2)
    num_shown = int(least.sentence.split(" of 120 rows are here")[0])
    assert 50 <= num_shown < 120
    assert len(least.packed) <= whole // 2 or num_shown == 50
    assert item_columns(items, rows[:num_shown])["ids"] == [row["item_id"] for row in rows[:num_shown]]


def test_a_score_that_is_no_number_is_left_open(report: Report) -> None:
    """JSON has no infinity."""
    items = items_of(report)
    row = items.rows.row(0, named=True)
    columns = item_columns(items, [{**row, "margin": [float("inf"), None, 1.0]}])
    assert json.loads(json.dumps(columns, allow_nan=False))["margins"] == [[None, None, 100]]


def test_an_item_of_a_task_is_named_by_its_document_and_its_task(tmp_path: Path) -> None:
    report = tables.write_report(tasks.write_run(tmp_path))
    items = shown(tmp_path)
    assert len(items) == report.manifest.dataset.num_items
    assert {item["group"] for item in items} == {prompt.name for prompt in report.manifest.prompts}
    assert {len(item["predicted"]) for item in items} == {1}
    assert max(item["id"] for item in items) < 10**9
