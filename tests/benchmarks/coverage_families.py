"""Families of arms drawn with a known truth: whether all intervals hold together, and who is called worse.

Invariant: what is said of a draw is what `rank_arms` says of it (the tests hold both equal): the leader is picked on
the same items, an arm is worse where its interval in the family excludes 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from pipeline.reporting.comparisons import num_pairs
from pipeline.reporting.stats import (
    LEVEL,
    Interval,
    Pairs,
    critical_value,
    design_effect,
    tango_intervals,
    wilson_interval,
)

BLOCK = 250  # data sets drawn at once


@dataclass(frozen=True, slots=True)
class Drawn:
    """Shares of the data sets, each between 0 and 1."""

    all_hold: float  # every interval between two arms holds the truth
    leader_holds: float  # every interval with the leader, which are those printed, does
    accuracy_holds: float  # Wilson's interval of the leader's accuracy does
    counted_holds: float  # the same at 5 % over the number of arms
    apart_holds: float  # those not called worse are no further apart than the furthest end of their intervals
    any_worse: float  # some arm is called worse
    best_worse: float  # an arm as good as the best is called worse
    power: float  # of the arms that are not as good as the best, those called worse


def draw_right(
    rng: np.random.Generator, truth: np.ndarray, num_items: int, num_sets: int, alike: Sequence[float]
) -> np.ndarray:
    """(sets, prompts, rules, items) bool: `truth` (prompts, rules) are the accuracies.

    `alike`: the shares of the items' difficulty, and of what a prompt's rules have in common, in what makes an answer
    right; the rest is each arm's own.
    """
    prompts, rules = truth.shape
    hard = rng.standard_normal((num_sets, 1, 1, num_items), dtype=np.float32)
    read = rng.standard_normal((num_sets, prompts, 1, num_items), dtype=np.float32)
    own = rng.standard_normal((num_sets, prompts, rules, num_items), dtype=np.float32)
    parts = [math.sqrt(share) for share in (*alike, 1 - sum(alike))]
    return parts[0] * hard + parts[1] * read + parts[2] * own < norm.ppf(truth)[None, :, :, None]


def count_pairs(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sets, arms, items) to only_a (sets, arms, arms), items only the first gets right, and num_right (sets, arms)."""
    ones = right.astype(np.float32)
    together = np.rint(ones @ ones.transpose(0, 2, 1)).astype(np.int64)
    num_right = np.diagonal(together, axis1=1, axis2=2)
    return num_right[:, :, None] - together, num_right


def intervals_of(only_a: np.ndarray, only_b: np.ndarray, num_items: int, z: float) -> np.ndarray:
    """(..., 2): Tango's intervals, each different table asked once."""
    tables, places = np.unique(only_a * (num_items + 1) + only_b, return_inverse=True)
    found = [Pairs(num_items - a - b, a, b, 0) for a, b in (divmod(t, num_items + 1) for t in tables.tolist())]
    return np.array(tango_intervals(found, z))[places].reshape(*only_a.shape, 2)


def draw_family(
    truth: np.ndarray, num_items: int, num_sets: int, alike: Sequence[float] = (0.5, 0.0), seed: int = 0
) -> Drawn:
    """All of `truth` (prompts, rules) against each other; arms that are right on the very same items are one."""
    rng = np.random.default_rng(seed)
    found = [
        judge(draw_right(rng, truth, num_items, size, alike).reshape(size, truth.size, num_items), truth.reshape(-1))
        for size in np.diff([*range(0, num_sets, BLOCK), num_sets]).tolist()
    ]
    *shares, is_worse = (np.concatenate(parts) for parts in zip(*found, strict=True))
    behind = truth.reshape(-1) < truth.max()
    power = float(is_worse[:, behind].mean()) if behind.any() else math.nan
    return Drawn(*(float(np.mean(share)) for share in shares), power)


