"""What figures need of items.parquet beside the scores: rows with several right classes, and texts that repeat.

A text is all that a prompt reads of an item, told by its hash: prompts that read other columns may see other repeats.

Invariant: where no item has several right classes and no text repeats, every row counts as itself and no figure moves
by a bit. Memory holds a number of 64 bits per item while repeats are looked for, afterwards only the repeated ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.prompts import REQUESTS, hash_column
from pipeline.reporting.places import right_ids
from pipeline.storing.layout import TASK
from pipeline.storing.manifest import PromptRecord

KEY_DIGITS = 16  # hexadecimal digits of a text's hash that tell it from others: 64 bits
TEXT, TEXT_HASH = "text", "text_hash"
CHARS_SHOWN = 2_000  # of a text in a report: a page and a terminal show fewer
GOLD_IDS = pl.List(pl.Int16)


def text_key(column: str = TEXT_HASH) -> pl.Expr:
    """64 bits of a text's hash: two of ten million texts share them once in 400,000 runs (n^2 / 2^65)."""
    return pl.col(column).str.head(KEY_DIGITS).str.to_integer(base=16, dtype=pl.UInt64)


def item_key(prompt: PromptRecord, column: str = TEXT_HASH) -> pl.Expr:
    """`text_key` of what a prompt reads; the same in another task is another text."""
    return text_key(column) if prompt.task is None else text_key(column) ^ pl.col(TASK).hash()


def in_block(block: tuple[int, int]) -> pl.Expr:
    """Whether an item's id is in [low, high)."""
    low, high = block
    return (pl.col("item_id") >= low) & (pl.col("item_id") < high)


@dataclass(frozen=True, slots=True, eq=False)
class Repeats:
    """Texts that more than one row with a gold label has."""

    keys: np.ndarray  # (repeated texts,), uint64, rising
    rows: np.ndarray  # (repeated texts,), int32: how many have each

    def count_copies(self, texts: pl.DataFrame, key: pl.Expr) -> pl.Series:
        """For each row of `texts`, how many rows with a gold label share its text (`key`), itself included.

        `copies`, int32. Meant for rows with a gold label: 1 for every other text.
        """
        if not len(self.keys):
            return pl.Series("copies", [1], dtype=pl.Int32).new_from_index(0, texts.height)
        keys = texts.select(key).to_series().to_numpy()
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return pl.Series("copies", np.where(self.keys[places] == keys, self.rows[places], 1), dtype=pl.Int32)


@dataclass(frozen=True, slots=True, eq=False)
class ItemFacts:
    """What is known of items without their scores."""

    repeats: dict[str, Repeats]  # of each prompt
    several: pl.LazyFrame  # item_id, gold_ids: the items with several right classes

    @property
    def fewest_texts(self) -> str:
        """The prompt that tells the fewest texts apart, the first of such: its texts are the units of every test."""
        return max(self.repeats, key=lambda name: int((self.repeats[name].rows - 1).sum()))

    def gold_ids(self, block: tuple[int, int]) -> pl.DataFrame:
        """item_id, gold_ids of the items of a block that have several right classes."""
        return self.several.filter(in_block(block)).collect()


def item_texts(items: pl.LazyFrame, prompt: PromptRecord) -> pl.LazyFrame:
    """item_id, text: what a prompt reads of each item, for a reader: `{text}` as it is, else each column with its name.

    Of a text no more than CHARS_SHOWN characters: its beginning, or its end in a run of tasks, where what is asked
    stands. Of a task it is what stands before the continuations, mostly the same before each. Empty where the template
    has no slot, because all that is read are the choices.
    """
    if prompt.columns == (TEXT,) or not (prompt.columns or prompt.has_choices):
        return items.select("item_id", text=_copied(pl.col(TEXT).str.head(CHARS_SHOWN)))
    kinds = items.collect_schema()
    if prompt.task is not None:
        (context,) = prompt.columns
        return items.select("item_id", text=_copied(_as_text(context, kinds[context]).str.tail(CHARS_SHOWN)))
    shown = {column: _as_text(column, kinds[column]).str.head(CHARS_SHOWN) for column in prompt.columns}
    lines = [pl.concat_str(pl.lit(f"{column}: "), shown[column]) for column in prompt.columns]
    return items.select("item_id", text=pl.concat_str(lines, separator="\n") if lines else pl.lit(""))


