"""The bets are those of the slow obvious way, and what doubts the truth gains nothing, exactly.

Invariant: what is said of chances is enumerated, not drawn.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.choosing.evidence import STAKES, Bets, count_disagreements
from tests.pipeline.choosing.slow import slow_log

NULL_MEANS = (Fraction(0), Fraction(-1, 50), Fraction(-1, 10), Fraction(-1, 2))
PATTERNS = {1: (True, False), -1: (False, True), 0: (True, True)}  # X to whether the first, the second is right


def right_of(x: Sequence[int]) -> np.ndarray:
    """(2, items) bool: a pair whose X is this."""
    return np.array([PATTERNS[one] for one in x], bool).reshape(len(x), 2).T


def log_evidence(x: Sequence[int], null_mean: Fraction, num_items: int | None = None) -> float:
    """That the first of two arms is above the mean, after one call with all items."""
    bets = Bets(2, float(null_mean), num_items)
    bets.add(right_of(x), np.arange(2))
    return float(bets.log_evidence[0, 1])


@given(
    st.lists(st.tuples(*[st.booleans()] * 3), max_size=49),
    st.sampled_from(NULL_MEANS),
    st.one_of(st.none(), st.integers(0, 9)),
    st.lists(st.integers(0, 49), max_size=4),
)
@example([(False, True, True)] * 8 + [(True, False, True)] * 2, Fraction(0), 0, [3])  # the mean of the rest is above 1
@example([(True, False, True)] * 9, Fraction(-1, 10), 0, [2, 8])  # and below -1
@settings(deadline=None, max_examples=60)
def test_bets_are_those_of_one_item_and_one_stake_at_a_time(
    rows: list[tuple[bool, bool, bool]], null_mean: Fraction, more: int | None, cuts: list[int]
) -> None:
    """Three arms, however the items are parted into batches; `more` items are in the file and were not looked at."""
    right = np.array(rows, bool).reshape(len(rows), 3).T
    num_items = None if more is None or len(rows) + more == 0 else min(len(rows) + more, 49)
    bets = Bets(3, float(null_mean), num_items)
    for part in np.split(right, sorted(min(cut, len(rows)) for cut in cuts), axis=1):
        bets.add(part, np.arange(3))
    for first, second in product(range(3), repeat=2):
        x = [int(row[first]) - int(row[second]) for row in rows]
        expected = slow_log(x, null_mean, num_items)
        assert bets.log_evidence[first, second] == pytest.approx(expected, abs=1e-9)


def test_an_arm_that_is_scored_no_more_keeps_what_was_gathered() -> None:
    """Its row, its column, and nothing else."""
    right = np.random.default_rng(0).random((3, 60)) < 0.5
    for num_items in (None, 80):
        bets = Bets(3, 0.0, num_items)
        bets.add(right[:, :40], np.arange(3))
        before = bets.log_evidence.copy()
        bets.add(right[[0, 2], 40:], np.array([0, 2]))
        assert bets.log_evidence[1].tolist() == before[1].tolist()
        assert bets.log_evidence[:, 1].tolist() == before[:, 1].tolist()
        x = right[0].astype(int) - right[2]
        assert bets.log_evidence[0, 2] == pytest.approx(slow_log(x.tolist(), Fraction(0), num_items), abs=1e-9)


def test_items_are_counted_by_who_alone_is_right() -> None:
    right = np.random.default_rng(1).random((4, 300)) < 0.6
    only_first, only_second = count_disagreements(right)
    for i, j in product(range(4), repeat=2):
        assert only_first[i, j] == sum(bool(a) and not b for a, b in zip(right[i], right[j], strict=True))
        assert only_second[i, j] == sum(bool(b) and not a for a, b in zip(right[i], right[j], strict=True))


def test_long_one_sided_evidence_neither_overflows_nor_vanishes() -> None:
    """A million items that the first alone is right on, and a million that only the second is."""
    bets = Bets(2, 0.0)
    bets.add(np.array([[True], [False]]) & np.ones(1_000_000, bool), np.arange(2))
    assert bets.log_evidence[0, 1] == pytest.approx(1_000_000 * math.log1p(STAKES[-1]) - math.log(len(STAKES)))
    assert bets.log_evidence[1, 0] == pytest.approx(1_000_000 * math.log1p(-STAKES[0]) - math.log(len(STAKES)))


@pytest.mark.parametrize("total", [-3, 0, 1, 5])
def test_at_the_end_of_a_file_each_false_doubt_is_refuted_and_no_true_one(total: int) -> None:
    """The mean of X is known then: above the null's it is refuted, at it or below it is not."""
    x = [1] * (10 + total) + [-1] * 10 + [0] * (30 - total)
    for null_mean in (Fraction(0), Fraction(-1, 50), Fraction(-1, 10), Fraction(1, 10)):
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(x).tolist()
            assert (log_evidence(order, null_mean, len(x)) == math.inf) == (Fraction(total, len(x)) > null_mean)


def test_a_null_whose_mean_has_no_short_binary_form_is_not_refuted_by_rounding() -> None:
    """0.02 of 50, 100, ... items are whole numbers, which floating-point products of them miss."""
    for hundreds in range(1, 40):
        n = 50 * hundreds
        x = [-1] * hundreds + [0] * (n - hundreds)
        assert log_evidence(x, Fraction(-1, 50), n) < math.inf
        assert log_evidence(x[::-1], Fraction(-1, 50), n) < math.inf


