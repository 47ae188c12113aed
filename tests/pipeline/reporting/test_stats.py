"""The statistics of our own, each against scipy or statsmodels, and their coverage by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pipeline.reporting.stats import (
    Pairs,
    holm,
    items_to_settle,
    least_discordant,
    mcnemar_exact,
    paired_bootstrap,
    paired_standard_error,
    wilson_interval,
)

counts = st.integers(0, 60)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000), st.data())
def test_wilson_interval_is_that_of_statsmodels(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval = wilson_interval(k, n)
    low, high = proportion_confint(k, n, method="wilson")
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)
    assert 0 <= interval.low <= k / n <= interval.high <= 1


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(("p", "n"), [(0.5, 50), (0.83, 400), (0.25, 240)])
def test_wilson_interval_covers_the_truth_19_times_in_20(p: float, n: int) -> None:
    """Over 2,000 draws the interval holds the true accuracy in 95 % of them, within the steps a binomial allows."""
    draws = np.random.default_rng(1).binomial(n, p, 2_000)
    inside = [interval.low <= p <= interval.high for interval in (wilson_interval(int(k), n) for k in draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(counts, counts, counts, counts)
def test_mcnemar_is_the_exact_test_of_scipy_and_statsmodels(both: int, a: int, b: int, neither: int) -> None:
    p = mcnemar_exact(a, b)
    if a + b:
        assert p == pytest.approx(scipy.stats.binomtest(a, a + b).pvalue, rel=1e-9)
        assert p == pytest.approx(mcnemar([[both, a], [b, neither]], exact=True).pvalue, rel=1e-9)
    assert p == mcnemar_exact(b, a)


@pytest.mark.parametrize(("a", "b"), [(500_000, 503_000), (1_200_000, 1_200_100), (0, 900), (3, 2_000_000), (0, 0)])
def test_mcnemar_holds_at_millions_of_items(a: int, b: int) -> None:
    expected = scipy.stats.binomtest(a, a + b).pvalue if a + b else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(expected, rel=1e-7, abs=1e-300)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts, counts, counts, counts)
def test_paired_standard_error_is_that_of_the_mean_difference(both: int, a: int, b: int, neither: int) -> None:
    """The oracle writes the items out: 1, -1 or 0 each."""
    pairs = Pairs(both, a, b, neither)
    if pairs.num_items < 2:
        assert math.isnan(paired_standard_error(pairs))
        return
    differences = [1.0] * a + [-1.0] * b + [0.0] * (both + neither)
    assert paired_standard_error(pairs) == pytest.approx(scipy.stats.sem(differences), abs=1e-12)


def test_bootstrap_on_the_table_is_the_bootstrap_over_items() -> None:
    """Redrawing the items one by one gives the same interval, up to the noise of 10,000 draws."""
    pairs = Pairs(120, 30, 15, 35)
    items = np.repeat([1, -1, 0], [30, 15, 155])
    rng = np.random.default_rng(5)
    means = [rng.choice(items, len(items)).mean() for _ in range(10_000)]
    interval = paired_bootstrap(pairs)
    assert interval.low == pytest.approx(np.quantile(means, 0.025), abs=0.006)
    assert interval.high == pytest.approx(np.quantile(means, 0.975), abs=0.006)


def test_bootstrap_is_the_same_each_time() -> None:
    assert paired_bootstrap(Pairs(10, 4, 3, 2)) == paired_bootstrap(Pairs(10, 4, 3, 2))
    assert math.isnan(paired_bootstrap(Pairs(0, 0, 0, 0)).low)


def test_bootstrap_covers_the_true_difference_19_times_in_20() -> None:
    """Tables drawn from known shares: the interval holds the true difference in 95 % of 2,000 of them."""
    shares = np.array([0.6, 0.16, 0.1, 0.14])
    found = np.random.default_rng(2).multinomial(1_000, shares, 2_000)
    intervals = [paired_bootstrap(Pairs(*map(int, cells)), num_draws=1_000) for cells in found]
    inside = np.mean([i.low <= 0.06 <= i.high for i in intervals])
    assert inside == pytest.approx(0.95, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 80), st.integers(0, 80), st.integers(100, 400))
def test_more_items_are_needed_for_smaller_differences(a: int, b: int, same: int) -> None:
    needed = items_to_settle(Pairs(same, a, b, 0))
    closer = items_to_settle(Pairs(same, a + b, b + a, 0))
    assert closer is None
    assert (needed is None) == (a == b)


def test_the_items_said_to_settle_a_difference_do_so_four_times_in_five() -> None:
    """At the promised number of items, tables drawn from the measured shares are significant in about 80 % of cases."""
    pairs = Pairs(240, 24, 12, 24)
    needed = items_to_settle(pairs)
    assert needed is not None
    shares = np.array([pairs.both, pairs.only_a, pairs.only_b, pairs.neither]) / pairs.num_items
    found = np.random.default_rng(3).multinomial(needed, shares, 2_000)
    power = np.mean([mcnemar_exact(int(a), int(b)) < 0.05 for _, a, b, _ in found])
    assert power == pytest.approx(0.8, abs=0.04)  # the exact test is a little more cautious than the formula


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.05 / 21, 1e-6, 0.5])
def test_least_discordant_is_where_the_exact_test_first_gets_under_alpha(alpha: float) -> None:
    least = least_discordant(alpha)
    assert mcnemar_exact(least, 0) < alpha
    assert mcnemar_exact(least - 1, 0) >= alpha