def _copied(cut: pl.Expr) -> pl.Expr:
    """The same strings in memory of their own: what was cut off a text is a view that keeps the whole text."""
    return pl.concat_str(cut, pl.lit(""))


def _as_text(column: str, kind: pl.DataType) -> pl.Expr:
    """A column as text; the contexts of requests are a list, which mostly holds one of them several times."""
    return pl.col(column).list.unique(maintain_order=True).list.join(" | ") if kind == pl.List else pl.col(column)


def read_item_facts(items: pl.LazyFrame, prompts: Sequence[PromptRecord]) -> ItemFacts:
    """Look through items.parquet, once for each kind of text that the prompts read (one of tasks stands for all)."""
    columns = {prompt.name: text_column(prompt) for prompt in prompts}
    keys = {columns[prompt.name]: item_key(prompt, columns[prompt.name]) for prompt in prompts}
    found = {column: read_repeats(items, key) for column, key in keys.items()}
    return ItemFacts({name: found[column] for name, column in columns.items()}, _several_classes(items))


def text_column(prompt: PromptRecord) -> str:
    """The column of items.parquet with the hash of what a prompt reads, which its rows of the score table have."""
    if prompt.task is not None:
        return REQUESTS.hash_column
    is_plain = prompt.columns in ((), (TEXT,)) and not prompt.has_choices
    return hash_column(prompt.name, is_plain=is_plain)


def read_repeats(items: pl.LazyFrame, key: pl.Expr) -> Repeats:
    """The texts that repeat, by 64 bits of their hash. Takes 16 bytes an item for a moment."""
    labelled = with_gold_ids(items).filter(pl.col("gold_id").is_not_null() | pl.col("gold_ids").is_not_null())
    keys = labelled.select(key).collect(engine="streaming").to_series().to_numpy(writable=True)
    keys.sort()
    again = keys[1:][keys[1:] == keys[:-1]]  # a text of w rows stands here w - 1 times
    repeated, more = np.unique(again, return_counts=True)
    return Repeats(repeated, (more + 1).astype(np.int32))


def _several_classes(items: pl.LazyFrame) -> pl.LazyFrame:
    items, has_several = with_gold_ids(items), pl.col("gold_ids").is_not_null()
    several = items.filter(has_several).select("item_id", pl.col("gold_ids").cast(GOLD_IDS))
    if not items.select(has_several.any()).collect().item():
        several = several.clear()  # then no block has to look for any
    return several


def has_known_text(items: pl.LazyFrame, hashes: Sequence[str]) -> bool:
    """Whether an item's text has one of these hashes."""
    return bool(items.select(pl.col(TEXT_HASH).is_in(list(hashes)).any()).collect(engine="streaming").item())


def commonest_class(items: pl.LazyFrame) -> int | None:
    """The id of the class that is right for the most items, the lowest of such; None without gold labels."""
    ids = with_gold_ids(items).select(class_id=right_ids().list.explode()).drop_nulls()
    counts = ids.group_by("class_id").len().collect(engine="streaming")
    return counts.sort("len", "class_id", descending=[True, False])["class_id"][0] if counts.height else None


def with_gold_ids(table: pl.LazyFrame) -> pl.LazyFrame:
    """A run's table with the column `gold_ids`, null in one that was written before there was any."""
    return table if "gold_ids" in table.collect_schema() else table.with_columns(gold_ids=pl.lit(None, GOLD_IDS))
