"""The statistics of our own, each against scipy, statsmodels, a slow search or a simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from pipeline.reporting.comparisons import excludes_zero
from pipeline.reporting.stats import (
    LEVEL,
    NUM_DRAWS,
    Pairs,
    calibrated_errors,
    critical_value,
    design_effect,
    detectable_gap,
    effective_number,
    items_for_gap,
    score_p,
    score_statistic,
    tango_intervals,
    wilson_interval,
)

Z = critical_value(1)
counts = st.integers(0, 60)
tables = st.builds(Pairs, counts, counts, counts, counts, st.sampled_from([1.0, 1.5, 4.0]))
items_of_texts = st.lists(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=30
)


# Proportions.


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000), st.data())
def test_wilson_interval_is_that_of_statsmodels(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval = wilson_interval(k, n)
    low, high = proportion_confint(k, n, method="wilson")
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)
    assert 0 <= interval.low <= k / n <= interval.high <= 1


@pytest.mark.parametrize("num_comparisons", [1, 3, 20])
def test_wilson_interval_at_another_level_is_that_of_statsmodels(num_comparisons: int) -> None:
    alpha = 0.05 / num_comparisons
    assert wilson_interval(7, 9, level=1 - alpha) == pytest.approx(proportion_confint(7, 9, alpha, "wilson"), abs=1e-12)


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)


def test_wilson_interval_of_all_right_ends_at_one() -> None:
    """12 of 12 is 24 points wide, not 12 to either side."""
    assert wilson_interval(12, 12) == pytest.approx((0.7575, 1.0), abs=1e-4)
    assert wilson_interval(0, 12) == pytest.approx((0.0, 1 - 0.7575), abs=1e-4)


@pytest.mark.parametrize(("p", "n"), [(0.5, 50), (0.83, 400), (0.25, 240)])
def test_wilson_interval_covers_the_truth_19_times_in_20(p: float, n: int) -> None:
    """Over 2,000 draws the interval holds the true accuracy in 95 % of them, within the steps a binomial allows."""
    draws = np.random.default_rng(1).binomial(n, p, 2_000)
    inside = [interval.low <= p <= interval.high for interval in (wilson_interval(int(k), n) for k in draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_the_effective_number_is_that_of_kish(weights: list[int]) -> None:
    """(sum w)^2 / sum w^2; each of a text's w items knows that it has w copies."""
    copies = [w for w in weights for _ in range(w)]
    expected = sum(weights) ** 2 / sum(w * w for w in weights)
    assert effective_number(len(copies), sum(copies)) == pytest.approx(expected, rel=1e-12)


def test_items_that_do_not_repeat_count_as_themselves() -> None:
    """The very number: an interval must not move by a bit. And one item of a text of a hundred is still a text."""
    assert all(effective_number(n, n) == n for n in (1, 3, 10_000_019))
    assert effective_number(1, 100) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.floats(1, 500), st.data())
def test_wilson_at_an_effective_number_is_that_of_statsmodels(n: int, effective: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval = wilson_interval(k, n, effective)
    low, high = proportion_confint(k / n * effective, effective, method="wilson")
    assert interval.low == pytest.approx(low, abs=1e-12)
    assert interval.high == pytest.approx(high, abs=1e-12)


def test_the_interval_covers_the_truth_where_texts_repeat() -> None:
    """2,000 data sets of 200 texts, some there 20 times: 19 in 20 intervals hold the truth, and not if rows counted."""
    rng, p = np.random.default_rng(4), 0.7
    weights = rng.choice([1, 2, 5, 20], 200, p=[0.7, 0.15, 0.1, 0.05])
    n, copies = int(weights.sum()), int((weights**2).sum())
    draws = ((rng.random((2_000, 200)) < p) @ weights).tolist()
    inside = {
        effective: np.mean([i.low <= p <= i.high for i in (wilson_interval(k, n, effective) for k in draws)])
        for effective in (effective_number(n, copies), n)
    }
    assert inside[effective_number(n, copies)] == pytest.approx(0.95, abs=0.02)
    assert inside[n] < 0.75


# Paired differences.


def likeliest_share(b: float, c: float, n: float, d: float) -> float:
    """The share of "only B" that makes a table likeliest where the true difference is d, by a search."""
    low, high = max(0.0, -d), (1 - d) / 2

    def unlikely(q: float) -> float:
        return -float(xlogy(b, q + d) + xlogy(c, q) + xlogy(n - b - c, max(1 - 2 * q - d, 0.0)))

    inner = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return min((low, float(inner), high), key=unlikely)


def slow_statistic(pairs: Pairs, d: float) -> float:
    """Tango's T(d) with the variance of the likeliest table."""
    b, c, n = (k / pairs.design_effect for k in (pairs.only_a, pairs.only_b, pairs.num_items))
    variance = n * (2 * likeliest_share(b, c, n, d) + d * (1 - d))
    gap = b - c - n * d
    return 0.0 if gap == 0 else gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([1, 3, 190]))
