"""The verdict of a report as figures: which arms lead, which may be as good, and what one answer for all would get.

Invariant: prompts and rules are held to one standard, that of `comparisons`; whatever the words claim is a row here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.reporting.agreement import COMMONEST, Agreement, Arm
from pipeline.reporting.comparisons import (
    PAIRS_SCHEMA,
    RANKING_SCHEMA,
    all_pairs,
    compare_pairs,
    distinct_arms,
    num_pairs,
    rank_arms,
)
from pipeline.reporting.stats import Interval, level_of_each, wilson_interval

NOT_AN_ARM = "notebook"  # a mistake that is kept for its figures: no candidate, unless it leads the report
BASELINES_SCHEMA = {
    **dict.fromkeys(("prompt", "answer"), pl.String),
    **dict.fromkeys(("share", "difference", "low", "high"), pl.Float64),
}


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """`prompts` under the headline rule, ranked, and all their `pairs`; both empty of tasks, which share no items.

    `arms`: each prompt under each rule that counts, ranked, of each task for itself; `num_arms` different ones make
    `num_arm_pairs` pairs. `baselines` (prompt, answer, share, difference, low, high): how much more each gets right
    under the headline rule than always answering the commonest class (`answer`), or than guessing among an item's
    choices (`answer` null); these intervals hold together, too.
    """

    prompts: pl.DataFrame
    pairs: pl.DataFrame
    arms: pl.DataFrame
    num_arms: int
    num_arm_pairs: int
    baselines: pl.DataFrame


def make_verdict(
    agreements: Mapping[str, Agreement],
    summary: pl.DataFrame,
    headline: str,
    chances: Mapping[str, float],
    commonest: str | None,
    num_classes: int,
    *,
    of_tasks: bool,
) -> Verdict:
    """What the right answers of each group of arms (`Tallies.agreements`) say; nothing of one without gold labels.

    `summary`: the figures of each prompt and rule; `commonest`: the name of the class that most of the items have, one
    of `num_classes`: it is picked on the same items, so each class counts as a comparison.
    """
    judged = [agreement for agreement in agreements.values() if agreement.num_items]
    arms = [_candidates(agreement, headline) for agreement in judged]
    num_distinct = [len(distinct_arms(*group)) for group in zip(judged, arms, strict=True)]
    size = sum(map(num_pairs, num_distinct))
    ranked = [rank_arms(*group, size) for group in zip(judged, arms, strict=True)]
    prompts, pairs = pl.DataFrame(schema=RANKING_SCHEMA), pl.DataFrame(schema=PAIRS_SCHEMA)
    if judged and not of_tasks:
        (agreement,) = judged
        own = [arm for arm in agreement.arms if arm.rule == headline]
        prompts = rank_arms(agreement, own, num_pairs(len(own)))
        pairs = compare_pairs(all_pairs(agreement, own), num_pairs(len(own)))
    return Verdict(
        prompts=prompts,
        pairs=pairs,
        arms=pl.concat([pl.DataFrame(schema=RANKING_SCHEMA), *ranked]),
        num_arms=sum(num_distinct),
        num_arm_pairs=size,
        baselines=_baselines(judged, summary.filter(pl.col("rule") == headline), chances, commonest, num_classes),
    )


def _candidates(agreement: Agreement, headline: str) -> list[Arm]:
    """The arms that count, those of the headline rule first: of equals the one leads that leads the report."""
    left_out = {NOT_AN_ARM} - {headline}
    found = [arm for arm in agreement.arms if arm.prompt != COMMONEST and arm.rule not in left_out]
    return sorted(found, key=lambda arm: arm.rule != headline)


def _baselines(
    judged: Sequence[Agreement],
    headline: pl.DataFrame,
    chances: Mapping[str, float],
    commonest: str | None,
    num_classes: int,
) -> pl.DataFrame:
    rows = headline.filter(pl.col("num_gold") > 0)
    if commonest is None:
        level = level_of_each(rows.height)
        over = [_over_chance(row, chances[row["prompt"]], level) for row in rows.iter_rows(named=True)]
        return pl.DataFrame(over, schema=BASELINES_SCHEMA, orient="row")
    if not judged:
        return pl.DataFrame(schema=BASELINES_SCHEMA)
    (agreement,) = judged
    always = Arm(COMMONEST, "")
    own = [Arm(row["prompt"], row["rule"]) for row in rows.iter_rows(named=True)]
    pairs = compare_pairs([(arm, always, agreement.pairs(arm, always)) for arm in own], len(own) * num_classes)
    share = agreement.num_right(always) / agreement.num_items
    found = pairs.select(prompt="prompt_a", answer=pl.lit(commonest), share=pl.lit(share), difference="difference")
    return found.with_columns(pairs.select("low", "high"))


def _over_chance(row: dict[str, float], chance: float, level: float) -> tuple[object, ...]:
    """Guessing is no answer whose mistakes are known, so only the accuracy varies."""
    ends = wilson_interval(int(row["num_correct"]), int(row["num_gold"]), row["num_effective"], level)
    above = Interval(ends.low - chance, ends.high - chance)
    return row["prompt"], None, chance, row["accuracy"] - chance, *above
