"""Items with several right classes: any of them is right, and what needs one class is over the others."""

from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, confusion_matrix, f1_score
from statsmodels.stats.proportion import proportion_confint

from pipeline.analysis import Run, load_run
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.document import WrongItems, all_figures, find_items
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.notes import warnings
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from tests.pipeline.reporting import tables
from tests.pipeline.reporting.pages import read_html, read_items

PROMPTS = ("answer", "topic")
NEEDS_ONE = {"balanced_accuracy", "macro_f1", "brier", "precision", "recall", "f1"}


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    """160 items: about a third with several right classes, and twenty without any gold label."""
    rng = np.random.default_rng(8)
    found = tables.with_several(tables.make_items(160, rng), rng, 0.3)
    known = pl.when(pl.col("item_id") >= 20)
    return found.with_columns(known.then(pl.col(name)).alias(name) for name in ("gold_id", "gold", "gold_ids"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, items: pl.DataFrame) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("several"), prompts=PROMPTS, seed=4, items=items, signal=1.0)


@pytest.fixture(scope="module")
def all_several(tmp_path_factory: pytest.TempPathFactory) -> Report:
    rng = np.random.default_rng(9)
    every = tables.with_several(tables.make_items(50, rng), rng, 1.0)
    return tables.run_and_report(tmp_path_factory.mktemp("all"), prompts=PROMPTS, items=every, signal=0.0)


def of(rows: list[dict[str, Any]], prompt: str, rule: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["prompt"], row["rule"]) == (prompt, rule)]


def test_a_prediction_of_any_right_class_is_correct(rows: list[dict[str, Any]], items: pl.DataFrame) -> None:
    """Each verdict against a loop over items.parquet; rows keep what that says of them."""
    by_id = {row["item_id"]: row for row in items.to_dicts()}
    for row in rows:
        item = by_id[row["item_id"]]
        assert (row["gold_id"], row["gold"], row["gold_ids"]) == (item["gold_id"], item["gold"], item["gold_ids"])
        right = item["gold_ids"] or ([] if item["gold_id"] is None else [item["gold_id"]])
        assert row["correct"] == (row["predicted_id"] in right if right else None)
        assert row["copies"] == (1 if right else None)
    verdicts = {row["correct"] for row in rows if row["gold_ids"]}
    assert verdicts == {True, False}


def test_blocks_find_the_right_classes_of_their_own_items(
    run: Path, report: Report, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 100)
    tables.write_report(run)
    exact = ("item_id", "prompt", "rule", "predicted", "gold_ids", "correct")
    again = load_run(run).predictions.select(exact).collect()
    assert again.rows() == [tuple(row[name] for name in exact) for row in rows]


def test_accuracy_is_over_all_gold_and_classes_over_one(report: Report, rows: list[dict[str, Any]]) -> None:
    """Accuracy and its interval against a loop, what needs one class against scikit-learn on the others."""
    for found in report.summary.iter_rows(named=True):
        own = of(rows, found["prompt"], found["rule"])
        judged = [row["correct"] for row in own if row["correct"] is not None]
        assert (found["num_gold"], found["num_correct"]) == (140, sum(judged))
        assert found["accuracy"] == pytest.approx(sum(judged) / 140)
        expected = proportion_confint(sum(judged), 140, method="wilson")
        assert (found["low"], found["high"]) == pytest.approx(expected)
        one = [row for row in own if row["gold_id"] is not None]
        gold, predicted = ([row[name] for row in one] for name in ("gold_id", "predicted_id"))
        assert found["num_single"] == len(one) == report.num_single < 140
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, predicted))
        assert found["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro"))
        chosen = (pl.col("prompt") == found["prompt"]) & (pl.col("rule") == found["rule"])
        matrix = report.confusion.filter(chosen)["n"].to_numpy().reshape(4, 4)
        np.testing.assert_array_equal(matrix, confusion_matrix(gold, predicted, labels=range(4)))
        shares = report.histogram.filter(chosen)["gold_share"].to_list()
        assert shares == pytest.approx([gold.count(i) / len(gold) for i in range(4)])