def test_tango_ends_are_where_the_slow_statistic_is_z(pairs: Pairs, num_comparisons: int) -> None:
    """The likelihood under each difference is maximised by a search instead of Tango's closed form."""
    z = critical_value(num_comparisons)
    (interval,) = tango_intervals([pairs], z)
    if pairs.num_items == 0:
        assert interval == (-1.0, 1.0)
        return
    assert -1 <= interval.low <= pairs.difference <= interval.high <= 1
    for end, sign, edge in ((interval.low, 1, -1.0), (interval.high, -1, 1.0)):
        if abs(end - edge) > 1e-9:
            # Just outside T is beyond z, just inside it is not; a search for the likeliest share is good to 1e-6 or so.
            assert sign * slow_statistic(pairs, end - sign * 1e-5) > z
            if abs(end - pairs.difference) > 2e-5:
                assert sign * slow_statistic(pairs, end + sign * 1e-5) < z


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_tango_ends_are_roots_of_the_published_quartic(b: int, c: int, same: int) -> None:
    """Yang, Sun and Hardin (2013) squared T(d) = z into a polynomial; its outermost real roots are the ends."""
    n = b + c + same
    if b == c or not same:
        return  # the quartic has a double root at 0, or at an end of the scale
    g = Z * Z
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * (b - c) * (n / g + 1) * (4 * n / g + 1),
        2 * n * (b - c) ** 2 * (3 * n / g + 2) / g - n**2 * ((b + c) / g + 1),
        n * (b - c) * (2 * (b + c) / g + 1) - (b - c) ** 3 * (4 * n / g + 1) / g,
        (b - c) ** 2 * ((b - c) ** 2 / g - (b + c)) / g,
    ]
    (interval,) = tango_intervals([Pairs(same, b, c, 0)], Z)
    for end in interval:
        assert np.abs(np.roots(quartic) - end).min() < 1e-6


@pytest.mark.parametrize(("n", "effect"), [(1, 1.0), (20, 1.0), (400, 1.0), (10_000_000, 1.0), (60, 3.0)])
def test_where_nothing_differs_the_interval_is_not_a_point(n: int, effect: float) -> None:
    """No discordant item of n: z^2 / (n + z^2) to either side, where the bootstrap had no width at all."""
    (interval,) = tango_intervals([Pairs(n, 0, 0, 0, effect)], Z)
    end = Z**2 / (n / effect + Z**2)
    assert interval == pytest.approx((-end, end), rel=1e-9)


@pytest.mark.parametrize("n", [1, 20, 10_000_000])
def test_where_all_items_speak_for_one_side_the_interval_ends_there(n: int) -> None:
    """It is Wilson's of n out of n, turned to the scale of differences: T(d) = sqrt(n (1 - d) / (1 + d))."""
    for_a, for_b = tango_intervals([Pairs(0, n, 0, 0), Pairs(0, 0, n, 0)], Z)
    assert for_a == pytest.approx(((n - Z**2) / (n + Z**2), 1.0), abs=1e-9)
    assert for_b == pytest.approx((-for_a.high, -for_a.low), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(tables, max_size=6), st.sampled_from([1, 10, 595]))
