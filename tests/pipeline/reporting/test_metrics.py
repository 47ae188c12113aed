"""Figures against scikit-learn, one prompt and rule at a time, on random runs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from pipeline.analysis import load_run
from pipeline.reporting import metrics
from pipeline.reporting.report import Report
from tests.pipeline.reporting import tables

PROMPTS = ("answer", "topic")
EACH = [
    (prompt, rule) for prompt in PROMPTS for rule in ("sum", "mean_byte", "logit", "notebook", "contextual", "batch")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), 250, PROMPTS, seed=4, notebook=True)


def rows_of(run: Path, prompt: str, rule: str) -> pl.DataFrame:
    chosen = load_run(run).predictions.filter(pl.col("prompt") == prompt, pl.col("rule") == rule)
    return chosen.sort("item_id").collect()


def only(frame: pl.DataFrame, prompt: str, rule: str) -> pl.DataFrame:
    return frame.filter(pl.col("prompt") == prompt, pl.col("rule") == rule)


@pytest.mark.parametrize(("prompt", "rule"), EACH)
def test_figures_are_those_of_scikit_learn(run: Path, report: Report, prompt: str, rule: str) -> None:
    rows, found = rows_of(run, prompt, rule), only(report.summary, prompt, rule).row(0, named=True)
    gold, predicted = rows["gold_id"].to_numpy(), rows["predicted_id"].to_numpy()
    assert found["num_gold"] == found["num_items"] == 250
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro"))


@pytest.mark.parametrize(("prompt", "rule"), EACH)
def test_classes_and_confusions_are_those_of_scikit_learn(run: Path, report: Report, prompt: str, rule: str) -> None:
    rows = rows_of(run, prompt, rule)
    gold, predicted = rows["gold_id"].to_numpy(), rows["predicted_id"].to_numpy()
    classes = only(report.classes, prompt, rule)
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=range(4), zero_division=0)
    np.testing.assert_allclose(classes["precision"].fill_null(0.0), precision)
    np.testing.assert_allclose(classes["recall"].fill_null(0.0), recall)
    np.testing.assert_allclose(classes["f1"].fill_null(0.0), f1)
    assert classes["support"].to_list() == support.tolist()
    matrix = only(report.confusion, prompt, rule)["n"].to_numpy().reshape(4, 4)
    np.testing.assert_array_equal(matrix, confusion_matrix(gold, predicted, labels=range(4)))


def test_brier_score_is_that_of_scikit_learn(run: Path, report: Report) -> None:
    """On the softmax of the `sum` rule, rebuilt here from the score table."""
    scores = load_run(run).scores.filter(pl.col("prompt") == "answer").sort("item_id", "label_id").collect()
    logprob = scores["logprob"].to_numpy().astype(np.float64).reshape(-1, 4)
    shares = np.exp(logprob) / np.exp(logprob).sum(axis=1, keepdims=True)
    gold = scores["gold_id"].to_numpy().reshape(-1, 4)[:, 0]
    expected = brier_score_loss(gold, shares, labels=range(4), scale_by_half=False)
    assert only(report.summary, "answer", "sum")["brier"].item() == pytest.approx(expected)
    mass = report.mass.filter(pl.col("prompt") == "answer")["label_mass"].item()
    assert mass == pytest.approx(np.exp(logprob).sum(axis=1).mean())


@pytest.mark.parametrize(("prompt", "rule"), EACH)
def test_histogram_counts_every_prediction(run: Path, report: Report, prompt: str, rule: str) -> None:
    rows, histogram = rows_of(run, prompt, rule), only(report.histogram, prompt, rule)
    expected = np.bincount(rows["predicted_id"].to_numpy(), minlength=4)
    assert histogram["n"].to_list() == expected.tolist()
    assert histogram["share"].sum() == pytest.approx(1.0)
    assert histogram["gold_share"].sum() == pytest.approx(1.0)


def test_collapse_onto_one_label_is_found_and_said() -> None:
    """One label takes nine in ten predictions and has a quarter of the items."""
    counts = pl.DataFrame(
        {
            "prompt": "p",
            "rule": "logit",
            "label_id": [0, 1],
            "label": ["World", "Sports"],
            "n": [90, 10],
            "share": [0.9, 0.1],
            "gold_share": [0.25, 0.75],
        }
    )
    assert metrics.collapsed(counts)["label"].to_list() == ["World"]
    fair = counts.with_columns(gold_share=pl.Series([0.9, 0.1]))
    assert metrics.collapsed(fair).is_empty()


@pytest.mark.parametrize(("share", "gold_share", "said"), [(0.999, 0.5, True), (0.999, 0.7, True), (0.95, 0.9, False)])
def test_collapse_is_said_of_what_exceeds_the_gold_share(share: float, gold_share: float, said: bool) -> None:
    """Two balanced classes collapse too; a label that is nearly all of the data does not."""
    histogram = pl.DataFrame({"label": ["yes"], "share": [share], "gold_share": [gold_share]})
    assert (metrics.collapsed(histogram).height == 1) == said


def test_labels_never_predicted_have_no_precision(tmp_path: Path) -> None:
    """0 of 0 is no figure; it must not become 0 or NaN in the table."""
    report = tables.run_and_report(tmp_path, 2, ("answer",))
    classes = report.classes
    assert classes.filter(pl.col("num_predicted") == 0)["precision"].null_count() > 0
    assert classes.filter(pl.col("num_predicted") == 0)["precision"].drop_nulls().is_empty()
    for column in ("precision", "recall", "f1"):
        assert not classes[column].is_nan().any()


def test_length_groups_hold_every_item_once_and_do_not_overlap(report: Report) -> None:
    for prompt in PROMPTS:
        groups = report.length.filter(pl.col("prompt") == prompt)
        assert groups["n"].sum() == 250
        assert (groups["tokens_low"][1:] > groups["tokens_high"][:-1]).all()
        right = (groups["accuracy"] * groups["n"]).sum()
        assert right == pytest.approx(only(report.summary, prompt, "sum")["num_correct"].item())


def test_tidy_metrics_have_one_row_per_key_and_no_gaps(report: Report) -> None:
    keys = report.metrics.select("prompt", "rule", "metric", "label")
    assert keys.is_duplicated().sum() == 0
    assert report.metrics["value"].null_count() == 0
    assert {"accuracy", "balanced_accuracy", "macro_f1", "ece", "brier", "accuracy_at_80", "ties", "truncated",
            "label_mass", "precision", "recall", "f1", "share"} <= set(report.metrics["metric"])  # fmt: skip
    share = report.metrics.filter(pl.col("metric") == "share")
    assert share["n"].unique().to_list() == [250]
    with_ends = report.metrics.drop_nulls(["low", "high"])["metric"]
    assert set(with_ends) == {"accuracy", "precision", "recall"}
    accuracy = report.metrics.filter(pl.col("metric") == "accuracy")
    assert (accuracy["low"] < accuracy["value"]).all()
    assert (accuracy["value"] < accuracy["high"]).all()
