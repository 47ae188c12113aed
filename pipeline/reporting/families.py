"""Comparisons that were corrected together, as sentences and a table: in a report and between two runs.

Invariant: of a large family only what is not established gets a sentence; the table has every row.
"""

from typing import Literal

import polars as pl

from pipeline.reporting.comparisons import assumptions, texts_repeat
from pipeline.reporting.document import Block, Bullets, Field, Paragraph, make_table
from pipeline.reporting.formats import count, exact, p_value, points, points_interval, spread

MAX_SENTENCES = 10  # comparisons up to which each gets its sentence


def family_blocks(comparisons: pl.DataFrame, by: Literal["prompt", "rule"] = "prompt") -> list[Block]:
    """One family of comparisons, of prompts or of rules within prompts; empty where it has none."""
    size = comparisons.height
    if not size:
        return []
    shown = comparisons if size <= MAX_SENTENCES else comparisons.filter(~pl.col("established"))
    words = f"{size} {'pair' if size == 1 else 'pairs'} on the same items, corrected together."
    if shown.height < size:
        words += f" {shown.height} of {size} differences are not established."
    table = make_table(comparisons["family"][0], comparisons, _fields(comparisons, by))
    bullets = [Bullets(shown["words"].to_list())] if shown.height else []
    return [Paragraph(words), *bullets, table]


def _fields(comparisons: pl.DataFrame, by: Literal["prompt", "rule"]) -> list[Field]:
    by_text = texts_repeat(comparisons)
    return [
        *([("prompt", exact, "prompt_a")] if by == "rule" else []),
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


def assumptions_note(comparisons: pl.DataFrame) -> Paragraph:
    """How the differences of a family are tested."""
    return Paragraph(assumptions(comparisons), note=True)