def judge(right: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each set (sets, arms, items) what `Drawn` counts, and last (sets, arms) who is called worse.

    An arm that repeats another is not counted among the comparisons, as in the report.
    """
    only_a, num_right = count_pairs(right)
    sets, arms, num_items = right.shape
    only_b = only_a.transpose(0, 2, 1)
    # The first of those that are the same stands for them.
    is_first = ~np.triu((only_a + only_b == 0).transpose(0, 2, 1), 1).any(axis=1)
    sizes = num_pairs(is_first.sum(axis=1))
    ends = np.empty((sets, arms, arms, 2))
    for size in np.unique(sizes):
        own = sizes == size
        ends[own] = intervals_of(only_a[own], only_b[own], num_items, critical_value(int(size)))
    gaps = truth[:, None] - truth[None]
    inside = (ends[..., 0] <= gaps) & (gaps <= ends[..., 1])
    here, leader = np.arange(sets), num_right.argmax(axis=1)
    is_worse = ends[here, leader, :, 0] > 0
    best = truth == truth.max()
    is_open = ~is_worse & (only_a + only_b > 0)[here, leader]
    reach = np.where(is_open, np.abs(ends[here, leader]).max(axis=2), 0.0).max(axis=1)
    of_these = np.where(is_worse, np.nan, truth)
    return (
        inside.all(axis=(1, 2)),
        inside[here, leader].all(axis=1),
        *(_holds(num_right[here, leader], num_items, truth[leader], tests) for tests in (1, arms)),
        ~is_open.any(axis=1) | (np.nanmax(of_these, axis=1) - np.nanmin(of_these, axis=1) <= reach),
        is_worse.any(axis=1),
        is_worse[:, best].any(axis=1),
        is_worse,
    )


def _holds(num_right: np.ndarray, num_items: int, truth: np.ndarray, num_tests: int) -> np.ndarray:
    """Whether Wilson's interval at 5 % over `num_tests` holds the truth, of each (sets,)."""
    level = 1 - (1 - LEVEL) / num_tests
    low, high = np.array([wilson_interval(k, num_items, level=level) for k in range(num_items + 1)])[num_right].T
    inside: np.ndarray = (low <= truth) & (truth <= high)
    return inside


def draw_commonest(
    shares: Sequence[float], accuracy: Sequence[float], num_items: int, num_sets: int, z: float, seed: int = 0
) -> tuple[float, float, float]:
    """Whether the interval of accuracy less the commonest class holds the truth, and how often it says better, worse.

    `shares` of the classes, `accuracy` on the items of each. The class is picked on the items, as the report does.
    """
    shares, accuracy = np.array(shares), np.array(accuracy)
    cells = np.concatenate([shares * accuracy, shares * (1 - accuracy)])
    drawn = np.random.default_rng(seed).multinomial(num_items, cells / cells.sum(), num_sets)
    right, wrong = np.split(drawn, 2, axis=1)  # each (sets, classes)
    answer = (right + wrong).argmax(axis=1)
    here = np.arange(num_sets)
    ends = intervals_of(right.sum(axis=1) - right[here, answer], wrong[here, answer], num_items, z)
    truth = float(shares @ accuracy - shares.max())
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return float(inside.mean()), float((ends[:, 0] > 0).mean()), float((ends[:, 1] < 0).mean())


def repeated_coverage(copies: np.ndarray, discordant: float, difference: float, num_sets: int, seed: int = 0) -> float:
    """Of Tango's interval where text i stands `copies[i]` times, all of its items right or wrong together."""
    p = [(discordant + difference) / 2, (discordant - difference) / 2]
    draws = np.random.default_rng(seed).random((num_sets, len(copies)))
    side = (draws < p[0]).astype(np.int64) - ((draws >= p[0]) & (draws < sum(p)))
    n = int(copies.sum())
    weights = int((copies**2).sum())
    table = ((side > 0) @ copies, (side < 0) @ copies, np.abs(side) @ copies**2, side @ copies**2)
    found = [
        Pairs(n - b - c, b, c, 0, design_effect(n, len(copies), b, c, squares, products, weights))
        for b, c, squares, products in zip(*(column.tolist() for column in table), strict=True)
    ]
    return share_inside(tango_intervals(found, critical_value(1)), difference)


def share_inside(intervals: Sequence[Interval], truth: float) -> float:
    ends = np.array(intervals)
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())
