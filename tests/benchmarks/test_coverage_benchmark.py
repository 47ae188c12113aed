"""The simulations of coverage judge as the report does, and its intervals keep what they promise, on small cases."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.reporting.agreement import AgreementCounter, Arm
from pipeline.reporting.comparisons import all_pairs, compare_pairs, distinct_arms, num_pairs, rank_arms
from pipeline.reporting.stats import critical_value
from tests.benchmarks.coverage import main
from tests.benchmarks.coverage_calibration import binned
from tests.benchmarks.coverage_exact import (
    binomial,
    bootstrap_ends,
    coverage,
    every_outcome,
    tango_ends,
    wilson_coverage,
)
from tests.benchmarks.coverage_families import draw_commonest, draw_family, draw_right, judge
from tests.benchmarks.coverage_single import FINE
from tests.benchmarks.coverage_words import KINDS, count_sentences, draw_findings, make_base


def test_tango_covers_at_least_93_percent_over_the_grid() -> None:
    """Exact, at n = 50: up to nine in ten discordant items, and every tilt to one side."""
    outcomes = every_outcome(50)
    ends = tango_ends(outcomes, critical_value(1))
    for discordant, tilt in product(np.linspace(0.01, 0.9, 50), np.linspace(-1, 1, 21)):
        chances = outcomes.chances(discordant, tilt * discordant)
        assert chances.sum() == pytest.approx(1, abs=1e-9)
        assert coverage(ends, chances, tilt * discordant) >= 0.93


def test_the_bootstrap_did_not_where_few_items_differ() -> None:
    outcomes = every_outcome(50)
    assert coverage(bootstrap_ends(outcomes), outcomes.chances(0.02, 0.01), 0.01) < 0.6


@pytest.mark.parametrize("num", [1, 3, 10, 190])
def test_nothing_is_called_worse_more_often_than_5_4_percent_where_nothing_differs(num: int) -> None:
    """Exact, of one pair times the size of its family, which bounds what is said of any."""
    for n, discordant in product((20, 50), (0.02, 0.1, 0.3, 0.6)):
        outcomes = every_outcome(n)
        missed = 1 - coverage(tango_ends(outcomes, critical_value(num)), outcomes.chances(discordant, 0.0), 0.0)
        assert num * missed <= 0.054


def test_a_heavy_text_does_not_make_the_interval_too_short() -> None:
    """60 texts and one of fifteen items, exact."""
    outcomes = every_outcome(60, heavy=15)
    ends = tango_ends(outcomes, critical_value(1))
    for discordant, tilt in product((0.05, 0.1, 0.3), (0, 0.5, 1)):
        assert coverage(ends, outcomes.chances(discordant, tilt * discordant), tilt * discordant) >= 0.92


def test_wilson_is_right_on_average_and_dips_at_the_ends() -> None:
    found = [wilson_coverage(50, p) for p in FINE]
    assert np.mean(found) == pytest.approx(0.95, abs=0.01)
    assert 0.9 < min(found) < 0.93


def test_the_bootstrap_by_its_transform_is_that_of_draws() -> None:
    """Twenty thousand multinomial draws of one table, up to a step of an item."""
    outcomes = every_outcome(30, 12)
    place = int(np.flatnonzero((outcomes.only_a == 7) & (outcomes.only_b == 2))[0])
    drawn = np.random.default_rng(0).multinomial(30, [7 / 30, 2 / 30, 21 / 30], 20_000)
    expected = np.quantile((drawn[:, 0] - drawn[:, 1]) / 30, [0.025, 0.975])
    assert bootstrap_ends(outcomes)[place] == pytest.approx(expected, abs=1 / 30 + 1e-9)


def test_a_binomial_is_that_of_many_throws() -> None:
    thrown = np.bincount(np.random.default_rng(0).binomial(10, 0.3, 100_000), minlength=11) / 100_000
    np.testing.assert_allclose(binomial(10, 0.3), thrown, atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_judges_as_the_report_does(seed: int) -> None:
    """Set by set the same arms are worse than the same leader, and the same intervals hold, as of `rank_arms`."""
    truth, n = np.linspace(0.4, 0.9, 6), 60
    right = draw_right(np.random.default_rng(seed), truth.reshape(3, 2), n, 20, (0.5, 0.3)).reshape(20, 6, n)
    all_hold, leader_holds, *_, is_worse = judge(right, truth)
    arms = [Arm(f"prompt {i}", "sum") for i in range(6)]
    for number, own in enumerate(right):
        counter = AgreementCounter(arms)
        counter.add(own, np.ones(n, np.int64), np.arange(n, dtype=np.uint64))
        agreement = counter.finish()
        size = num_pairs(len(distinct_arms(agreement, arms)))
        ranked = rank_arms(agreement, arms, size)
        worse = set(ranked.filter(standing="worse")["prompt"])
        assert {arms[i].prompt for i in np.flatnonzero(is_worse[number])} == worse
        true = dict(zip((arm.prompt for arm in arms), truth, strict=True))
        inside = [
            row["low"] <= true[ranked["prompt"][0]] - true[row["prompt"]] <= row["high"]
            for row in ranked[1:].iter_rows(named=True)
        ]
        assert leader_holds[number] == all(inside)
        pairs = compare_pairs(all_pairs(agreement, arms), size).iter_rows(named=True)
        held = [row["low"] <= true[row["prompt_a"]] - true[row["prompt_b"]] <= row["high"] for row in pairs]
        assert all_hold[number] == all(held)


def test_all_intervals_of_a_family_hold_together() -> None:
    """500 data sets of five prompts and seven rules, of which nothing differs, and of prompts that do."""
    nothing = draw_family(np.full((5, 7), 0.7), 100, 500, (0.4, 0.5))
    assert nothing.all_hold >= 0.95
    assert nothing.any_worse <= 0.05
    gaps = draw_family(np.linspace(0.5, 0.8, 5)[:, None], 100, 500)
    assert gaps.all_hold >= 0.94
    assert gaps.best_worse <= 0.01
    assert gaps.power > 0.3


def test_a_model_far_above_the_commonest_class_is_called_better() -> None:
    held, better, worse = draw_commonest([0.7, 0.3], [0.95, 0.95], 200, 500, critical_value(1))
    assert held > 0.9
    assert (better, worse) == (1.0, 0.0)


def test_confidences_fall_into_the_bins_of_the_report() -> None:
    """(low, high] of 15 equal bins, each data set for itself."""
    found = binned(np.array([[1 / 15, 0.5, 1.0], [0.99, 0.99, 0.01]]), np.ones((2, 3)))
    assert found[0].nonzero()[0].tolist() == [0, 7, 14]
    assert (found[1, 0], found[1, 14]) == (1, 2)


def test_where_nothing_differs_no_prompt_is_called_the_best() -> None:
    """60 data sets of four prompts that are equally right: the report says so of nearly all of them."""
    found = draw_findings(make_base(), np.full(4, 0.7), 80, 60, (0.5, 0.0))
    counts = count_sentences(found)
    assert counts[KINDS[0]] >= 54
    assert counts["one is the best"] == 0


def test_the_benchmark_writes_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("single", "together"):
        monkeypatch.setattr(f"tests.benchmarks.coverage_{module}.SIZES", (10, 20))
    main(["--sets", "20", "--families", "10", "--words", "3", "--results", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    assert "## Coverage of the intervals" in text
    assert text.count("\n\n**") == 9
    assert "nan" not in text
