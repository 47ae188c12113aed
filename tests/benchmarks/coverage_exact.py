"""Coverage without drawing: every outcome of n items, weighted with its probability.

Invariant: a coverage from here is exact to the rounding of doubles; the interval is asked of the shipped functions,
once for each outcome.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from pipeline.reporting.stats import Interval, Pairs, design_effect, tango_intervals, wilson_interval

SLACK = 1e-12  # an end that is the truth itself holds it, whatever the last bit
CHUNK = 2_000  # tables whose bootstrap is computed at once


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """How `num_texts` texts of `copies` items each can fall: `only_a` and `only_b` count texts, (outcomes,).

    `heavy`: items of one more text, which is right under A alone, under B alone or neither: `side` is 1, -1 or 0.
    """

    only_a: np.ndarray
    only_b: np.ndarray
    side: np.ndarray
    num_texts: int
    copies: int = 1
    heavy: int = 0

    def pairs(self) -> list[Pairs]:
        """The 2x2 table of each, as a report would have counted it."""
        n = self.copies * self.num_texts + self.heavy
        b = self.copies * self.only_a + self.heavy * (self.side > 0)
        c = self.copies * self.only_b + self.heavy * (self.side < 0)
        squares = self.copies**2 * (self.only_a + self.only_b) + self.heavy**2 * np.abs(self.side)
        products = self.copies**2 * (self.only_a - self.only_b) + self.heavy**2 * self.side
        texts, weights = self.num_texts + (self.heavy > 0), self.copies**2 * self.num_texts + self.heavy**2
        return [
            Pairs(n - x - y, x, y, 0, design_effect(n, texts, x, y, s, p, weights))
            for x, y, s, p in zip(*(column.tolist() for column in (b, c, squares, products)), strict=True)
        ]

    def chances(self, discordant: float, difference: float) -> np.ndarray:
        """The probability of each where a text speaks for one side with `discordant`, for A less for B `difference`."""
        p, q = (discordant + difference) / 2, (discordant - difference) / 2
        rest = self.num_texts - self.only_a - self.only_b
        logs = gammaln(self.num_texts + 1) - sum(gammaln(k + 1) for k in (self.only_a, self.only_b, rest))
        logs = logs + xlogy(self.only_a, p) + xlogy(self.only_b, q) + xlogy(rest, 1 - discordant)
        return np.exp(logs) * (np.select([self.side > 0, self.side < 0], [p, q], 1 - discordant) if self.heavy else 1.0)


def every_outcome(num_texts: int, most: int | None = None, copies: int = 1, heavy: int = 0) -> Outcomes:
    """All of them with at most `most` texts that speak for one side: those with more are too rare to matter."""
    most = num_texts if most is None else min(most, num_texts)
    a, b = np.mgrid[: most + 1, : most + 1].reshape(2, -1)
    kept = a + b <= most
    a, b = a[kept], b[kept]
    sides = (0, 1, -1) if heavy else (0,)
    side = np.repeat(sides, len(a))
    return Outcomes(np.tile(a, len(sides)), np.tile(b, len(sides)), side, num_texts, copies, heavy)


def likely_most(num_texts: int, discordant: float) -> int:
    """Texts that speak for one side, more than which come with a probability under 1e-9."""
    return math.ceil(num_texts * discordant + 6 * math.sqrt(num_texts * discordant) + 12)


def tango_ends(outcomes: Outcomes, z: float) -> np.ndarray:
    """(outcomes, 2), low and high, of the shipped intervals."""
    return np.array(tango_intervals(outcomes.pairs(), z))


def bootstrap_ends(outcomes: Outcomes, level: float = 0.95) -> np.ndarray:
    """(outcomes, 2): the percentile interval of infinitely many draws of items, which the report printed before.

    A draw is a sum of n steps of 1, -1 or 0, so its distribution is the inverse transform of the n-th power of one
    step's. Items must be texts of their own.
    """
    n = outcomes.num_texts
    turns = np.exp(2j * np.pi * np.arange(n + 1) / (2 * n + 1))[None]  # half of the circle; the rest is its mirror
    ends = []
    for start in range(0, len(outcomes.only_a), CHUNK):
        a, b = (side[start : start + CHUNK, None] / n for side in (outcomes.only_a, outcomes.only_b))
        power = (a * turns + b / turns + (1 - a - b)) ** n
        falls = np.fft.fftshift(np.fft.irfft(power.conj(), 2 * n + 1), axes=1).cumsum(axis=1)  # of -n, ..., n
        ends.append([((falls < tail - 1e-12).sum(axis=1) - n) / n for tail in ((1 - level) / 2, (1 + level) / 2)])
    return np.concatenate(ends, axis=1).T


def coverage(ends: np.ndarray, chances: np.ndarray, truth: float) -> float:
    """The probability that an interval holds the truth."""
    inside = (ends[:, 0] <= truth + SLACK) & (ends[:, 1] >= truth - SLACK)
    return float(chances[inside].sum() / chances.sum())


def binomial(n: int, p: float) -> np.ndarray:
    """The probabilities of 0, ..., n."""
    k = np.arange(n + 1)
    return np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, p) + xlogy(n - k, 1 - p))


def wilson_coverage(n: int, p: float, copies: int = 1) -> float:
    """Of an accuracy p over n texts of `copies` items each."""
    return coverage(_ends([wilson_interval(copies * k, copies * n, n) for k in range(n + 1)]), binomial(n, p), p)


def random_wilson_coverage(n: int, share: float, p: float) -> float:
    """Of a proportion p over as many of n items as there happen to be, each with probability `share`: a precision."""
    chances = binomial(n, share)
    likely = np.flatnonzero(chances > 1e-9)
    found = [chances[m] * wilson_coverage(int(m), p) if m else chances[0] for m in likely]
    return float(np.sum(found))


def _ends(intervals: Sequence[Interval]) -> np.ndarray:
    return np.array(intervals)
