"""What a report found, in words: which prompt is best, which may be, which is not, and how far these items can tell.

Invariant: a sentence says no more than the interval it shows; "best", "worse" and "cannot be told" are the standings of
`verdict`, and no number of items is promised but for a gap that the reader states.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from pipeline.reporting.formats import interval, num_points, percent, points_ends
from pipeline.reporting.report import Report
from pipeline.reporting.stats import critical_value, items_for_gap

MAX_NAMED, MAX_RULES = 5, 3  # prompts and rules named in one sentence
FLATTERED = "Whatever is picked as the highest on these items is flattered by the picking; expect less on others."
NO_GAP = (
    "How many items a gap takes is said of prompts on the same items, and here are none to compare; of two runs "
    "'labelscore compare --gap' says it."
)


@dataclass(frozen=True, slots=True)
class Findings:
    """`verdict` is a few words, `words` go on after it; `sentences` are the rest, the most important first."""

    verdict: str
    words: str
    sentences: list[str]

    @property
    def lines(self) -> list[str]:
        return [f"{self.verdict}: {self.words}", *self.sentences]


def find(report: Report) -> Findings | None:
    """What there is to say; None where no item has a gold label."""
    if not report.has_gold:
        return None
    if report.has_tasks or report.headline.height == 1:
        found = _one_prompt(report) if report.headline.height == 1 else _tasks(report)
        return found if report.gap is None else replace(found, sentences=[*found.sentences, NO_GAP])
    ranking = report.verdict.prompts
    may_be_best = ranking.filter(pl.col("standing") != "worse")
    leader, num = ranking["prompt"][0], ranking.height
    verdict = f"'{leader}' is the best of {num} prompts"
    if may_be_best.height > 1:
        verdict = f"{may_be_best.height} of {num} prompts may be the best"
        if may_be_best.height == num:
            verdict = f"No prompt of {num} can be called the best"
    words = _accuracy_words(report, leader)
    if may_be_best.height > 1:
        num_level = ranking.filter(pl.col("num_correct") == ranking["num_correct"][0]).height - 1
        level = f", level with {num_level} other{'' if num_level == 1 else 's'}," if num_level else ""
        words = f"'{leader}' is highest{level} with {words}"
    words += "."
    sentences = [*_standing_lines(ranking), _sight_line(report), *_gap_lines(report), *_arm_lines(report), FLATTERED]
    return Findings(verdict, words, sentences)


def _one_prompt(report: Report) -> Findings:
    row = report.headline.row(0, named=True)
    what = "in the task" if report.has_tasks else "with the prompt"
    words = f"{what} '{row['prompt']}' {_accuracy_words(report, row['prompt'])}."
    arms = _arm_lines(report)
    was_picked = report.verdict.arms["rule"].head(1).to_list() != [report.headline_rule]
    return Findings(f"{percent(row['accuracy'])} right", words, [*arms, FLATTERED] if arms and was_picked else arms)


def _tasks(report: Report) -> Findings:
    """Tasks share no items, so each is held against guessing and none against another."""
    baselines = report.verdict.baselines
    above, below = pl.col("low") > 0, pl.col("high") < 0
    num_above = baselines.filter(above).height
    verdict = f"{num_above:,} of {baselines.height:,} tasks {'is' if num_above == 1 else 'are'} above guessing"
    words = f"under the rule '{report.headline_rule}', with 95 % confidence for all of them together."
    sentences = [
        f"{what}: {_name_arms(rows, _prompt_name, MAX_NAMED, with_ends=False)}."
        for what, rows in (
            ("Cannot be told from guessing", baselines.filter(~above & ~below)),
            ("Under guessing", baselines.filter(below)),
        )
        if rows.height
    ]
    return Findings(verdict, words, sentences)


def _accuracy_words(report: Report, prompt: str) -> str:
    """Such as `4,523 of 7,600 items under the rule 'sum' (59.5 %), 34.5 points more (32.8 to 36.2) than ...`."""
    row = report.headline.filter(pl.col("prompt") == prompt).row(0, named=True)
    words = f"{row['num_correct']:,} of {row['num_gold']:,} items under the rule '{row['rule']}'"
    # The interval of one prompt alone is too short for the highest of several.
    ends = f", {interval(row['low'], row['high'])}" if report.headline.height == 1 else ""
    return f"{words} ({percent(row['accuracy'])}{ends}), {baseline_words(report, prompt)}"


def baseline_words(report: Report, prompt: str) -> str:
    """How that stands to always answering the commonest class, or to guessing among the choices."""
    row = report.verdict.baselines.filter(pl.col("prompt") == prompt).row(0, named=True)
    what = "guessing among the choices" if row["answer"] is None else f"always answering '{row['answer']}'"
    what += f" ({percent(row['share'])})"
    if row["low"] > 0:
        return f"{num_points(row['difference'])} more ({points_ends(row['low'], row['high'])}) than {what}"
    if row["high"] < 0:
        return f"{num_points(-row['difference'])} less ({points_ends(-row['high'], -row['low'])}) than {what}"
    ends = points_ends(row["low"], row["high"])
    return f"which cannot be told from {what}: a difference of {num_points(row['difference'])} ({ends})"


def _standing_lines(ranking: pl.DataFrame) -> list[str]:
    """Those that cannot be told from the leader, and those that are worse, with their intervals."""
    leader = ranking["prompt"][0]
    lines = []
    for standing, words in (
        ("same", f"Right on the very same items as '{leader}'"),
        ("open", f"Cannot be told from '{leader}'"),
        ("worse", f"Worse than '{leader}'"),
    ):
        rows = ranking.filter(pl.col("standing") == standing)
        if rows.height:
            lines.append(f"{words}: {_name_arms(rows, _prompt_name, MAX_NAMED, with_ends=standing != 'same')}.")
    return lines


def _name_arms(rows: pl.DataFrame, name: Callable[[dict[str, Any]], str], most: int, *, with_ends: bool = True) -> str:
    named = [
        name(row) + (f" by {num_points(row['behind'])} ({points_ends(row['low'], row['high'])})" if with_ends else "")
        for row in rows.head(most).iter_rows(named=True)
    ]
    more = f" and {rows.height - most:,} more" if rows.height > most else ""
    return ("; " if with_ends else ", ").join(named) + more


def _prompt_name(row: dict[str, Any]) -> str:
    return f"'{row['prompt']}'"


def _sight_line(report: Report) -> str:
    """How far apart prompts can be that cannot be told apart, and what gap these items would show."""
    ranking, num_pairs = report.verdict.prompts, report.verdict.pairs.height
    pairs = f"all {num_pairs:,} pairs of prompts together"
    still = ranking.filter(pl.col("standing") == "open")
    detectable = max((still if still.height else ranking)["detectable"].drop_nulls())
    apart = ""
    if still.height:
        gaps = "that gap is" if still.height == 1 else "these gaps are"
        widest = still.select(pl.max_horizontal("high", -pl.col("low")).max()).item()
        hold = "" if num_pairs == 1 else f" (the 95 % hold for {pairs})"
        apart = f"With 95 % confidence {gaps} at most {num_points(widest)}{hold}. "
    if detectable == 1:
        return f"{apart}So few items ({report.num_gold:,}) can show no gap between prompts."
    level = f", with 95 % confidence for {pairs}" if not apart and num_pairs > 1 else ""
    return (
        f"{apart}These {report.num_gold:,} items would show a gap of {num_points(detectable)} or more to "
        f"'{ranking['prompt'][0]}' 8 times in 10{level}."
    )


def _gap_lines(report: Report) -> list[str]:
    """What the gap that the reader stated would take, and what looking again costs."""
    lines = []
    ranking = report.verdict.prompts
    if report.gap is not None and ranking.height > 1:
        lines.append(gap_line(report.gap, _pairs_in_sight(report), report.verdict.pairs.height))
    if ranking.height > 1 and (looks := earlier_looks(report)):
        times = "once" if looks == 1 else f"{looks:,} times"
        lines.append(
            f"This output was looked at {times} before with other items: the 95 % are for one look, and whoever stops "
            "at the first look that shows a difference finds one that is not there more often than 5 times in 100."
        )
    return lines


def _pairs_in_sight(report: Report) -> pl.DataFrame:
    """The pairs that `_sight_line` is about: of the leader with those that it is not told from, or with all others."""
    ranking, leader = report.verdict.prompts, pl.lit(report.verdict.prompts["prompt"][0])
    still = ranking.filter(pl.col("standing") == "open")
    names = (still if still.height else ranking[1:])["prompt"].implode()
    a, b = pl.col("prompt_a"), pl.col("prompt_b")
    return report.verdict.pairs.filter(((a == leader) & b.is_in(names)) | ((b == leader) & a.is_in(names)))


def gap_line(gap: float, pairs: pl.DataFrame, num_comparisons: int) -> str:
    """How many items would show a gap that the reader states (Connor) in whichever of these pairs needs the most."""
    needed, share, num_items = items_for_pairs(gap, pairs, num_comparisons)
    unit = 10 ** max(0, len(str(math.ceil(needed))) - 2)
    seen = "the disagreement seen here" if share >= gap else "the least disagreement that such a gap takes"
    words = (
        f"A gap of {num_points(gap)} would be shown 8 times in 10 by about {math.ceil(needed / unit) * unit:,} items, "
        f"at {seen} ({percent(max(share, gap))} of the items); these are {num_items:,}."
    )
    if needed > num_items:
        words += (
            " Settle on a number before looking again: each further look at growing data is another chance to find a "
            "gap that is not there."
        )
    return words


def items_for_pairs(gap: float, pairs: pl.DataFrame, num_comparisons: int) -> tuple[float, float, int]:
    """The items that would show a gap in the pair that needs the most, its share of disagreement, and its items."""
    z, rows = critical_value(num_comparisons), pairs.select("n", "only_a", "only_b", "design_effect").rows()
    needs = [((only_a + only_b) / n, n, effect) for n, only_a, only_b, effect in rows]
    return max((items_for_gap(gap, d, z) * effect, d, n) for d, n, effect in needs)


def earlier_looks(report: Report) -> int:
    """How many earlier runs of this output had other items: each was a look at the same question."""
    own = report.history.filter(pl.col("run_id") == report.manifest.run_id)
    num_gold = own["num_gold"].max() if own.height else report.num_gold
    others = report.history.filter(pl.col("run_id") != report.manifest.run_id, pl.col("num_gold") > 0)
    return int(others.filter(pl.col("num_gold") != num_gold)["run_id"].n_unique())


def but_left_out(report: Report) -> str:
    """How `all rules` goes on where one is no candidate for the highest: ` but 'notebook'`; mostly empty."""
    judged = set(report.verdict.arms["rule"])
    left_out = [f"'{rule}'" for rule in report.rules if rule not in judged]
    return f" but {', '.join(left_out)}" if judged and left_out else ""


def _arm_lines(report: Report) -> list[str]:
    """The best of all prompts and rules, by the same standard: the rule that leads a report was only named first."""
    arms, num_arms, lead = report.verdict.arms, report.verdict.num_arms, report.headline_rule
    if num_arms < 2 or arms["rule"].n_unique() < 2:
        return []
    has_prompts = report.headline.height > 1

    def name(row: dict[str, Any]) -> str:
        return f"'{row['prompt']}' with '{row['rule']}'" if has_prompts else f"'{row['rule']}'"

    rules = f"{'all prompts under all' if has_prompts else 'the'} rules{but_left_out(report)}"
    what = f"Of {rules} ({num_arms:,} that differ)"
    best = arms.row(0, named=True)
    if best["rule"] == lead:
        words = f"{what} {name(best)} is highest{', too' if has_prompts else ''}."
    else:
        words = f"{what} {name(best)} is highest: {percent(best['accuracy'])}."
    best_of_each = arms.unique("rule", keep="first", maintain_order=True).filter(pl.col("rule") != best["rule"])
    remaining = "the best of each remaining rule" if has_prompts else "each remaining rule"
    lead_first = best_of_each.sort(pl.col("rule") != lead, maintain_order=True)
    return [" ".join([words, *_rule_lines(lead_first, lead, name, remaining)])]


def _rule_lines(
    best_of_each: pl.DataFrame, lead: str, name: Callable[[dict[str, Any]], str], remaining: str
) -> list[str]:
    """The best arm of each other rule against the best of all, the headline rule first."""
    same, still, worse = (best_of_each.filter(pl.col("standing") == each) for each in ("same", "open", "worse"))
    lines = []
    if same.height:
        lines.append(f"Right on the very same items: {_name_arms(same, name, MAX_RULES, with_ends=False)}.")
    if still.height:
        lines.append(f"Cannot be told from it: {_name_arms(still, name, MAX_RULES)}.")
    if worse.height:
        named = worse.filter(pl.col("rule") == lead)
        if worse.height - named.height < 2:
            lines.append(f"Worse than it: {_name_arms(worse, name, MAX_RULES)}.")
        else:
            lead_words = f"{_name_arms(named, name, MAX_RULES)} and " if named.height else ""
            lines.append(f"Worse than it: {lead_words}{remaining}.")
    return lines
