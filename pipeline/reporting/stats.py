"""The statistics behind the report's intervals and tests.

Invariant: pure functions of counts; the same counts (and seed) give the same figures.

scipy has the binomial test and Wilson's interval, but costs 113 MB and 0.8 s of import for these two; numpy and the
standard library do them in a few lines, which the tests check against scipy and statsmodels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8
NUM_DRAWS = 10_000
normal_quantile = NormalDist().inv_cdf
MAX_CELLS = 5_000_000  # of a bootstrap's draws in memory at once: 40 MB


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


class TextPattern(NamedTuple):
    """`num_texts` distinct texts of `rows` items each, `net` of them right under A less those right under B."""

    rows: int
    net: int
    num_texts: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """Items by whether predictions A and B are right: both, only A, only B, neither.

    `texts`: the same items by their distinct texts, which are the units of every test and interval; empty where no text
    repeats and each item is a unit.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    texts: tuple[TextPattern, ...] = ()

    @property
    def num_items(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of A minus accuracy of B; 0 where there are no items."""
        return (self.only_a - self.only_b) / self.num_items if self.num_items else 0.0

    @property
    def patterns(self) -> tuple[TextPattern, ...]:
        """The units of every test and interval: `texts`, or each item as a text of its own."""
        rest = self.both + self.neither
        return self.texts or (TextPattern(1, 1, self.only_a), TextPattern(1, -1, self.only_b), TextPattern(1, 0, rest))

    @property
    def units(self) -> "Pairs":
        """The units by which side they speak for.

        Texts with more items right under A are its `only_a`, those with more under B its `only_b`, the others `both`.
        """
        only_a = sum(text.num_texts for text in self.patterns if text.net > 0)
        only_b = sum(text.num_texts for text in self.patterns if text.net < 0)
        return Pairs(sum(text.num_texts for text in self.patterns) - only_a - only_b, only_a, only_b, 0)

    @property
    def units_agree(self) -> bool:
        """Whether more units speak for the side that has more items right: one text of many items may outweigh them."""
        return self.difference * self.units.difference > 0


def paired_standard_error(pairs: Pairs) -> float:
    """Standard error of the mean of the per-item differences (1, 0 or -1); nan below two units.

    What two independent samples of the same accuracies would have is larger: the items both get right cancel.
    Texts are clusters: sqrt(T / (T - 1) sum_t (d_t - w_t D)^2) / n, with w_t items of text t, d_t their net difference
    and D the difference over all n items (a ratio of cluster totals: Cochran 1977); where none repeats w_t is 1.
    """
    rows, net, num_texts = np.array(pairs.patterns, dtype=np.float64).T  # each (patterns,)
    count = float(num_texts.sum())
    if count < 2:
        return math.nan
    squares = float((num_texts * (net - rows * pairs.difference) ** 2).sum())
    return math.sqrt(count / (count - 1) * squares) / pairs.num_items


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """McNemar's exact test: two-sided binomial p-value of the discordant items under a fair coin (McNemar 1947).

    Of texts instead of items (`Pairs.units`) it is the exact sign test over texts.
    p = min(1, 2 P(X <= min(only_a, only_b))), X binomial(only_a + only_b, 1/2).
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if 2 * k == n:
        return 1.0
    # The tail is its last term times 1 + k/(n-k+1) + ...; every term is positive and the ratios fall, so it is stable.
    log_last = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    down = np.arange(k, 0, -1, dtype=np.float64)
    terms = np.cumprod(down / (n - down + 1))
    return min(1.0, 2 * math.exp(log_last) * (1.0 + float(terms.sum())))


def paired_bootstrap(pairs: Pairs, seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL) -> Interval:
    """Percentile interval of the difference in accuracy over resampled items (Efron and Tibshirani 1993).

    Drawing items with replacement makes the 2x2 table a multinomial, so the table is drawn instead of the items. Where
    texts repeat they are drawn, each with its items, and the difference of a draw is over the items drawn.
    """
    if pairs.num_items == 0:
        return Interval(math.nan, math.nan)
    differences = _draw_texts(pairs.patterns, np.random.default_rng(seed), num_draws)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _draw_texts(texts: Sequence[TextPattern], rng: np.random.Generator, num_draws: int) -> np.ndarray:
    """The difference in each of `num_draws` samples of texts with replacement. Returns (draws,)."""
    # Ordered as the 2x2 table is, the undecided last: items that are all there k times draw as they would once.
    ordered = sorted(texts, key=lambda text: (text.net == 0, text.net < 0, text))
    rest = [] if ordered[-1].net == 0 else [TextPattern(1, 0, 0)]
    rows, net, num_texts = np.array([*ordered, *rest]).T  # each (patterns,)
    total, step = int(num_texts.sum()), max(1, MAX_CELLS // len(rows))
    parts = []
    for start in range(0, num_draws, step):
        size = min(step, num_draws - start)
        draws = rng.multinomial(total, num_texts / total, size=size)  # (part of the draws, patterns)
        parts.append((draws @ net) / (draws @ rows))
    return np.concatenate(parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    p = np.array(p_values, dtype=np.float64)  # (comparisons,)
    order = np.argsort(p, kind="stable")
    p[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return list(map(float, p))


def least_discordant(alpha: float = ALPHA) -> int:
    """Discordant items below which McNemar's exact test stays at or above `alpha` even if all of them agree.

    With m of them on one side p = 2 * 2^-m, so it is the smallest m with 2^(1-m) < alpha.
    """
    return math.floor(1 - math.log2(alpha)) + 1


def items_to_settle(pairs: Pairs, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Items needed to establish the measured difference, if both discordant rates stay as measured; None at equality.

    Connor (1987): n = (z_{1-alpha/2} sqrt(d) + z_power sqrt(d - e^2))^2 / e^2, with d the share of discordant items
    and e the difference; a two-sided test at `alpha` then finds the difference with probability `power`.
    """
    if pairs.only_a == pairs.only_b:
        return None
    discordant = (pairs.only_a + pairs.only_b) / pairs.num_items
    gap = abs(pairs.difference)
    z = normal_quantile(1 - alpha / 2) * math.sqrt(discordant) + normal_quantile(power) * math.sqrt(discordant - gap**2)
    return math.ceil((z / gap) ** 2)
