"""Intervals and tests where texts repeat: against loops over texts, and against the same items without the repeats."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from pipeline.reporting import stats
from pipeline.reporting.stats import (
    Pairs,
    TextPattern,
    effective_number,
    items_to_settle,
    mcnemar_exact,
    paired_bootstrap,
    paired_standard_error,
    wilson_interval,
)

# A text: the verdicts of A and B on each of its items, which differ where the items' gold labels do.
Text = list[tuple[bool, bool]]
verdicts = st.tuples(st.booleans(), st.booleans())
texts_of_items = st.lists(st.lists(verdicts, min_size=1, max_size=4), min_size=1, max_size=30)


def make_pairs(texts: list[Text]) -> Pairs:
    cells = Counter(item for text in texts for item in text)
    patterns = Counter((len(text), sum(a - b for a, b in text)) for text in texts)
    table = (cells[cell] for cell in ((True, True), (True, False), (False, True), (False, False)))
    return Pairs(*table, tuple(TextPattern(rows, net, n) for (rows, net), n in patterns.items()))


def draw_texts(rng: np.random.Generator, num_texts: int = 150) -> list[Text]:
    """Texts of 1 to 6 items with one gold label each, so that a text's items are all alike."""
    right = rng.random((num_texts, 2)) < [0.75, 0.6]
    times = rng.choice([1, 1, 1, 2, 3, 6], num_texts)
    return [[(bool(a), bool(b))] * int(n) for (a, b), n in zip(right, times, strict=True)]


def times(pairs: Pairs, k: int) -> Pairs:
    """The same items, each there `k` times."""
    cells = (pairs.both, pairs.only_a, pairs.only_b, pairs.neither)
    net = ((1, pairs.only_a), (-1, pairs.only_b), (0, pairs.both + pairs.neither))
    return Pairs(*(k * n for n in cells), tuple(TextPattern(k, k * sign, n) for sign, n in net if n))


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


@settings(max_examples=100, deadline=None)
@given(texts_of_items)
def test_units_are_the_texts_that_speak_for_either_side(texts: list[Text]) -> None:
    """The sign test over them is scipy's binomial test of a loop over the texts."""
    net = [sum(a - b for a, b in text) for text in texts]
    pairs = make_pairs(texts)
    for_a, for_b = sum(d > 0 for d in net), sum(d < 0 for d in net)
    assert (pairs.units.only_a, pairs.units.only_b, pairs.units.num_items) == (for_a, for_b, len(texts))
    assert pairs.units_agree == (sum(net) * (for_a - for_b) > 0)
    expected = scipy.stats.binomtest(for_a, for_a + for_b).pvalue if for_a + for_b else 1.0
    assert mcnemar_exact(pairs.units.only_a, pairs.units.only_b) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(texts_of_items)
def test_the_clustered_standard_error_is_that_of_a_loop_and_of_statsmodels(texts: list[Text]) -> None:
    """statsmodels: the mean as a regression on a constant, with cluster-robust errors."""
    found = paired_standard_error(make_pairs(texts))
    if len(texts) < 2:
        assert math.isnan(found)
        return
    items = [(a - b, number) for number, text in enumerate(texts) for a, b in text]
    mean = sum(d for d, _ in items) / len(items)
    squares = sum(sum(a - b - mean for a, b in text) ** 2 for text in texts)
    assert found == pytest.approx(math.sqrt(len(texts) / (len(texts) - 1) * squares) / len(items), abs=1e-12)
    differences, numbers = map(np.array, zip(*items, strict=True))
    fit = sm.OLS(differences.astype(float), np.ones(len(items)))
    robust = fit.fit(cov_type="cluster", cov_kwds={"groups": numbers})
    assert found == pytest.approx(robust.bse[0], abs=1e-9)


def test_the_bootstrap_draws_texts_with_their_items() -> None:
    """A loop that draws the texts one by one gives the same interval, up to the noise of its 4,000 draws."""
    rng = np.random.default_rng(6)
    texts = draw_texts(rng)
    rows, net = np.array([(len(text), sum(a - b for a, b in text)) for text in texts]).T
    differences = []
    for _ in range(4_000):
        drawn = rng.integers(0, len(texts), len(texts))
        differences.append(net[drawn].sum() / rows[drawn].sum())
    interval = paired_bootstrap(make_pairs(texts))
    assert interval.low == pytest.approx(np.quantile(differences, 0.025), abs=0.008)
    assert interval.high == pytest.approx(np.quantile(differences, 0.975), abs=0.008)


def test_the_bootstrap_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many kinds of texts are drawn a part at a time, so that memory stays bounded; nothing else changes."""
    pairs = make_pairs(draw_texts(np.random.default_rng(7)))
    whole = paired_bootstrap(pairs)
    monkeypatch.setattr(stats, "MAX_CELLS", 1_000)
    assert paired_bootstrap(pairs) == whole


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.integers(2, 5))
def test_items_that_are_all_there_several_times_say_what_they_would_once(
    only_a: int, only_b: int, both: int, neither: int, k: int
) -> None:
    """Tests, standard errors, intervals and what would settle it: as if nothing had been copied."""
    once = Pairs(both, only_a, only_b, neither)
    copied = times(once, k)
    assert copied.num_items == k * once.num_items
    assert copied.difference == pytest.approx(once.difference, abs=1e-12)
    assert mcnemar_exact(copied.units.only_a, copied.units.only_b) == mcnemar_exact(only_a, only_b)
    assert paired_standard_error(copied) == pytest.approx(paired_standard_error(once), abs=1e-12)
    assert items_to_settle(copied.units) == items_to_settle(once)
    found, expected = paired_bootstrap(copied), paired_bootstrap(once)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    right, n = both + only_a, once.num_items
    copied_interval, interval = (
        wilson_interval(k * right, k * n, effective_number(k * n, k * k * n)),
        wilson_interval(right, n),
    )
    assert (copied_interval.low, copied_interval.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_texts_that_each_have_one_item_give_the_figures_of_items() -> None:
    """Bootstrap draws included: clusters of one are the 2x2 table."""
    once = Pairs(120, 30, 15, 35)
    found, expected = paired_bootstrap(times(once, 1)), paired_bootstrap(once)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert times(once, 1).units.num_items == once.num_items


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 3), (70_000, 30_001)])
def test_copies_of_a_table_without_agreement_or_without_one_side(only_a: int, only_b: int) -> None:
    """No text is undecided, or none speaks for A; the draws stay those of the table, where any other would tell."""
    once = Pairs(0, only_a, only_b, 0)
    found, expected = paired_bootstrap(times(once, 3)), paired_bootstrap(once)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
