"""Reports over texts that repeat: accuracy over items, intervals and tests over texts, and the words for it."""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
from polars.testing import assert_frame_equal
from statsmodels.stats.proportion import proportion_confint

from pipeline.analysis import Run, load_run
from pipeline.reporting.agreement import AgreementCounter, Arm
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.comparisons import all_pairs, compare_pairs
from pipeline.reporting.document import all_figures
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.past_runs import past_runs
from pipeline.reporting.report import Report
from tests.pipeline.reporting import tables

NAMES = ("answer", "topic", "n")
SENTENCE = "distinct texts; accuracy is over the items, intervals count them as"


def repeated_items(seed: int = 3) -> pl.DataFrame:
    """90 texts, a third of them in up to six rows; some rows have no gold label, some another than their twins."""
    rng = np.random.default_rng(seed)
    counts = rng.choice([1, 1, 1, 2, 3, 6], 90).tolist()
    items = tables.repeat(tables.make_items(90, rng), counts)
    other = rng.integers(0, 4, items.height)
    items = items.with_columns(
        gold_id=pl.when(pl.Series(rng.random(items.height) < 0.1)).then(pl.Series(other)).otherwise("gold_id")
    ).with_columns(gold_id=pl.when(pl.Series(rng.random(items.height) >= 0.1)).then("gold_id").cast(pl.Int16))
    names = dict(enumerate(tables.AG_NEWS))
    return items.with_columns(gold=pl.col("gold_id").replace_strict(names, return_dtype=pl.String))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), prompts=NAMES, seed=5, items=repeated_items(), signal=1.0)


def kish(texts: list[str]) -> float:
    weights = Counter(texts).values()
    return sum(weights) ** 2 / sum(w * w for w in weights)


def test_every_prediction_knows_how_many_labelled_items_share_its_text(rows: list[dict[str, Any]]) -> None:
    """Null where the item has no gold label, as `correct` is."""
    labelled = Counter((r["prompt"], r["rule"], r["text_hash"]) for r in rows if r["gold"] is not None)
    for r in rows:
        expected = labelled[r["prompt"], r["rule"], r["text_hash"]] if r["gold"] is not None else None
        assert r["copies"] == expected
        assert (r["copies"] is None) == (r["correct"] is None)


def test_accuracy_is_over_items_and_its_interval_over_texts(report: Report, rows: list[dict[str, Any]]) -> None:
    for found in report.summary.iter_rows(named=True):
        own = [r for r in rows if (r["prompt"], r["rule"]) == (found["prompt"], found["rule"])]
        judged = [r for r in own if r["correct"] is not None]
        effective = kish([r["text_hash"] for r in judged])
        assert found["num_items"] == len(own) > found["num_gold"] == len(judged)
        assert found["num_distinct"] == len({r["text_hash"] for r in judged}) < len(judged)
        assert found["num_effective"] == pytest.approx(effective)
        accuracy = sum(r["correct"] for r in judged) / len(judged)
        assert found["accuracy"] == pytest.approx(accuracy)
        low, high = proportion_confint(accuracy * effective, effective, method="wilson")
        assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_bins_of_confidence_and_length_count_whole_texts(run: Path, report: Report, rows: list[dict[str, Any]]) -> None:
    """Items of one text have the same confidence and length, so each bin has Kish's number of its own texts."""
    lengths = dict(
        load_run(run).scores.filter(pl.col("prompt") == "answer").select("item_id", "prompt_tokens").collect().rows()
    )
    judged = [r for r in rows if (r["prompt"], r["rule"]) == ("answer", "sum") and r["correct"] is not None]
    answer = pl.col("prompt") == "answer"
    bins = [
        (b, [r for r in judged if b["bin_low"] < r["confidence"] <= b["bin_high"]])
        for b in report.reliability.filter(answer, pl.col("rule") == "sum").to_dicts()
    ] + [
        (b, [r for r in judged if b["tokens_low"] <= lengths[r["item_id"]] <= b["tokens_high"]])
        for b in report.length.filter(answer).to_dicts()
    ]
    assert len(bins) > 10
    for b, inside in bins:
        assert b["n"] == len(inside)
        effective = kish([r["text_hash"] for r in inside])
        low, high = proportion_confint(b["accuracy"] * effective, effective, method="wilson")
        assert (b["low"], b["high"]) == pytest.approx((low, high), abs=1e-9)


def test_precision_counts_whole_texts_and_recall_is_never_too_sure(report: Report, rows: list[dict[str, Any]]) -> None:
    """Items of one text are all predicted alike; those with another gold label make recall's interval wider only."""
    for c in report.classes.filter(pl.col("prompt") == "topic", pl.col("rule") == "sum").to_dicts():
        judged = [r for r in rows if (r["prompt"], r["rule"]) == ("topic", "sum") and r["correct"] is not None]
        for part, name in (("predicted", "precision"), ("gold", "recall")):
            inside = [r for r in judged if r[part] == c["label"]]
            effective = kish([r["text_hash"] for r in inside])
            low, high = proportion_confint(c[name] * effective, effective, method="wilson")
            if name == "precision":
                assert (c["precision_low"], c["precision_high"]) == pytest.approx((low, high), abs=1e-9)
            else:
                assert c["recall_low"] <= low + 1e-9
                assert c["recall_high"] >= high - 1e-9


