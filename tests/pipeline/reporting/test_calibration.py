"""Reliability, risk-coverage and margins against loops over the items."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from pipeline.analysis import load_run
from pipeline.reporting.calibration import NUM_BINS, risk_coverage
from pipeline.reporting.report import Report
from tests.pipeline.reporting import tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), 400, ("answer",), seed=9)


def rows_of(run: Path, rule: str) -> pl.DataFrame:
    return load_run(run).predictions.filter(pl.col("rule") == rule).sort("item_id").collect()


@pytest.mark.parametrize("rule", ["sum", "mean_token", "logit", "batch"])
def test_reliability_is_that_of_scikit_learn(run: Path, report: Report, rule: str) -> None:
    """Accuracy and mean confidence of the bins that have items."""
    rows, bins = rows_of(run, rule), report.reliability.filter(pl.col("rule") == rule)
    right, sure = calibration_curve(rows["correct"].to_numpy(), rows["confidence"].to_numpy(), n_bins=NUM_BINS)
    np.testing.assert_allclose(bins["accuracy"], right)
    np.testing.assert_allclose(bins["confidence"], sure)


@pytest.mark.parametrize("rule", ["sum", "mean_token", "logit", "batch"])
def test_calibration_error_is_the_mean_gap_of_the_bins(run: Path, report: Report, rule: str) -> None:
    rows = rows_of(run, rule)
    gap = 0.0
    for number in range(NUM_BINS):
        inside = rows.filter(pl.col("confidence") > number / NUM_BINS, pl.col("confidence") <= (number + 1) / NUM_BINS)
        if inside.height:
            gap += inside.height / rows.height * abs(inside["correct"].mean() - inside["confidence"].mean())
    assert report.summary.filter(pl.col("rule") == rule)["ece"].item() == pytest.approx(gap)


def slow_accuracy(confidence: list[float], correct: list[bool], kept: int) -> float:
    """Mean over the orders that break ties at random: whole groups first, then the share of the group that is cut."""
    right, left = 0.0, kept
    for value in sorted(set(confidence), reverse=True):
        group = [c for s, c in zip(confidence, correct, strict=True) if s == value]
        taken = min(left, len(group))
        right += taken * sum(group) / len(group)
        left -= taken
    return right / kept


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_risk_coverage_is_that_of_a_loop_with_ties(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = [c for c, _ in rows], [r for _, r in rows]
    curve = risk_coverage(np.array(confidence), np.array(correct))
    assert curve.height == 100
    for kept, accuracy in curve.select("n", "accuracy").iter_rows():
        assert accuracy == pytest.approx(slow_accuracy(confidence, correct, kept))
    assert curve["n"][-1] == len(rows)
    assert curve["accuracy"][-1] == pytest.approx(sum(correct) / len(rows))


def test_accuracy_at_80_percent_is_that_of_the_surest_80_percent(run: Path, report: Report) -> None:
    rows = rows_of(run, "sum").sort("confidence", descending=True).head(320)
    assert report.headline["accuracy_at_80"].item() == pytest.approx(rows["correct"].mean())


def test_margins_count_every_item_on_the_side_of_its_verdict(run: Path, report: Report) -> None:
    """Wrong predictions have a negative margin; the bins hold all items of each class."""
    rows = rows_of(run, "sum")
    assert report.margins["n"].sum() == rows.height
    by_class = dict(report.margins.group_by("gold").agg(pl.col("n").sum()).iter_rows())
    assert by_class == dict(rows.group_by("gold").agg(pl.len()).iter_rows())
    wrong = report.margins.filter(pl.col("bin_high") <= 0)["n"].sum()
    assert wrong <= (~rows["correct"]).sum()
