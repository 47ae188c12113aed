"""Prompts against prompts and rules against the headline rule, on the same items.

Invariant: every difference carries its paired interval and a p-value corrected within its named family; the words say
"established" only where the corrected p-value is under 5 %. A difference is over items; what is tested are independent
units, which are the distinct texts where texts repeat.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import polars as pl

from pipeline.reporting.items import text_key
from pipeline.reporting.stats import (
    ALPHA,
    Pairs,
    TextPattern,
    holm,
    items_to_settle,
    least_discordant,
    mcnemar_exact,
    paired_bootstrap,
    paired_standard_error,
)

# Families: what is compared and corrected together.
PROMPT_FAMILY = "Prompts compared under the headline rule"
RULE_FAMILY = "Rules compared with the headline rule, within each prompt"
TASK_FAMILY = "Rules compared with the headline rule, within each task"
RUN_FAMILY = "Two runs compared"

_WITHIN = {RULE_FAMILY: "Under '{}': ", TASK_FAMILY: "In '{}': "}

FEW = 6  # discordant items below which McNemar's exact test cannot get under 5 %, whatever they say

SCHEMA = {
    **dict.fromkeys(("family", "prompt_a", "rule_a", "prompt_b", "rule_b", "words"), pl.String),
    **dict.fromkeys(("n", "both", "only_a", "only_b", "neither", "num_texts", "texts_a", "texts_b"), pl.Int64),
    **dict.fromkeys(("difference", "standard_error", "low", "high", "p", "p_holm"), pl.Float64),
    "established": pl.Boolean,
    "items_to_settle": pl.Int64,
}


class Side(NamedTuple):
    """One of the two compared: a prompt under a rule, and what the words call it."""

    prompt: str
    rule: str
    name: str


def pair_counts(items: pl.DataFrame, texts: pl.DataFrame | None, a: str, b: str) -> Pairs:
    """The 2x2 table of two values of what `right_patterns` says of items, and of `texts`, where these repeat."""
    cells = {(x, y): n for x, y, n in items.group_by(_cell(a), _cell(b)).agg(pl.col("n").sum()).iter_rows()}
    both, only_a, only_b, neither = (cells.get(cell, 0) for cell in ((1, 1), (1, 0), (0, 1), (0, 0)))
    net = pl.col(_cell(a)).cast(pl.Int64) - pl.col(_cell(b)).cast(pl.Int64)
    return Pairs(both, only_a, only_b, neither, () if texts is None else count_patterns(texts.with_columns(net=net)))


def count_patterns(texts: pl.DataFrame) -> tuple[TextPattern, ...]:
    """`texts` has one row per kind of text: its items `rows`, their `net` difference, and the number n of such."""
    counts = texts.group_by("rows", "net").agg(pl.col("n").sum()).sort("rows", "net")
    return tuple(TextPattern(*map(int, row)) for row in counts.iter_rows())


def _cell(value: str) -> str:
    return f"right:{value}"  # a prompt may be called "n"


def right_patterns(
    predictions: pl.LazyFrame, unit: pl.Expr, column: Literal["prompt", "rule"], values: Sequence[str]
) -> pl.DataFrame:
    """Over items with a gold label: how often each pattern of right and wrong occurs across `values` of `column`.

    A `unit` is an item, or a text with all its items: `right:VALUE` is how many of them are right, `rows` how many
    there are, n the number of such units. `predictions` must be narrowed to one row per item and value.
    """
    right = [((pl.col(column) == value) & pl.col("correct")).sum().alias(_cell(value)) for value in values]
    return (
        predictions.drop_nulls("correct")
        .group_by(unit=unit)
        .agg(*right, rows=(pl.col(column) == values[0]).sum())
        .group_by("rows", *map(_cell, values))
        .agg(n=pl.len().cast(pl.Int64))
        .collect(engine="streaming")
    )


def compare_sides(family: str, found: Sequence[tuple[Side, Side, Pairs]]) -> pl.DataFrame:
    """One row per pair (columns in SCHEMA): difference, interval, tests corrected within the family, and words."""
    tests = [mcnemar_exact(pairs.units.only_a, pairs.units.only_b) for _, _, pairs in found]
    rows = [
        _row(family, *sides, p, p_holm, len(found)) for sides, p, p_holm in zip(found, tests, holm(tests), strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _row(family: str, a: Side, b: Side, pairs: Pairs, p: float, p_holm: float, size: int) -> tuple[object, ...]:
    interval, units = paired_bootstrap(pairs), pairs.units
    established = _is_established(pairs, p_holm)
    needed = None if established else _units_needed(pairs, ALPHA / size)
    words = describe_difference(a.name, b.name, pairs, p_holm, needed)
    return (
        family, a.prompt, a.rule, b.prompt, b.rule, f"{_WITHIN.get(family, '').format(a.prompt)}{words}",
        pairs.num_items, pairs.both, pairs.only_a, pairs.only_b, pairs.neither, units.num_items, units.only_a,
        units.only_b, pairs.difference, paired_standard_error(pairs), interval.low, interval.high, p, p_holm,
        established, needed,
    )  # fmt: skip


def _is_established(pairs: Pairs, p_holm: float) -> bool:
    return p_holm < ALPHA and pairs.units_agree


def _units_needed(pairs: Pairs, alpha: float) -> int | None:
    """Connor's number of items (of distinct texts, where they repeat), raised to what the exact test allows.

    Connor's formula is a normal approximation: with few and one-sided disagreements it asks for fewer items than there
    are, which have just failed, or for so few that the discrete test could not get under `alpha` on any outcome. None
    at equality, and where the texts do not share the items' difference.
    """
    units = pairs.units
    connor = items_to_settle(units, alpha) if pairs.units_agree else None
    if connor is None:
        return None
    discordant = units.only_a + units.only_b
    reachable = -(-least_discordant(alpha) * units.num_items // discordant)
    needed = max(connor, reachable, units.num_items + 1)
    unit = int(10 ** max(0, len(str(needed)) - 2))  # two digits: an order of magnitude is all that such a count tells
    return -(-needed // unit) * unit


def describe_difference(a: str, b: str, pairs: Pairs, p_holm: float, needed: int | None) -> str:
    """One sentence: which is better and whether that is established at this n, and if not, what would settle it."""
    gap, units = 100 * abs(pairs.difference), pairs.units
    n, what = f"{units.num_items:,}", "distinct texts" if pairs.texts else "items"
    better, worse = (a, b) if pairs.difference >= 0 else (b, a)
    if pairs.only_a == pairs.only_b:
        return f"{a} and {b} get the same number of the {pairs.num_items:,} items right; no difference is established."
    claim = f"{better} gets {gap:.1f} points more right than {worse}"
    if not pairs.units_agree:
        for_better, for_worse = sorted((units.only_a, units.only_b))
        return (
            f"{claim}, which is not established: it comes from texts that several items share; of the {n} distinct "
            f"texts {for_better:,} speak for {better} and {for_worse:,} for {worse}."
        )
    if _is_established(pairs, p_holm):
        return f"{claim}; established on these {n} {what}."
    discordant = units.only_a + units.only_b
    few = f"only {discordant} tell them apart, and " if discordant < FEW else ""
    settle = f"about {needed:,} {what} would settle it" if needed else f"more {what} would be needed"
    at = f"n = {n} {what}" if pairs.texts else f"n = {n}"
    return f"{claim}, which is not established at {at}; {few}{settle}."


def compare_prompts(
    predictions: pl.LazyFrame, prompts: Sequence[str], rule: str, units: pl.LazyFrame | None
) -> pl.DataFrame:
    """All pairs of prompts under one rule: the family PROMPT_FAMILY.

    `units`, where texts repeat: item_id, and as `unit` which text it has. Prompts may read other columns, and then see
    other texts; items are paired by item_id, and all pairs have the same units.
    """
    if len(prompts) < 2:
        return pl.DataFrame(schema=SCHEMA)
    chosen, unit = predictions.filter(pl.col("rule") == rule), None
    if units is not None:
        chosen, unit = chosen.join(units, on="item_id"), pl.col("unit")
    sides = [Side(prompt, rule, f"'{prompt}'") for prompt in prompts]
    pairs = list(combinations(sides, 2))
    return compare_sides(PROMPT_FAMILY, _count_sides(chosen, "prompt", pairs, unit))


def compare_rules(
    predictions: pl.LazyFrame,
    prompts: Sequence[str],
    rules: Sequence[str],
    headline: str,
    *,
    repeated: bool,
    family: str = RULE_FAMILY,
) -> pl.DataFrame:
    """Every other rule against the headline rule, within each prompt: one `family`, with one correction over all.

    Not all pairs of rules: the question is whether a rule beats the one that leads; asking 28 at once is fishing.
    `repeated`: whether texts repeat.
    """
    found = []
    for prompt in prompts:
        chosen = predictions.filter(pl.col("prompt") == prompt)
        lead = Side(prompt, headline, f"'{headline}'")
        pairs = [(Side(prompt, rule, f"'{rule}'"), lead) for rule in rules if rule != headline]
        found += _count_sides(chosen, "rule", pairs, text_key() if repeated else None)
    return compare_sides(family, found)


def _count_sides(
    predictions: pl.LazyFrame,
    column: Literal["prompt", "rule"],
    pairs: Sequence[tuple[Side, Side]],
    unit: pl.Expr | None,
) -> list[tuple[Side, Side, Pairs]]:
    """The counts of each pair of sides, which differ in `column`; `predictions` are of one value of the other.

    `unit`: which text an item has, where texts repeat.
    """
    values = list(dict.fromkeys(getattr(side, column) for pair in pairs for side in pair))
    items = right_patterns(predictions, pl.col("item_id"), column, values)
    texts = None if unit is None else right_patterns(predictions, unit, column, values)
    return [(a, b, pair_counts(items, texts, getattr(a, column), getattr(b, column))) for a, b in pairs]
