"""Arms against each other on the same items: differences with intervals that hold together, and their order.

Invariant: in a family every pair that a reader may pick out is counted, and all its intervals hold together with 95 %:
the leader is picked on the same items, so it is all pairs of the arms, not those with the leader. A difference is
established exactly where its interval excludes 0, which is where its p is under 5 %.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import polars as pl

from pipeline.reporting.agreement import Agreement, Arm
from pipeline.reporting.stats import (
    Interval,
    Pairs,
    critical_value,
    detectable_gap,
    score_p,
    tango_intervals,
)

Standing = Literal["leads", "same", "open", "worse"]

PAIRS_SCHEMA = {
    **dict.fromkeys(("prompt_a", "rule_a", "prompt_b", "rule_b"), pl.String),
    **dict.fromkeys(("n", "both", "only_a", "only_b", "neither"), pl.Int64),
    **dict.fromkeys(("design_effect", "difference", "low", "high", "p", "detectable"), pl.Float64),
    "established": pl.Boolean,
}
RANKING_SCHEMA = {
    **dict.fromkeys(("prompt", "rule"), pl.String),
    **dict.fromkeys(("num_correct", "num_gold"), pl.Int64),
    **dict.fromkeys(("accuracy", "behind", "low", "high", "detectable"), pl.Float64),
    "standing": pl.String,
}
Found = tuple[Arm, Arm, Pairs]


def compare_pairs(found: Sequence[Found], num_comparisons: int) -> pl.DataFrame:
    """One row per pair (columns in PAIRS_SCHEMA), in a family of `num_comparisons`.

    `difference` is A's accuracy less B's, `low` and `high` its interval, `detectable` the smallest true difference that
    would be established on these items 8 times in 10.
    """
    z = critical_value(num_comparisons)
    intervals = tango_intervals([pairs for _, _, pairs in found], z)
    rows = [
        (
            *a, *b, pairs.num_items, pairs.both, pairs.only_a, pairs.only_b, pairs.neither, pairs.design_effect,
            pairs.difference, *interval, score_p(pairs, num_comparisons), detectable_gap(pairs, z),
            excludes_zero(interval),
        )
        for (a, b, pairs), interval in zip(found, intervals, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=PAIRS_SCHEMA, orient="row")


def excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def all_pairs(agreement: Agreement, arms: Sequence[Arm]) -> list[Found]:
    """Each two of these arms, in their order."""
    return [(a, b, agreement.pairs(a, b)) for a, b in combinations(arms, 2)]


def distinct_arms(agreement: Agreement, arms: Sequence[Arm]) -> list[Arm]:
    """Of arms that are right on the very same items only the first: rules often say the same, and are then one."""
    kept: list[Arm] = []
    for arm in arms:
        if not any(agreement.same(arm, other) for other in kept):
            kept.append(arm)
    return kept


def num_pairs(num_arms: int) -> int:
    return num_arms * (num_arms - 1) // 2


def rank_arms(agreement: Agreement, arms: Sequence[Arm], num_comparisons: int) -> pl.DataFrame:
    """The arms, the most accurate first (columns in RANKING_SCHEMA), each against the leader; equals in their order.

    `behind` is the leader's accuracy less the arm's, `low` and `high` its interval in a family of `num_comparisons`,
    all null for the leader itself. `standing`: leads; same, where both are right on the very same items; open, where
    the interval holds 0; else worse.
    """
    order = sorted(arms, key=lambda arm: -agreement.num_right(arm))
    if not order or not agreement.num_items:
        return pl.DataFrame(schema=RANKING_SCHEMA)
    leader, *others = order
    compared = compare_pairs([(leader, arm, agreement.pairs(leader, arm)) for arm in others], num_comparisons)
    rows = [_ranked(agreement, leader, None)]
    rows += [_ranked(agreement, arm, row) for arm, row in zip(others, compared.iter_rows(named=True), strict=True)]
    return pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row")


def _ranked(agreement: Agreement, arm: Arm, row: dict[str, float] | None) -> tuple[object, ...]:
    num_right, n = agreement.num_right(arm), agreement.num_items
    if row is None:
        return *arm, num_right, n, num_right / n, None, None, None, None, "leads"
    standing: Standing = "worse" if row["established"] else "open"
    if row["only_a"] == row["only_b"] == 0:
        standing = "same"
    return *arm, num_right, n, num_right / n, row["difference"], row["low"], row["high"], row["detectable"], standing