def test_comparisons_take_texts_whole(report: Report, rows: list[dict[str, Any]]) -> None:
    """The difference is over items, its variance over texts: the score statistic and the effect against a loop."""
    verdicts: dict[tuple[str, str], dict[int, tuple[str, bool]]] = defaultdict(dict)
    for r in rows:
        if r["correct"] is not None:
            verdicts[r["prompt"], r["rule"]][r["item_id"]] = (r["text_hash"], r["correct"])
    for c in report.verdict.pairs.iter_rows(named=True):
        a, b = verdicts[c["prompt_a"], c["rule_a"]], verdicts[c["prompt_b"], c["rule_b"]]
        net: dict[str, list[int]] = defaultdict(list)
        for item, (text, right) in a.items():
            net[text].append(right - b[item][1])
        difference = sum(map(sum, net.values())) / len(a)
        assert c["n"] == len(a)
        assert c["difference"] == pytest.approx(difference)
        squares = sum(sum(d) ** 2 for d in net.values())
        about = sum((sum(d) - len(d) * difference) ** 2 for d in net.values())
        of_items = sum((x - difference) ** 2 for d in net.values() for x in d)
        growth = max(len(a) / len(net), squares / (c["only_a"] + c["only_b"]), about / of_items)
        assert c["design_effect"] == pytest.approx(growth)
        statistic = (c["only_a"] - c["only_b"]) / math.sqrt((c["only_a"] + c["only_b"]) * growth)
        assert c["p"] == pytest.approx(min(1.0, 3 * 2 * scipy.stats.norm.sf(abs(statistic))))
        assert c["low"] <= c["difference"] <= c["high"]


def test_a_data_set_that_is_there_three_times_says_what_it_says_once(tmp_path: Path) -> None:
    """Every figure, interval, standard error and p-value; only the counts are three times as many."""
    items = tables.make_items(80, np.random.default_rng(0))
    once, thrice = (
        tables.run_and_report(tmp_path / name, prompts=NAMES, seed=3, items=own, notebook=True, signal=3.0)
        for name, own in (("once", items), ("thrice", tables.repeat(items, [3] * 80)))
    )
    counts = pl.col("metric").is_in(["num_correct", "ties", "truncated"])
    assert_frame_equal(thrice.metrics.filter(~counts).drop("n"), once.metrics.filter(~counts).drop("n"), abs_tol=1e-9)
    assert (thrice.metrics["n"] == 3 * once.metrics["n"]).all()
    for name in ("reliability", "length"):
        over_items = ["n", "variance"]
        found, expected = (getattr(each, name).drop(over_items, strict=False) for each in (thrice, once))
        assert_frame_equal(found, expected, abs_tol=1e-9)
    assert thrice.reliability["variance"].to_list() == pytest.approx((9 * once.reliability["variance"]).to_list())
    for name in ("pairs", "prompts", "arms", "baselines"):
        found, expected = getattr(thrice.verdict, name), getattr(once.verdict, name)
        over_items = ["n", "both", "only_a", "only_b", "neither", "num_correct", "num_gold", "design_effect"]
        assert_frame_equal(found.drop(over_items, strict=False), expected.drop(over_items, strict=False), abs_tol=1e-9)
    assert (thrice.verdict.pairs["only_a"] == 3 * once.verdict.pairs["only_a"]).all()
    assert thrice.verdict.pairs["design_effect"].to_list() == pytest.approx([3.0] * 3)
    assert {"open", "worse"} <= set(thrice.verdict.arms["standing"])
    assert (once.num_distinct, thrice.num_distinct, once.repeats, thrice.repeats) == (80, 80, False, True)
    assert thrice.num_effective == pytest.approx(once.num_effective)


def test_the_report_says_how_many_texts_are_distinct(run: Path, report: Report) -> None:
    line = (
        f"{report.num_gold:,} items hold {report.num_distinct:,} {SENTENCE} {report.num_effective:,.0f} "
        "(Kish's effective number), and paired tests take texts whole."
    )
    markdown = (run / "report" / "report.md").read_text()
    assert line in tables.summary_of(markdown)
    assert "Texts repeat here, so a text with all its items is one unit" in markdown
    assert "design effect" in markdown
    assert f"Few texts: at {report.num_distinct} distinct ones an accuracy is uncertain by up to" in markdown


def test_reports_without_repeats_do_not_speak_of_texts(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 60, NAMES)
    assert not report.repeats
    text = (tmp_path / "report" / "report.md").read_text()
    assert not [words for words in ("Kish", "distinct texts", "esign effect") if words in text]
    assert report.verdict.pairs["design_effect"].to_list() == [1.0] * 3