def boundary(null_mean: Fraction) -> Iterator[tuple[float, float]]:
    """Chances of X = 1 and of X = -1 whose difference is the mean, from few disagreements to nothing else."""
    for disagreement in (0.02, 0.1, 0.3, 0.7, 1.0):
        if disagreement >= -null_mean:
            yield (disagreement + float(null_mean)) / 2, (disagreement - float(null_mean)) / 2


@pytest.mark.parametrize("null_mean", NULL_MEANS, ids=str)
def test_what_doubts_the_truth_is_expected_to_make_exactly_1_of_1(null_mean: Fraction) -> None:
    """The mean over all outcomes of twelve items drawn independently; below 1 where the mean is below the null's."""
    n = 12
    for up, down in boundary(null_mean):
        below = (up, down), (up / 2, min(1 - up / 2, down + up / 4))
        for (p, q), expected in zip(below, (1, None), strict=True):
            mean = 0.0
            for a, b in product(range(n + 1), repeat=2):
                if a + b <= n:
                    ways = math.comb(n, a) * math.comb(n - a, b)
                    chance = ways * p**a * q**b * max(0.0, 1 - p - q) ** (n - a - b)
                    x = [1] * a + [-1] * b + [0] * (n - a - b)
                    mean += chance * math.exp(log_evidence(x, null_mean))
            assert mean == pytest.approx(1, abs=1e-9) if expected else mean <= 1 + 1e-9


def chance_to_reach(bound: float, up: float, down: float, null_mean: Fraction, num_items: int) -> float:
    """That the evidence is at the bound or above after any of `num_items` items, looked at after each.

    (a, b) items with X = 1 and X = -1 out of t: what is at the bound is taken off the chances and goes on no more.
    """
    a, b = np.ogrid[: num_items + 1, : num_items + 1]
    mean = float(null_mean)
    gains = np.log1p(np.outer((np.array([1.0, -1.0, 0.0]) - mean) / (1 + mean), STAKES))  # (X, stakes)
    chances, reached = np.zeros((num_items + 1, num_items + 1)), 0.0
    chances[0, 0] = 1
    for t in range(1, num_items + 1):
        following = chances * (1 - up - down)
        following[1:] += up * chances[:-1]
        following[:, 1:] += down * chances[:, :-1]
        logs = a[..., None] * gains[0] + b[..., None] * gains[1] + (t - a - b)[..., None] * gains[2]
        there = np.exp(np.minimum(logs, 700)).mean(axis=-1) >= bound
        reached += following[there].sum()
        chances = np.where(there, 0.0, following)
    return float(reached)


@pytest.mark.parametrize("bound", [5.0, 20.0])
def test_looking_after_every_item_reaches_a_bound_with_at_most_its_chance(bound: float) -> None:
    """By the chances of all outcomes of 80 items. It comes within a factor of four of it, so it is a test."""
    found = []
    for null_mean in (Fraction(0), Fraction(-1, 10)):
        for up, down in boundary(null_mean):
            found.append(chance_to_reach(bound, up, down, null_mean, 80))
            assert found[-1] <= 1 / bound
    assert max(found) > 1 / (4 * bound)


@pytest.mark.parametrize(
    ("values", "null_mean"),
    [
        ([1, 1, -1, -1, 0, 0], Fraction(0)),
        ([1, 1, 1, -1, -1, -1], Fraction(0)),
        ([1, -1, 0, 0, 0, 0, 0], Fraction(0)),
        ([1, 1, -1, -1, -1, 0, 0, 0], Fraction(-1, 8)),
        ([1, -1, -1, -1], Fraction(-1, 2)),
        ([-1, 0, 0, 0, 0, 0, 0, 0], Fraction(-1, 8)),
        ([-1, -1, -1, 1], Fraction(-1, 2)),
    ],
)
def test_over_all_orders_of_a_file_it_makes_exactly_1_of_1_and_seldom_much(
    values: list[int], null_mean: Fraction
) -> None:
    """At each number of items looked at; and a bound c is reached at any of them in at most 1/c of the orders."""
    orders = [list(order) for order in sorted(set(permutations(values)))]
    assert Fraction(sum(values), len(values)) == null_mean
    paths = []
    for order in orders:
        bets = Bets(2, float(null_mean), len(values))
        path = []
        for one in order:
            bets.add(right_of([one]), np.arange(2))
            path.append(math.exp(bets.log_evidence[0, 1]))
        paths.append(path)
    assert np.mean(paths, axis=0) == pytest.approx(np.ones(len(values)), abs=1e-6)
    for bound in (1.5, 2.0, 3.0, 5.0):
        assert np.mean(np.max(paths, axis=1) >= bound) <= 1 / bound


def test_over_all_orders_of_a_file_below_the_null_it_makes_less() -> None:
    for values in ([-1, -1, 1, 0, 0, 0], [-1, 0, 0, 0], [-1, -1, -1, -1, 1, 1]):
        orders = sorted(set(permutations(values)))
        made = [math.exp(log_evidence(list(order), Fraction(0), len(values))) for order in orders]
        assert np.mean(made) < 1
