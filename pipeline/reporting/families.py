"""Comparisons that were corrected together, as sentences and a table: in a report and between two runs.

Invariant: of a large family only what is not established gets a sentence; the table has every row.
"""

from typing import Literal

import polars as pl

from pipeline.reporting.document import Block, Bullets, Field, Paragraph, Section, make_table
from pipeline.reporting.formats import count, exact, p_value, points, points_interval, spread
from pipeline.reporting.stats import ALPHA, POWER

MAX_SENTENCES = 10  # comparisons up to which each gets its sentence

ASSUMPTIONS = (
    f"Differences are in points of accuracy on the same items, with a paired bootstrap interval (95 %, 10,000 seeded "
    f"draws). p is McNemar's exact test, corrected by Holm's method within the family; a difference counts as "
    f"established when the corrected p is under {ALPHA:.2f}. The number of items that would settle a difference is "
    f"Connor's (1987), for a power of {POWER:.0%} at {ALPHA:.2f} divided by the size of the family, and never fewer "
    "than give the exact test enough disagreements to get there; it assumes that both rates of disagreement stay as "
    "measured, so take it as an order of magnitude."
)

REPEATED = (
    "Texts repeat here, so a text with all its items is one unit: the interval and the standard error take whole "
    "texts, p is the exact sign test over texts (those with more items right under A against those with more under B), "
    "which is McNemar's where nothing repeats, and what would settle a difference is counted in distinct texts. A "
    "difference that comes only from texts that many items share is not called established."
)


def comparison_section(comparisons: pl.DataFrame, nothing: str, *, by_task: bool = False) -> Section:
    """A family of comparisons of prompts and how they are tested, or `nothing` where it has none.

    `by_task`: of two runs, on the items of each task.
    """
    blocks = family_blocks(comparisons, unit="task" if by_task else "prompt")
    blocks.append(assumptions(comparisons) if blocks else Paragraph(nothing))
    return Section("comparisons", "Which differences hold", blocks)


def family_blocks(
    comparisons: pl.DataFrame, by: Literal["prompt", "rule"] = "prompt", *, unit: str = "prompt"
) -> list[Block]:
    """One family of comparisons, of prompts or of rules within prompts; empty where it has none.

    `unit`: what a prompt is called. Of rules within tasks, which may be very many, a large family gets no sentences.
    """
    size = comparisons.height
    if not size:
        return []
    shown = comparisons if size <= MAX_SENTENCES else comparisons.filter(~pl.col("established"))
    num_open = shown.height
    words = f"{size} {'pair' if size == 1 else 'pairs'} on the same items, corrected together."
    if num_open < size:
        words += f" {num_open} of {size} differences are not established."
    fields = _fields(by, by_text=_texts_repeat(comparisons), unit=unit)
    table = make_table(comparisons["family"][0], comparisons, fields)
    is_short = unit == "prompt" or size <= MAX_SENTENCES
    bullets = [Bullets(shown["words"].to_list())] if num_open and is_short else []
    return [Paragraph(words), *bullets, table]


def assumptions(comparisons: pl.DataFrame) -> Paragraph:
    """How the differences of a family are tested, and what texts that repeat change about it."""
    return Paragraph(f"{ASSUMPTIONS} {REPEATED}" if _texts_repeat(comparisons) else ASSUMPTIONS, note=True)


def _texts_repeat(comparisons: pl.DataFrame) -> bool:
    return bool((comparisons["num_texts"] < comparisons["n"]).any())


def _fields(by: Literal["prompt", "rule"], *, by_text: bool, unit: str) -> list[Field]:
    return [
        *([(unit, exact, "prompt_a")] if by == "rule" else []),
        ("A", exact, f"{by}_a"),
        ("B", exact, f"{by}_b"),
        ("A \N{MINUS SIGN} B, points", points, "difference"),
        ("95 % interval", points_interval, "low", "high"),
        ("SE, points", spread, "standard_error"),
        ("only A right", count, "only_a"),
        ("only B right", count, "only_b"),
        *([("texts for A", count, "texts_a"), ("texts for B", count, "texts_b")] if by_text else []),
        ("p", p_value, "p"),
        ("p (Holm)", p_value, "p_holm"),
        (f"{'texts' if by_text else 'items'} to settle it", count, "items_to_settle"),
    ]  # fmt: skip