def test_intervals_asked_together_are_those_asked_alone_and_turn_round(found: list[Pairs], num: int) -> None:
    z = critical_value(num)
    intervals = tango_intervals(found, z)
    assert intervals == [tango_intervals([pairs], z)[0] for pairs in found]
    turned = [Pairs(p.neither, p.only_b, p.only_a, p.both, p.design_effect) for p in found]
    for interval, other in zip(intervals, tango_intervals(turned, z), strict=True):
        assert interval == pytest.approx((-other.high, -other.low), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts, counts, counts, counts)
def test_the_score_statistic_is_mcnemars_of_statsmodels(both: int, b: int, c: int, neither: int) -> None:
    """Without continuity correction; it is T(0), and its p-value that of a normal variable."""
    pairs = Pairs(both, b, c, neither)
    if b + c:
        expected = mcnemar([[both, b], [c, neither]], exact=False, correction=False)
        assert score_statistic(pairs) ** 2 == pytest.approx(expected.statistic, rel=1e-12)
        assert score_p(pairs) == pytest.approx(expected.pvalue, rel=1e-9)
        assert score_statistic(pairs) == pytest.approx(slow_statistic(pairs, 0.0), abs=1e-5)
    else:
        assert (score_statistic(pairs), score_p(pairs)) == (0.0, 1.0)


@settings(max_examples=500, deadline=None)
@given(tables, st.sampled_from([1, 2, 3, 10, 190, 595, 9730]))
def test_an_interval_excludes_zero_exactly_where_p_is_under_5_percent(pairs: Pairs, num: int) -> None:
    """So no verdict contradicts an interval that stands beside it, whatever the size of the family."""
    (interval,) = tango_intervals([pairs], critical_value(num))
    assert excludes_zero(interval) == (score_p(pairs, num) < 1 - LEVEL)


@pytest.mark.parametrize("n", [20, 400, 10_000_000])
def test_the_duality_holds_at_every_count_near_the_border(n: int) -> None:
    """Every split of discordant items on both sides of the critical value, for families of several sizes."""
    for num in (1, 10, 190):
        z = critical_value(num)
        splits = [(b, m - b) for m in range(1, min(n, 400) + 1) for b in _near(m, z)]
        found = [Pairs(n - b - c, b, c, 0) for b, c in splits]
        for pairs, interval in zip(found, tango_intervals(found, z), strict=True):
            assert excludes_zero(interval) == (score_p(pairs, num) < 1 - LEVEL), (pairs, num)


def _near(m: int, z: float) -> list[int]:
    """How many of m discordant items are for A where the statistic is about z."""
    middle = round((m + z * math.sqrt(m)) / 2)
    return [b for b in range(middle - 1, middle + 2) if 0 <= b <= m]


def test_no_items_and_no_comparisons_are_no_error() -> None:
    nothing = Pairs(0, 0, 0, 0)
    assert tango_intervals([], Z) == []
    assert tango_intervals([nothing], Z) == [(-1.0, 1.0)]
    assert (score_p(nothing), nothing.difference, nothing.discordant, detectable_gap(nothing, Z)) == (
        1.0,
        0.0,
        0.0,
        1.0,
    )
    assert critical_value(0) == critical_value(1) == pytest.approx(1.959963984540054)


@pytest.mark.parametrize("num", [1, 3, 190])
def test_the_critical_value_shares_the_level_out(num: int) -> None:
    assert 2 * num * scipy.stats.norm.sf(critical_value(num)) == pytest.approx(0.05, rel=1e-9)


# Texts that repeat.


@settings(max_examples=100, deadline=None)
@given(items_of_texts)
def test_the_design_effect_is_that_of_a_loop_over_texts(texts: list[list[tuple[bool, bool]]]) -> None:
    """The larger growth of the variance about 0 and about the measured difference, and at least the mean copies."""
    items = [a - b for text in texts for a, b in text]
    nets, sizes = [sum(a - b for a, b in text) for text in texts], [len(text) for text in texts]
    mean = sum(items) / len(items)
    expected = [len(items) / len(texts)]
    for centre in (0.0, mean):
        over_texts = sum((net - size * centre) ** 2 for net, size in zip(nets, sizes, strict=True))
        over_items = sum(item**2 for item in items) - len(items) * centre**2
        if over_items > 1e-9:
            expected.append(over_texts / over_items)
    assert effect_of(texts) == pytest.approx(max(expected), rel=1e-9)


