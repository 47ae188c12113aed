"""The places of an item: what it can be predicted as, which are the labels of its prompt or choices of its own.

Invariant: predictions, and what they are compared with, come from here alone whichever of the two it is; the rest asks
a prompt for `has_choices` only to leave out what needs classes. An item's own choices are counted from 0, in its order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.storing.layout import ITEM_CHOICES, TASK
from pipeline.storing.manifest import PromptRecord


def are_tasks(prompts: Sequence[PromptRecord]) -> bool:
    """Whether these are tasks, which have items of their own, and not prompts over the same items."""
    return any(prompt.task is not None for prompt in prompts)


def num_places(prompt: PromptRecord) -> pl.Expr:
    """How many places an item has, over the columns of items.parquet or over those that `Places.beside` adds."""
    return pl.col(ITEM_CHOICES).list.len() if prompt.has_choices else pl.lit(len(prompt.labels), pl.UInt32)


@dataclass(frozen=True, slots=True)
class Places:
    """The places of some items under one prompt. The expressions are over a table to which `beside` was done.

    Where the prompt is a task the items may be those of several, which all bring their own choices.
    """

    prompt: PromptRecord
    items: pl.LazyFrame  # of items.parquet: the items, or more

    def read(self) -> "Places":
        """The same with the choices in memory, for items that are looked at more than once."""
        if not self.prompt.has_choices:
            return self
        return Places(self.prompt, self._facts.collect().lazy())

    @property
    def _facts(self) -> pl.LazyFrame:
        return self.items.select("item_id", ITEM_CHOICES, *([] if self.prompt.task is None else [TASK]))

    def beside(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """`table`, which has an item_id, with what is to be known of each item."""
        if not self.prompt.has_choices:
            return table
        return table.join(self._facts, on="item_id", how="left", maintain_order="left")

    @property
    def prompt_name(self) -> pl.Expr:
        """The prompt that an item is under: its task, where it has one."""
        return pl.lit(self.prompt.name) if self.prompt.task is None else pl.col(TASK)

    def number(self, column: str) -> pl.Expr:
        """Which of an item's places has the id in `column`, counted from 0; null for an id that is no place's."""
        if self.prompt.has_choices:
            return pl.col(column)
        ids = self.prompt.label_ids
        return pl.col(column).replace_strict(ids, range(len(ids)), default=None, return_dtype=pl.Int16)

    def name(self, column: str) -> pl.Expr:
        """The name of the place whose id is in `column`; null where there is none."""
        if self.prompt.has_choices:
            return pl.col(ITEM_CHOICES).list.get(pl.col(column), null_on_oob=True)
        return pl.col(column).replace_strict(self.prompt.label_names, default=None, return_dtype=pl.String)

    @property
    def right_ids(self) -> pl.Expr:
        """The ids of an item's right places as a list."""
        return right_ids()

    @property
    def right_names(self) -> pl.Expr:
        """Their names, in the same order."""
        if self.prompt.has_choices:
            return pl.col(ITEM_CHOICES).list.gather(self.right_ids, null_on_oob=True)
        name = pl.element().replace_strict(self.prompt.label_names, default=None, return_dtype=pl.String)
        return self.right_ids.list.eval(name)


def right_ids() -> pl.Expr:
    """The ids that are right for an item as a list: those of `gold_ids`, else the one of `gold_id`, else null."""
    one = pl.when(pl.col("gold_id").is_not_null()).then(pl.concat_list("gold_id"))
    return pl.coalesce("gold_ids", one)


def join_names(names: pl.Expr) -> pl.Expr:
    """A list of places' names as a reader sees it: `joy or love`."""
    return names.list.join(" or ")
