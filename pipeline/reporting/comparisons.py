"""Prompts against prompts and rules against the headline rule, on the same items.

Invariant: every difference carries its paired interval and a p-value corrected within its named family; the words say
"established" only where the corrected p-value is under 5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from pipeline.reporting.stats import (
    ALPHA,
    POWER,
    Pairs,
    holm,
    items_to_settle,
    least_discordant,
    mcnemar_exact,
    paired_bootstrap,
    paired_standard_error,
)

PROMPTS = "prompts under the headline rule"
RULES = "rules within a prompt"
RUNS = "two runs"
FEW = 6  # discordant items below which McNemar's exact test cannot get under 5 %, whatever they say

ASSUMPTIONS = (
    f"Differences are in points of accuracy on the same items, with a paired bootstrap interval (95 %, 10,000 seeded "
    f"draws). p is McNemar's exact test, corrected by Holm's method within the family; a difference counts as "
    f"established when the corrected p is under {ALPHA:.2f}. The number of items that would settle a difference is "
    f"Connor's (1987), for a power of {POWER:.0%} at {ALPHA:.2f} divided by the size of the family, and never fewer "
    "than give the exact test enough disagreements to get there; it assumes that both rates of disagreement stay as "
    "measured, so take it as an order of magnitude."
)

SCHEMA = {
    "family": pl.String,
    "prompt_a": pl.String,
    "rule_a": pl.String,
    "prompt_b": pl.String,
    "rule_b": pl.String,
    "n": pl.Int64,
    "both": pl.Int64,
    "only_a": pl.Int64,
    "only_b": pl.Int64,
    "neither": pl.Int64,
    "difference": pl.Float64,
    "standard_error": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "established": pl.Boolean,
    "items_to_settle": pl.Int64,
    "words": pl.String,
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two compared: a prompt under a rule, and what the words call it."""

    prompt: str
    rule: str
    name: str


def pair_counts(right: pl.DataFrame, a: str, b: str) -> Pairs:
    """The 2x2 table of two columns of `right`, which has one row per pattern of right and wrong, and its count n."""
    cells = {(x, y): n for x, y, n in right.group_by(_cell(a), _cell(b)).agg(pl.col("n").sum()).iter_rows()}
    return Pairs(*(int(cells.get(cell, 0)) for cell in ((True, True), (True, False), (False, True), (False, False))))


def _cell(value: str) -> str:
    return f"right:{value}"  # a prompt may be called "n"


def right_patterns(predictions: pl.LazyFrame, column: str, values: Sequence[str]) -> pl.DataFrame:
    """Over items with a gold label: how often each pattern of right and wrong occurs across `values` of `column`.

    One boolean column `right:VALUE` per value, and n. `predictions` must be narrowed to one row per item and value.
    """
    cells = [pl.when(pl.col(column) == value).then(pl.col("correct")).max().alias(_cell(value)) for value in values]
    return (
        predictions.drop_nulls("correct")
        .group_by("item_id")
        .agg(cells)
        .group_by(map(_cell, values))
        .agg(n=pl.len().cast(pl.Int64))
        .collect(engine="streaming")
    )


def compare_sides(family: str, found: Sequence[tuple[Side, Side, Pairs]], seed: int = 0) -> pl.DataFrame:
    """One row per pair (columns in SCHEMA): difference, interval, tests corrected within the family, and words."""
    adjusted = holm([mcnemar_exact(pairs.only_a, pairs.only_b) for _, _, pairs in found])
    rows = [_row(family, a, b, pairs, p, len(found), seed) for (a, b, pairs), p in zip(found, adjusted, strict=True)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _row(family: str, a: Side, b: Side, pairs: Pairs, p_holm: float, size: int, seed: int) -> tuple[object, ...]:
    interval = paired_bootstrap(pairs, seed)
    established = p_holm < ALPHA
    needed = None if established else _two_digits(_items_needed(pairs, ALPHA / size))
    words = say_difference(a.name, b.name, pairs, p_holm, needed)
    return (
        family, a.prompt, a.rule, b.prompt, b.rule, pairs.num_items, pairs.both, pairs.only_a, pairs.only_b,
        pairs.neither, pairs.difference, paired_standard_error(pairs), interval.low, interval.high,
        mcnemar_exact(pairs.only_a, pairs.only_b), p_holm, established, needed,
        f"Under '{a.prompt}': {words}" if family == RULES else words,
    )  # fmt: skip


def _items_needed(pairs: Pairs, alpha: float) -> int | None:
    """Connor's number of items, raised to what the exact test allows; None at equality.

    Connor's formula is a normal approximation: with few and one-sided disagreements it asks for fewer items than there
    are, which have just failed, or for so few that the discrete test could not get under `alpha` on any outcome.
    """
    connor = items_to_settle(pairs, alpha)
    if connor is None:
        return None
    discordant = pairs.only_a + pairs.only_b
    reachable = -(-least_discordant(alpha) * pairs.num_items // discordant)
    return max(connor, reachable, pairs.num_items + 1)


def _two_digits(count: int | None) -> int | None:
    """Rounded up: an order of magnitude is all that such a count tells."""
    if count is None:
        return None
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def say_difference(a: str, b: str, pairs: Pairs, p_holm: float, needed: int | None) -> str:
    """One sentence: which is better and whether that is established at this n, and if not, what would settle it."""
    n, gap = pairs.num_items, 100 * abs(pairs.difference)
    better, worse = (a, b) if pairs.difference >= 0 else (b, a)
    if pairs.only_a == pairs.only_b:
        return f"{a} and {b} get the same number of the {n:,} items right; no difference is established."
    claim = f"{better} gets {gap:.1f} points more right than {worse}"
    if p_holm < ALPHA:
        return f"{claim}; established on these {n:,} items."
    discordant = pairs.only_a + pairs.only_b
    few = f"only {discordant} tell them apart, and " if discordant < FEW else ""
    settle = f"about {needed:,} items would settle it" if needed else "more items would be needed"
    return f"{claim}, which is not established at n = {n:,}; {few}{settle}."


def compare_prompts(predictions: pl.LazyFrame, prompts: Sequence[str], rule: str) -> pl.DataFrame:
    """All pairs of prompts under one rule: the family PROMPTS."""
    if len(prompts) < 2:
        return pl.DataFrame(schema=SCHEMA)
    right = right_patterns(predictions.filter(pl.col("rule") == rule), "prompt", prompts)
    sides = {prompt: Side(prompt, rule, f"'{prompt}'") for prompt in prompts}
    return compare_sides(PROMPTS, [(sides[a], sides[b], pair_counts(right, a, b)) for a, b in combinations(prompts, 2)])


def compare_rules(
    predictions: pl.LazyFrame, prompts: Sequence[str], rules: Sequence[str], headline: str
) -> pl.DataFrame:
    """Every other rule against the headline rule, within each prompt: the family RULES, one correction over all.

    Not all pairs of rules: the question is whether a rule beats the one that leads; asking 28 at once is fishing.
    """
    found = []
    for prompt in prompts:
        right = right_patterns(predictions.filter(pl.col("prompt") == prompt), "rule", rules)
        lead = Side(prompt, headline, f"'{headline}'")
        for rule in rules:
            if rule != headline:
                side = Side(prompt, rule, f"'{rule}'")
                found.append((side, lead, pair_counts(right, rule, headline)))
    return compare_sides(RULES, found)