def effect_of(texts: list[list[tuple[bool, bool]]]) -> float:
    nets, sizes = [sum(a - b for a, b in text) for text in texts], [len(text) for text in texts]
    b, c = (sum(sign * (x - y) == 1 for text in texts for x, y in text) for sign in (1, -1))
    squares, weights = sum(net**2 for net in nets), sum(size**2 for size in sizes)
    products = sum(net * size for net, size in zip(nets, sizes, strict=True))
    return design_effect(sum(sizes), len(texts), b, c, squares, products, weights)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_items_that_do_not_repeat_have_no_design_effect(items: list[tuple[bool, bool]]) -> None:
    """The very 1, so that nothing moves by a bit; no items are no error."""
    assert effect_of([[item] for item in items]) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(2, 5))
def test_items_that_are_all_there_several_times_say_what_they_would_once(
    items: list[tuple[bool, bool]], copies: int
) -> None:
    """Statistic, interval and detectable gap: as if nothing had been copied."""
    b, c = sum(x > y for x, y in items), sum(x < y for x, y in items)
    once = Pairs(len(items) - b - c, b, c, 0)
    effect = effect_of([[item] * copies for item in items])
    copied = Pairs(copies * once.both, copies * b, copies * c, 0, effect)
    assert effect == pytest.approx(copies, rel=1e-12)
    assert score_statistic(copied) == pytest.approx(score_statistic(once), abs=1e-12)
    assert detectable_gap(copied, Z) == pytest.approx(detectable_gap(once, Z), abs=1e-12)
    (found,), (expected,) = tango_intervals([copied], Z), tango_intervals([once], Z)
    assert found == pytest.approx(expected, abs=1e-12)


def test_one_text_of_many_items_settles_nothing() -> None:
    """A hundred items of one text that only A gets right, and nothing else: one text is not a difference."""
    texts = [[(True, False)] * 100] + [[(True, True)]] * 100
    pairs = Pairs(100, 100, 0, 0, effect_of(texts))
    assert score_statistic(pairs) == pytest.approx(1.0, rel=0.05)
    assert not excludes_zero(tango_intervals([pairs], Z)[0])


# What these items can show.


