"""How differences were told apart, and their tables: in a report and between two runs.

Invariant: groups come first, a table of all pairs is folded; both show the same intervals.
"""

import polars as pl

from pipeline.reporting.document import Block, Bullets, Field, Folded, Paragraph, Section, make_table
from pipeline.reporting.findings import but_left_out, gap_line
from pipeline.reporting.formats import (
    NONE,
    count,
    exact,
    num_points,
    p_value,
    percent,
    points,
    points_ends,
    points_interval,
)
from pipeline.reporting.report import Report
from pipeline.reporting.stats import level_of_each

MAX_SENTENCES = 20  # of a comparison of two runs; the table has every row
MAX_ARMS = 60  # rows of the table of all prompts and rules
MAX_PAIRS = 28  # rows of the table of all pairs in report.md: those of eight prompts
STANDINGS = {
    "leads": "highest",
    "same": "right on the same items",
    "open": "cannot be told from it",
    "worse": "worse",
}

ASSUMPTIONS = (
    "Differences are in points of accuracy on the same items. Each interval is Tango's (1998) score interval of paired "
    "proportions, at a level raised by Bonferroni's inequality so that all intervals of a family hold together with "
    "95 %: with {num} in it, each at {level}. A difference is called established, and a prompt worse, exactly where "
    "the interval excludes 0, which is where p (McNemar's score test, times the number of pairs, at most 1) is under "
    "0.05. What would be shown 8 times in 10 is Connor's (1987), at the share of items that only one of the two gets "
    "right."
)
REPEATED = (
    "Texts repeat here, so a text with all its items is one unit of these tests: counts are divided by the design "
    "effect, which is by how much that raises the variance of the difference."
)


def standing_word(standing: str) -> str:
    return STANDINGS[standing]


def behind(difference: float | None) -> str:
    return NONE if difference is None else num_points(difference).removesuffix("s").removesuffix(" point")


RANKING_FIELDS: tuple[Field, ...] = (
    ("points behind", behind, "behind"),
    ("95 % together", points_interval, "low", "high"),
    ("verdict", standing_word, "standing"),
)


def assumptions(num_pairs: int, *, repeats: bool) -> Paragraph:
    """How the intervals of a family of so many pairs are made, and what texts that repeat change about it."""
    level = percent(level_of_each(num_pairs), 1 + len(str(num_pairs)))  # never 100 %
    words = ASSUMPTIONS.format(num=f"{num_pairs:,} pair{'' if num_pairs == 1 else 's'}", level=level)
    return Paragraph(f"{words} {REPEATED}" if repeats else words, note=True)


def prompt_pairs(report: Report) -> Section | None:
    """All pairs of prompts, folded, and how they were told apart; None of tasks, which share no items."""
    if report.has_tasks:
        return None
    pairs = report.verdict.pairs
    if pairs.is_empty():
        why = "There is one prompt" if report.has_gold else "No item has a gold label"
        blocks: list[Block] = [Paragraph(f"{why}, so there is nothing to compare.")]
    else:
        num_open = pairs.height - int(pairs["established"].sum())
        note = f"{num_open:,} of {pairs.height:,} differences are not established"
        table = make_table(f"All pairs of prompts under the rule '{report.headline_rule}'", pairs, pair_fields(pairs))
        is_long = pairs.height > MAX_PAIRS
        folded = Folded("All pairs of prompts", note, [table], page_only=is_long)
        blocks = [assumptions(pairs.height, repeats=report.repeats), folded]
    return Section("comparisons", "How the prompts were told apart", blocks)


def pair_fields(pairs: pl.DataFrame, unit: str = "prompt") -> list[Field]:
    """The columns of a table of pairs of prompts; the design effect only where there is one."""
    by_text = bool((pairs["design_effect"] > 1).any())
    return [
        (f"{unit} A", exact, "prompt_a"),
        (f"{unit} B", exact, "prompt_b"),
        ("A \N{MINUS SIGN} B, points", points, "difference"),
        ("95 % interval", points_interval, "low", "high"),
        ("only A right", count, "only_a"),
        ("only B right", count, "only_b"),
        *([("design effect", "{:.2f}".format, "design_effect")] if by_text else []),
        ("p", p_value, "p"),
        ("shown 8 times in 10 from", num_points, "detectable"),
    ]


def arms_table(report: Report) -> list[Block]:
    """Every prompt (or task) under every rule that counts, ranked, and how they were told apart."""
    arms = report.verdict.arms
    if arms.height < 2:
        return []
    shown = arms.head(MAX_ARMS) if not report.has_tasks else arms
    highest = "the highest of its task" if report.has_tasks else "the highest"
    caption = f"Every {report.unit} under every rule{but_left_out(report)}, against {highest}"
    if shown.height < arms.height:
        caption += f"; the first {shown.height:,} of {arms.height:,}"
    fields: tuple[Field, ...] = (
        (report.unit, exact, "prompt"),
        ("rule", exact, "rule"),
        ("accuracy", percent, "accuracy"),
    )
    table = make_table(caption, shown, (*fields, *RANKING_FIELDS))
    return [table, assumptions(report.verdict.num_arm_pairs, repeats=report.repeats)]


def comparison_section(
    comparisons: pl.DataFrame, nothing: str, *, by_task: bool = False, gap: float | None = None
) -> Section:
    """Two runs compared, each prompt or task in both, or `nothing`; `gap`: what the reader wants to see."""
    title = "Which differences hold"
    if comparisons.is_empty():
        return Section("comparisons", title, [Paragraph(nothing)])
    by = ("established", pl.col("difference").abs())  # what holds first, so that it is never cut off
    shown = comparisons.sort(*by, descending=True, maintain_order=True).head(MAX_SENTENCES)
    blocks: list[Block] = [Bullets([run_words(row) for row in shown.iter_rows(named=True)])]
    if gap is not None:
        blocks.append(Paragraph(gap_line(gap, comparisons, comparisons.height)))
    table = make_table(
        "The two runs on the items in both", comparisons, pair_fields(comparisons, "task" if by_task else "prompt")
    )
    repeats = bool((comparisons["design_effect"] > 1).any())
    return Section("comparisons", title, [*blocks, table, assumptions(comparisons.height, repeats=repeats)])


def run_words(row: dict[str, float | str | bool]) -> str:
    """One sentence on a pair of two runs: which is better and by how much, or how far apart they can be."""
    a, b = f"'{row['prompt_a']}' in A", f"'{row['prompt_b']}' in B"
    if row["only_a"] == row["only_b"] == 0:
        return f"{a} and {b} are right on the very same of the {row['n']:,} items."
    difference, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    if row["established"]:
        better, worse = (a, b) if difference > 0 else (b, a)
        ends = sorted((abs(low), abs(high)))
        return f"{better} gets {num_points(abs(difference))} more right than {worse} ({points_ends(*ends)})."
    widest = max(-low, high)
    counts = f"{row['only_a']:,} items only A gets right, {row['only_b']:,} only B"
    apart = f"with 95 % confidence they are at most {num_points(widest)} apart"
    return f"{a} and {b} cannot be told apart ({counts}): {apart}."
