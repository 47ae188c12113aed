"""The evidence of one pair by the slow obvious way: one item and one stake after the other.

Invariant: nothing of the fast path is used but the list of stakes; means are fractions, so that no rounding decides.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from pipeline.choosing.evidence import STAKES


def slow_evidence(x: Sequence[int], null_mean: Fraction, num_items: int | None = None) -> float:
    """What all stakes together made of 1 on items with these `x` (-1, 0 or 1); infinite where the null is refuted."""
    odds = slow_odds(x, null_mean, num_items)
    if odds is None:
        return math.inf
    return sum(math.prod(1 + float(stake) * one for one in odds) for stake in STAKES) / len(STAKES)


def slow_log(x: Sequence[int], null_mean: Fraction, num_items: int | None = None) -> float:
    return math.log(slow_evidence(x, null_mean, num_items))


def slow_odds(x: Sequence[int], null_mean: Fraction, num_items: int | None) -> list[float] | None:
    """What each item pays on a stake of 1; None where no rest of the file could make up for what was seen."""
    odds, total = [], 0
    for place, one in enumerate(x):
        mean = null_mean if num_items is None else (num_items * null_mean - total) / (num_items - place)
        total += one
        if num_items is not None and num_items * null_mean - total < -(num_items - place - 1):
            return None
        odds.append(float((one - mean) / (1 + mean)) if -1 < mean < 1 else 0.0)
    return odds
