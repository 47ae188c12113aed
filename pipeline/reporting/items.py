"""What figures need of items.parquet beside the scores: rows with several right classes, and texts that repeat.

Invariant: where no item has several right classes and no text repeats, every row counts as itself and no figure moves
by a bit. Memory holds a number of 64 bits per item while repeats are looked for, afterwards only the repeated ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

KEY_DIGITS = 16  # hexadecimal digits of a text's hash that tell it from others: 64 bits
GOLD_IDS = pl.List(pl.Int16)


def text_key() -> pl.Expr:
    """64 bits of `text_hash`: two of ten million texts share them once in 400,000 runs (n^2 / 2^65)."""
    return pl.col("text_hash").str.head(KEY_DIGITS).str.to_integer(base=16, dtype=pl.UInt64)


def in_block(block: tuple[int, int]) -> pl.Expr:
    """Whether an item's id is in [low, high)."""
    low, high = block
    return (pl.col("item_id") >= low) & (pl.col("item_id") < high)


@dataclass(frozen=True, slots=True, eq=False)
class ItemFacts:
    """Texts that more than one row with a gold label has, and the items with several right classes."""

    keys: np.ndarray  # (repeated texts,), uint64, rising
    rows: np.ndarray  # (repeated texts,), int32: how many have each
    several: pl.LazyFrame  # item_id, gold_ids

    def count_copies(self, texts: pl.DataFrame) -> pl.Series:
        """For each row of `texts` (column text_hash), how many rows with a gold label share its text, itself included.

        `copies`, int32. Meant for rows with a gold label: 1 for every other text.
        """
        if not len(self.keys):
            return pl.Series("copies", [1], dtype=pl.Int32).new_from_index(0, texts.height)
        keys = texts.select(text_key()).to_series().to_numpy()
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return pl.Series("copies", np.where(self.keys[places] == keys, self.rows[places], 1), dtype=pl.Int32)

    def gold_ids(self, block: tuple[int, int]) -> pl.DataFrame:
        """item_id, gold_ids of the items of a block that have several right classes."""
        return self.several.filter(in_block(block)).collect()


def read_item_facts(items: pl.LazyFrame) -> ItemFacts:
    """Look through items.parquet once. Takes 16 bytes an item for a moment."""
    items, has_several = with_gold_ids(items), pl.col("gold_ids").is_not_null()
    labelled = items.filter(pl.col("gold_id").is_not_null() | has_several)
    keys = labelled.select(text_key()).collect(engine="streaming").to_series().to_numpy(writable=True)
    keys.sort()
    again = keys[1:][keys[1:] == keys[:-1]]  # a text of w rows stands here w - 1 times
    repeated, more = np.unique(again, return_counts=True)
    several = items.filter(has_several).select("item_id", pl.col("gold_ids").cast(GOLD_IDS))
    if not items.select(has_several.any()).collect().item():
        several = several.clear()  # then no block has to look for any
    return ItemFacts(repeated, (more + 1).astype(np.int32), several)


def with_gold_ids(table: pl.LazyFrame) -> pl.LazyFrame:
    """A run's table with the column `gold_ids`, null in one that was written before there was any."""
    return table if "gold_ids" in table.collect_schema() else table.with_columns(gold_ids=pl.lit(None, GOLD_IDS))


def right_classes(label_names: Mapping[int, str]) -> pl.Expr:
    """The names of an item's right classes as a list: those of `gold_ids` in their order, else the one of `gold`."""
    name = pl.element().replace_strict(dict(label_names), default=None, return_dtype=pl.String)
    one = pl.when(pl.col("gold").is_not_null()).then(pl.concat_list("gold"))
    return pl.coalesce(pl.col("gold_ids").list.eval(name), one)


def join_classes(classes: pl.Expr) -> pl.Expr:
    """A list of class names as a reader sees it: `joy or love`."""
    return classes.list.join(" or ")