@settings(max_examples=200, deadline=None)
@given(tables, st.sampled_from([1, 3, 190]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_detectable_gap_solves_its_equation(pairs: Pairs, num: int, power: float) -> None:
    """z sqrt(d) + z_power sqrt(d - e^2) = e sqrt(n) at e, more is needed under it; 1 where no gap would show."""
    z, n = critical_value(num), pairs.num_effective
    gap = detectable_gap(pairs, z, power)

    def missing(e: float) -> float:
        d = max(pairs.discordant, e)
        return z * math.sqrt(d) + scipy.stats.norm.ppf(power) * math.sqrt(max(d - e * e, 0.0)) - e * math.sqrt(n)

    if n < z * z:
        assert gap == 1.0
    else:
        assert missing(gap) == pytest.approx(0.0, abs=1e-9)
        assert missing(0.999 * gap) > 0


@pytest.mark.parametrize(("n", "discordant", "num"), [(50, 0.4, 1), (400, 0.05, 1), (400, 0.3, 10), (7_600, 0.1, 190)])
def test_the_detectable_gap_is_found_four_times_in_five(n: int, discordant: float, num: int) -> None:
    """4,000 tables drawn at that gap: their intervals exclude 0 in about 80 %."""
    z, d = critical_value(num), round(n * discordant)
    gap = detectable_gap(Pairs(n - d, d // 2, d - d // 2, 0), z)
    assert share_established(n, discordant, gap, z) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("gap", "discordant", "num"), [(0.02, 0.1, 1), (0.05, 0.3, 10), (0.01, 0.2, 190)])
def test_the_items_named_for_a_gap_find_it_four_times_in_five(gap: float, discordant: float, num: int) -> None:
    """At that number, with as much disagreement (never under the gap itself)."""
    z = critical_value(num)
    needed = items_for_gap(gap, discordant, z)
    assert share_established(needed, discordant, gap, z) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("gap", [0.01, 0.1, 0.5])
def test_the_items_named_are_enough_where_all_disagreement_is_for_one_side(gap: float) -> None:
    """A gap above the disagreement that was seen takes its place; then the number is a cautious one."""
    assert share_established(items_for_gap(gap, 0.0, Z), gap, gap, Z) >= 0.8


def share_established(n: int, discordant: float, gap: float, z: float) -> float:
    shares = [(discordant + gap) / 2, (discordant - gap) / 2, 1 - discordant]
    drawn = np.random.default_rng(3).multinomial(n, shares, 4_000).tolist()
    intervals = tango_intervals([Pairs(rest, b, c, 0) for b, c, rest in drawn], z)
    return sum(map(excludes_zero, intervals)) / len(drawn)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.5), st.floats(0.0, 1.0), st.sampled_from([1, 190]))
def test_the_items_for_a_gap_are_those_whose_detectable_gap_it_is(gap: float, discordant: float, num: int) -> None:
    """One formula, read in both directions."""
    z = critical_value(num)
    needed = items_for_gap(gap, discordant, z)
    d = round(discordant * 10**9)
    effect = 10**9 / needed  # as many independent items
    assert detectable_gap(Pairs(10**9 - d, d, 0, 0, effect), z) <= gap * (1 + 1e-6)
    fewer = 10**9 / (0.99 * needed - 1) if needed > 2 else math.inf
    assert detectable_gap(Pairs(10**9 - d, d, 0, 0, fewer), z) > gap


# Calibration.


def test_the_mean_error_of_a_calibrated_model_is_that_of_a_simulation() -> None:
    """3,000 data sets of 400 items right as often as their confidences say; the end holds 95 % of them."""
    rng = np.random.default_rng(8)
    confidence = 0.25 + 0.75 * rng.beta(3, 2, 400)
    bins = np.ceil(confidence * 15).astype(int) - 1
    errors = simulated_errors(rng, confidence, bins, 3_000)
    variance = np.bincount(bins, confidence * (1 - confidence), 15)
    mean, high = calibrated_errors(np.sqrt(variance)[None], np.array([400]))
    assert mean[0] == pytest.approx(errors.mean(), rel=0.03)
    assert (errors <= high[0]).mean() == pytest.approx(0.95, abs=0.015)


def simulated_errors(rng: np.random.Generator, confidence: np.ndarray, bins: np.ndarray, num: int) -> np.ndarray:
    right = rng.random((num, len(confidence))) < confidence
    return sum(np.abs((right - confidence)[:, bins == b].sum(axis=1)) for b in range(15)) / len(confidence)


def test_one_bin_has_the_half_normal_distribution_in_closed_form() -> None:
    mean, high = calibrated_errors(np.array([[2.0], [0.0]]), np.array([10, 10]))
    half = scipy.stats.halfnorm(scale=0.2)
    assert mean == pytest.approx([half.mean(), 0.0], rel=1e-12)
    assert high[0] == pytest.approx(half.ppf(0.95), rel=4 / math.sqrt(NUM_DRAWS))
    assert high[1] == 0.0


def test_models_asked_together_have_the_figures_that_each_has_alone() -> None:
    """And the same ones each time: the draws are seeded."""
    deviations, num_items = np.random.default_rng(9).random((5, 15)), np.array([20, 50, 400, 7_600, 10_000_000])
    mean, high = calibrated_errors(deviations, num_items)
    alone = [calibrated_errors(deviations[i : i + 1], num_items[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(mean, [m[0] for m, _ in alone], rtol=1e-12)
    np.testing.assert_allclose(high, [h[0] for _, h in alone], rtol=1e-12)