def test_repeats_of_items_without_a_gold_label_change_nothing(tmp_path: Path) -> None:
    """They are in no figure that has an interval."""
    items = tables.make_items(60, np.random.default_rng(1))
    bare = pl.when(pl.col("item_id") < 60)
    more = tables.repeat(items, [2] * 60).with_columns(gold_id=bare.then("gold_id"), gold=bare.then("gold"))
    once, twice = (
        tables.run_and_report(tmp_path / name, prompts=("answer",), items=own)
        for name, own in (("once", items), ("twice", more))
    )
    assert not twice.repeats
    same = ["num_gold", "num_correct", "accuracy", "low", "high", "num_distinct", "num_effective"]
    assert (
        twice.summary.filter(pl.col("rule") != "batch")
        .select(same)
        .equals(once.summary.filter(pl.col("rule") != "batch").select(same))
    )


def test_past_runs_are_drawn_with_the_width_that_this_run_has(run: Path, tmp_path: Path) -> None:
    out = tables.write_run(tmp_path, prompts=("answer",), seed=5, items=repeated_items())
    first = tables.write_report(out)
    first.history_rows.with_columns(run_id=pl.lit("earlier")).write_parquet(out / "history.parquet")
    again = tables.write_report(out)
    section = past_runs(again)
    assert section is not None
    figure = next(all_figures(section.blocks))
    assert "widened by as much as texts repeat in this run" in figure.legend
    (drawn,) = (rows for rows in figure.spec["datasets"].values() if "low" in rows[0])
    row = again.headline.row(0, named=True)
    assert [(d["low"], d["high"]) for d in drawn] == [pytest.approx((row["low"], row["high"]), abs=1e-9)] * 2


def test_a_difference_that_one_text_makes_is_not_established() -> None:
    """One text of 900 items speaks for A, 40 of one item each for B: neither is called better."""
    a = [True] * 900 + [False] * 40 + [True] * 60
    b = [False] * 900 + [True] * 40 + [True] * 60
    keys = np.array([0] * 900 + [*range(1, 101)], dtype=np.uint64)
    copies = np.array([900] * 900 + [1] * 100, dtype=np.int32)
    counter = AgreementCounter([Arm("a", "sum"), Arm("b", "sum")])
    counter.add(np.array([a, b]), copies, keys)
    agreement = counter.finish()
    (row,) = compare_pairs(all_pairs(agreement, agreement.arms), 1).to_dicts()
    assert (row["only_a"], row["only_b"]) == (900, 40)
    assert not row["established"]
    assert row["low"] < 0 < row["high"]
    assert row["p"] > 0.05


def strip_new_columns(out: Path) -> Run:
    """The run with predictions as they were written before they had `copies` and `gold_ids`."""
    path = out / "report" / "predictions.parquet"
    pl.read_parquet(path).drop("copies", "gold_ids").write_parquet(path)
    return load_run(out)


def test_two_runs_are_compared_text_by_text_old_ones_too(tmp_path: Path) -> None:
    """With every row three times the tests say what they say once, and the header how many texts are distinct."""
    items = tables.make_items(80, np.random.default_rng(0))
    thrice = tables.repeat(items, [3] * 80)
    runs = {}
    for kind, own in (("once", items), ("thrice", thrice)):
        for seed in (1, 2):
            out = tables.write_run(tmp_path / f"{kind}-{seed}", prompts=("answer",), seed=seed, items=own)
            tables.write_report(out)
            runs[kind, seed] = strip_new_columns(out) if seed == 2 else load_run(out)
    once, found = (compare_runs(runs[kind, 1], runs[kind, 2]) for kind in ("once", "thrice"))
    assert (found.num_common, found.num_distinct) == (240, 80)
    over_items = ["n", "both", "only_a", "only_b", "neither", "design_effect"]
    assert_frame_equal(found.comparisons.drop(over_items), once.comparisons.drop(over_items), abs_tol=1e-9)
    assert found.comparisons["only_a"].item() == 3 * once.comparisons["only_a"].item() > 0
    printed, once_printed = (render_markdown(compare_document(comparison)) for comparison in (found, once))
    assert "In both: 240 items, by their text (80 distinct texts)" in printed
    assert "Texts repeat here" in printed
    assert "Texts repeat here" not in once_printed


def test_predictions_of_before_are_compared_for_changes(run: Path, report: Report) -> None:
    predictions = load_run(run).predictions
    old = predictions.drop("copies", "gold_ids")
    changed = changed_predictions(old, predictions)
    assert changed["num_changed"].unique().to_list() == [0]
    assert changed["num_common"].unique().to_list() == [90]


def test_blocks_count_the_copies_of_the_whole_run(run: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text's items lie in many blocks."""
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 100)
    cut = tables.write_report(run)
    exact = ["prompt", "rule", "num_correct", "low", "high", "num_distinct", "num_effective"]
    assert cut.summary.select(exact).equals(report.summary.select(exact))
    assert json.dumps(cut.length.rows()) == json.dumps(report.length.rows())