def test_brier_is_over_items_with_one_right_class_and_calibration_over_all(
    run: Path, report: Report, rows: list[dict[str, Any]]
) -> None:
    """The shares rebuilt from the score table; calibration, coverage and length against `correct`."""
    scores = load_run(run).scores.filter(pl.col("prompt") == "answer").sort("item_id", "label_id").collect()
    logprob = scores["logprob"].to_numpy().astype(np.float64).reshape(-1, 4)
    shares = np.exp(logprob) / np.exp(logprob).sum(axis=1, keepdims=True)
    own = of(rows, "answer", "sum")
    one = [i for i, row in enumerate(own) if row["gold_id"] is not None]
    expected = brier_score_loss([own[i]["gold_id"] for i in one], shares[one], labels=range(4), scale_by_half=False)
    found = report.headline.row(0, named=True)
    assert found["brier"] == pytest.approx(expected)
    judged = [row for row in own if row["correct"] is not None]
    bins: dict[int, list[dict[str, Any]]] = {}
    for row in judged:
        bins.setdefault(int(np.ceil(row["confidence"] * 15)), []).append(row)
    gaps = [abs(sum(row["correct"] - row["confidence"] for row in inside)) for inside in bins.values()]
    assert found["ece"] == pytest.approx(sum(gaps) / 140)
    answer = pl.col("prompt") == "answer"
    assert report.coverage.filter(answer, pl.col("rule") == "sum")["accuracy"][-1] == pytest.approx(found["accuracy"])
    assert report.length.filter(answer)["n"].sum() == 140
    assert report.margins.filter(answer)["n"].sum() == len(one)
    assert report.margins["gold"].null_count() == 0


def test_metrics_say_over_how_many_items_they_are(report: Report) -> None:
    n = dict(
        report.metrics.filter(pl.col("label").is_null(), pl.col("rule") == "sum").select("metric", "n").iter_rows()
    )
    over_one = {name for name in n if name in NEEDS_ONE}
    assert {n[name] for name in over_one} == {report.num_single}
    assert {n[name] for name in ("accuracy", "num_correct", "ece", "accuracy_at_80")} == {140}
    assert {n[name] for name in ("ties", "truncated")} == {160}


def test_the_report_says_how_many_items_have_several(run: Path, report: Report) -> None:
    line = (
        f"{140 - report.num_single} of 140 items have several right classes, and a prediction of any of them is right. "
        f"They are left out of what needs one right class, which is over the other {report.num_single}: confusions"
    )
    markdown = (run / "report" / "report.md").read_text()
    assert line in tables.summary_of(markdown)
    assert "20 without a gold label" in markdown


def test_the_line_in_charts_is_the_commonest_class_right_also_where_it_is_one_of_several(
    report: Report, rows: list[dict[str, Any]]
) -> None:
    """With two of four classes right, either answer is."""
    golds = [row["gold_ids"] or [row["gold_id"]] for row in of(rows, "answer", "sum") if row["correct"] is not None]
    assert report.chance == pytest.approx(np.mean([len(ids) for ids in golds]) / 4)
    commonest = max(sum(i in ids for ids in golds) for i in range(4)) / len(golds)
    assert report.reference[0] == commonest > 0.25
    figures = [figure for section in make_document(report).sections for figure in all_figures(section.blocks)]
    for figure in (f for f in figures if f.id.startswith(("accuracy", "rules"))):
        drawn = [data[0]["chance"] for data in figure.spec["datasets"].values() if "chance" in data[0]]
        assert drawn == [pytest.approx(commonest)]


def test_wrong_items_name_all_that_would_have_been_right(run: Path, report: Report, items: pl.DataFrame) -> None:
    """In words in both reports; the page marks the score of each of them."""
    names = dict(zip(range(4), tables.AG_NEWS, strict=True))
    golds = {row["item_id"]: row["gold_ids"] or [row["gold_id"]] for row in items.to_dicts()}
    for row in report.wrong.iter_rows(named=True):
        right = [names[i] for i in golds[row["item_id"]]]
        assert row["right_ids"] == golds[row["item_id"]]
        assert row["gold"] == " or ".join(right)
        assert row["predicted"] not in right
    several = report.wrong.filter(pl.col("right_ids").list.len() > 1)
    assert several.height > 0
    shown = tables.first_wrong(report)["gold"].to_list()
    markdown = (run / "report" / "report.md").read_text()
    assert any(" or " in gold for gold in shown)
    assert all(f"gold **{gold}**" in markdown for gold in shown)
    items_shown = find_items(make_document(report))
    assert items_shown is not None
    (wrong,) = (block for block in items_shown.instead if isinstance(block, WrongItems))
    first = tables.first_wrong(report)
    for row, right_ids in zip(wrong.rows, first["right_ids"], strict=True):
        right = [names[i] for i in right_ids]
        assert [score.label for score in row.scores if score.mark == "gold"] == sorted(
            right, key=[score.label for score in row.scores].index
        )
    page = read_html((run / "report" / "report.html").read_text())
    for item in read_items(page):
        assert item["gold"] == ([names[i] for i in golds[item["id"]] if i is not None] or None)


