"""The statistics behind the report's intervals and verdicts.

Invariant: pure functions of counts; the same counts give the same figures, and an interval excludes 0 exactly where its
test rejects.

scipy and statsmodels have some of these, but cost 113 MB and 0.8 s of import; numpy and the standard library do them in
a few lines, which the tests check against both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
POWER = 0.8
NUM_DRAWS = 4_000  # of the calibration error that a calibrated model shows
NUM_STEPS = 60  # of bisection: every bit of an end between -1 and 1
_normal = NormalDist()
normal_quantile = _normal.inv_cdf


class Interval(NamedTuple):
    low: float
    high: float


def effective_number(num_items: int, copies: float) -> float:
    """Kish's effective number of texts, (sum w)^2 / sum w^2 over texts with w items each (Kish 1965).

    `copies`: the sum over the items of how many share the item's text. Over whole texts that is sum w^2; where the
    items are only some of a text's (the same text under another gold label) it is more, and the number too small, but
    never under the one text that there is.
    """
    return num_items if copies == num_items else max(1.0, num_items * num_items / copies)


def wilson_interval(
    num_correct: int, num_items: int, num_effective: float | None = None, level: float = LEVEL
) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); the whole [0, 1] where there are no items.

    `num_effective`: as how many independent items they count, where texts repeat (`effective_number`).
    """
    if num_items == 0:
        return Interval(0.0, 1.0)
    z = normal_quantile((1 + level) / 2)
    p, n = num_correct / num_items, num_items if num_effective is None else num_effective
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exact at 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if num_correct == 0 else centre - half
    high = 1.0 if num_correct == num_items else centre + half
    return Interval(low, high)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Items by whether predictions A and B are right: both, only A, only B, neither.

    `design_effect`: by how much the variance of the difference grows because texts repeat (`design_effect`); 1 where
    each item is a text of its own.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    design_effect: float = 1.0

    @property
    def num_items(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of A minus accuracy of B; 0 where there are no items."""
        return (self.only_a - self.only_b) / self.num_items if self.num_items else 0.0

    @property
    def discordant(self) -> float:
        """The share of items that only one of the two gets right; 0 where there are no items."""
        return (self.only_a + self.only_b) / self.num_items if self.num_items else 0.0

    @property
    def num_effective(self) -> float:
        """As how many independent items they count."""
        return self.num_items / self.design_effect


def design_effect(
    num_items: int, num_texts: int, only_a: int, only_b: int, squares: int, products: int, weights: int
) -> float:
    """How many times the variance of a paired difference grows where texts repeat (Kish 1965).

    Over texts with w items, `squares` is the sum of net^2, the net difference being items that only A gets right less
    items that only B does; `products` that of w net, `weights` that of w^2. If each item were a text of its own they
    would be the number of discordant items, their difference and the number of items.

    Two variances grow: that about 0, which the score test divides by, (sum of the nets) / sqrt(sum of their squares);
    and that about the difference that was measured, sum of (net - w difference)^2, to which a text adds that many items
    share and both get right. The larger growth counts. Few discordant items say little of either, so it is at least the
    mean number of items a text has.
    """
    if num_texts == num_items:
        return 1.0  # the very number: nothing may move by a bit
    effect, discordant = num_items / num_texts, only_a + only_b
    if not discordant:
        return effect
    difference = (only_a - only_b) / num_items
    centred, of_items = (
        squares - 2 * difference * products + difference**2 * weights,
        discordant - difference**2 * num_items,
    )
    # Where all items speak for one side nothing varies about the difference.
    return max(effect, squares / discordant, centred / of_items if discordant < num_items else 0.0)


def critical_value(num_comparisons: int, level: float = LEVEL) -> float:
    """The z of intervals that all hold together with probability `level` or more (Bonferroni; Dunn 1961)."""
    return normal_quantile((1 + level_of_each(num_comparisons, level)) / 2)


def level_of_each(num_comparisons: int, level: float = LEVEL) -> float:
    """At which level each interval is made so that all hold together (Bonferroni)."""
    return 1 - (1 - level) / max(1, num_comparisons)


def score_statistic(pairs: Pairs) -> float:
    """McNemar's score statistic (b - c) / sqrt(b + c) (McNemar 1947), 0 where neither alone is right.

    Texts that repeat divide its square by the design effect.
    """
    discordant = pairs.only_a + pairs.only_b
    return (pairs.only_a - pairs.only_b) / math.sqrt(discordant * pairs.design_effect) if discordant else 0.0


def score_p(pairs: Pairs, num_comparisons: int = 1) -> float:
    """The two-sided p-value of `score_statistic`, times the number of comparisons (at most 1).

    Under 1 - level exactly where `tango_intervals` at `critical_value(num_comparisons, level)` exclude 0.
    """
    return min(1.0, num_comparisons * math.erfc(abs(score_statistic(pairs)) / math.sqrt(2)))


def tango_intervals(found: Sequence[Pairs], z: float) -> list[Interval]:
    """Tango's score interval of each difference between two accuracies of the same items (Tango 1998).

    All differences d whose score statistic T(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d))) is between -z and z, with q
    the likeliest share of "only B" under d: q = (sqrt(B^2 - 8 n C) - B) / 4n, B = (2n - b + c) d - b - c and
    C = -c d (1 - d). T falls in d, so each end is found by bisection. T(0) is McNemar's statistic. Where texts repeat
    b, c and n are divided by the design effect. Without items it is [-1, 1].
    """
    effects = np.array([pairs.design_effect for pairs in found])
    b, c, n = (
        np.array([getattr(pairs, name) for pairs in found], dtype=np.float64) / effects
        for name in ("only_a", "only_b", "num_items")
    )
    ends = [_tango_end(b, c, n, z), -_tango_end(c, b, n, z)]
    low, high = (np.where(n > 0, end, open_end) for end, open_end in zip(ends, (-1.0, 1.0), strict=True))
    return [Interval(float(x), float(y)) for x, y in zip(low, high, strict=True)]


def _tango_end(b: np.ndarray, c: np.ndarray, n: np.ndarray, z: float) -> np.ndarray:
    """The lower ends: where T falls under z. The upper ones are the lower ones of the two in the other order."""
    low, high = np.full_like(n, -1.0), (b - c) / np.maximum(n, 1e-300)
    for _ in range(NUM_STEPS):
        middle = (low + high) / 2
        is_outside = _tango_gap(middle, b, c, n, z) > 0
        low, high = np.where(is_outside, middle, low), np.where(is_outside, high, middle)
    return low


def _tango_gap(d: np.ndarray, b: np.ndarray, c: np.ndarray, n: np.ndarray, z: float) -> np.ndarray:
    """T(d) - z, times the root that T divides by, so that nothing is divided by 0."""
    linear, constant = (2 * n - b + c) * d - b - c, -c * d * (1 - d)
    q = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / np.maximum(4 * n, 1e-300)
    root: np.ndarray = np.sqrt(np.maximum(n * (2 * q + d * (1 - d)), 0.0))
    gap: np.ndarray = b - c - n * d - z * root
    return gap


def detectable_gap(pairs: Pairs, z: float, power: float = POWER) -> float:
    """The smallest true difference that these items would show with probability `power`, at most 1.

    The least e with z sqrt(d) + z_power sqrt(d - e^2) <= e sqrt(n) (Connor 1987 solved for e), d the share of items
    that only one gets right, as measured, but never under e itself. That is f sqrt(d), or f^2 where this is more, with
    f = (z sqrt(n) + z_power sqrt(n + z_power^2 - z^2)) / (n + z_power^2). 1 where n < z^2: then even all items on one
    side show nothing.
    """
    n, z_power = pairs.num_effective, normal_quantile(power)
    if n < z**2:
        return 1.0
    factor = (z * math.sqrt(n) + z_power * math.sqrt(n + z_power**2 - z**2)) / (n + z_power**2)
    return min(1.0, factor * max(math.sqrt(pairs.discordant), factor))


def items_for_gap(gap: float, discordant: float, z: float, power: float = POWER) -> int:
    """Items with which a true difference of `gap`, which the reader states, is found with probability `power`.

    Connor's (1987) n = (z sqrt(d) + z_power sqrt(d - e^2))^2 / e^2. Never put in the difference that was observed:
    where there is none it names any number.
    """
    return math.ceil(_needed(gap, discordant, z, power))


def _needed(gap: float, discordant: float, z: float, power: float) -> float:
    share = max(discordant, gap)
    root = z * math.sqrt(share) + normal_quantile(power) * math.sqrt(max(share - gap * gap, 0.0))
    return (root / gap) ** 2 if gap else math.inf


def calibrated_errors(deviations: np.ndarray, num_items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The calibration error (ECE) that calibrated models show on so many items: its mean, and what 95 % stay under.

    `deviations` (models, bins): the standard deviation of the number right in each bin, sqrt(sum of c (1 - c)) over its
    confidences c; `num_items` (models,). Each bin's |accuracy - confidence| is then that of a normal variable: the mean
    is sqrt(2 / pi) times the sum of the deviations over n, the end is that of NUM_DRAWS seeded draws.
    """
    draws = np.abs(np.random.default_rng(0).standard_normal((NUM_DRAWS, deviations.shape[1])))
    mean = math.sqrt(2 / math.pi) * deviations.sum(axis=1) / num_items
    high = np.array([np.quantile(draws @ row, LEVEL) for row in deviations]) / num_items
    return mean, high