def test_where_every_item_has_several_what_needs_one_class_is_left_out(all_several: Report) -> None:
    """No figure is nan or made of 0 items, and nothing divides by zero."""
    assert (all_several.num_gold, all_several.num_single, all_several.has_gold) == (50, 0, True)
    metrics = all_several.metrics
    assert not set(metrics["metric"]) & NEEDS_ONE
    assert {"accuracy", "num_correct", "ece", "accuracy_at_50", "share", "label_mass"} <= set(metrics["metric"])
    assert not metrics["value"].is_nan().any()
    assert (metrics["n"] > 0).all()
    assert all_several.histogram["gold_share"].null_count() == all_several.histogram.height
    assert all_several.verdict.pairs["n"].to_list() == [50]
    assert all_several.margins.is_empty()
    assert all_several.history_rows["num_gold"].unique().to_list() == [50]


def test_both_reports_of_only_several_are_whole(all_several: Report) -> None:
    out = Path(all_several.out)
    markdown, html = ((out / "report" / name).read_text() for name in ("report.md", "report.html"))
    page = read_html(html)
    line = "Every item with a gold label (50) has several right classes, and a prediction of any of them is right."
    assert line in markdown
    assert line in page.text
    for text in (markdown, page.text):
        assert "None" not in text.partition("## Confidently wrong")[0].partition("vega")[0]
        assert "nan" not in text.partition("vega")[0].split()
    assert "Classes under" not in markdown
    assert "What answer predicts:" in markdown
    assert "Margins by" not in markdown
    captions = [table.all("caption")[0].text for table in page.all("table")]
    assert "What answer predicts" in captions
    assert not [caption for caption in captions if caption.startswith(("Classes under", "Gold against", "Margins by"))]
    for section in make_document(all_several).sections:
        for figure in all_figures(section.blocks):
            alt.LayerChart.from_dict(figure.spec, validate=True)


def test_a_column_without_values_changes_nothing(tmp_path: Path) -> None:
    """Outputs of before have no such column; a data set of single classes has it empty."""
    out = tables.write_run(tmp_path, 60)
    before, rows = tables.write_report(out), load_run(out).predictions.collect()
    path = out / "items.parquet"
    pl.read_parquet(path).with_columns(gold_ids=pl.lit(None, pl.List(pl.Int16))).write_parquet(path)
    after = tables.write_report(out)
    assert_frame_equal(load_run(out).predictions.collect(), rows, abs_tol=1e-12)
    assert_frame_equal(after.metrics, before.metrics, abs_tol=1e-12)
    assert warnings(after) == warnings(before)


def make_run(out: Path, items: pl.DataFrame, seed: int, names: tuple[str, ...] = tables.AG_NEWS) -> Run:
    tables.run_and_report(out, prompts=("answer",), seed=seed, items=items, label_names=names, words=names)
    return load_run(out)


def test_runs_with_the_same_right_classes_are_compared_on_them(tmp_path: Path, items: pl.DataFrame) -> None:
    """By name: another order of the classes is the same classes; another list is another gold label."""
    a = make_run(tmp_path / "a", items, 1)
    turned = pl.element().replace_strict([0, 1, 2, 3], [3, 2, 1, 0], return_dtype=pl.Int16)
    other_ids = items.with_columns(gold_id=3 - pl.col("gold_id"), gold_ids=pl.col("gold_ids").list.eval(turned))
    b = make_run(tmp_path / "b", other_ids, 2, tables.AG_NEWS[::-1])
    found = compare_runs(a, b)
    assert found.num_gold_differs == 0
    right = [
        dict(r.predictions.filter(pl.col("rule") == "sum").select("item_id", "correct").collect().rows())
        for r in (a, b)
    ]
    judged = [i for i, verdict in right[0].items() if verdict is not None]
    row = found.comparisons.row(0, named=True)
    assert row["n"] == len(judged) == 140
    assert row["only_a"] == sum(right[0][i] and not right[1][i] for i in judged)
    assert row["only_b"] == sum(right[1][i] and not right[0][i] for i in judged)


def test_runs_with_other_right_classes_are_not(tmp_path: Path, items: pl.DataFrame) -> None:
    """A class more, one instead of several, or no gold label at all: counted and left out."""
    changed = items.with_columns(
        gold_ids=pl.when(pl.col("item_id") < 60).then(pl.col("gold_ids").list.head(1)).otherwise("gold_ids")
    )
    several = items.filter(pl.col("gold_ids").is_not_null(), pl.col("item_id") < 60).height
    found = compare_runs(make_run(tmp_path / "a", items, 1), make_run(tmp_path / "b", changed, 2))
    assert found.num_gold_differs == several > 0
    assert found.comparisons["n"].item() == 140 - several
    assert (
        " or "
        in found.flips.filter(
            pl.col("item_id_a").is_in(items.filter(pl.col("gold_ids").is_not_null())["item_id"].implode())
        )["gold"][0]
    )
    printed = render_markdown(compare_document(found))
    assert f"{several} of them have another gold label in B" in printed
    assert "None" not in printed
