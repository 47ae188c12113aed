"""The items that two runs have in common, and what they make of each: met by their hashes, a bucket at a time.

Invariant: memory holds a slice of one run or a bucket of both, and the MAX_FLIPS items predicted differently where a
run was surest; an item is compared by numbers, and names and texts are read of those that are shown.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.analysis import Run
from pipeline.reporting.changed import blocks_of_items, buckets_for
from pipeline.reporting.items import TEXT_HASH, in_block, with_gold_ids
from pipeline.reporting.places import Places
from pipeline.reporting.stats import Pairs, design_effect
from pipeline.storing.layout import ITEM_CHOICES, TASK
from pipeline.storing.manifest import PromptRecord
from pipeline.storing.spill import KEY, Array, Spill, bucket_of, keys_of

MAX_FLIPS = 20_000  # as many as a page has room for
KEYS = ["key_0", "key_1", "key_2", "key_3"]  # the words of a hash
FACTS = {"item_id": "<i8", "choices": "<u8", "predicted": "<u8", "gold": "<u8", "confidence": "<f8", "correct": "<i1"}
UNKNOWN = -1  # `correct` without a gold label
GOLD_DIFFERS = pl.col("gold_a") != pl.col("gold_b")


@dataclass(slots=True)
class Met:
    """What two prompts make of the items that both runs have.

    `flips`: item_id_a, item_id_b, confidence_a, ... of those of the num_flips items where a run was surest, the
    surest first, and whether `gold_differs`.
    """

    num_items: int = 0
    num_texts: int = 0
    num_gold_differs: int = 0
    num_flips: int = 0
    flips: pl.DataFrame = field(default_factory=pl.DataFrame)
    _judged: Array = field(default_factory=lambda: np.zeros(4, np.int64))  # right in both, only in a, only in b, none
    _texts: Array = field(default_factory=lambda: np.zeros(4, np.int64))  # texts, and the sums of the design effect

    @property
    def pairs(self) -> Pairs:
        """The 2x2 table over the items whose gold label is the same in both."""
        both, only_a, only_b, neither = map(int, self._judged)
        num_texts, squares, products, weights = map(int, self._texts)
        effect = design_effect(int(self._judged.sum()), num_texts, only_a, only_b, squares, products, weights)
        return Pairs(both, only_a, only_b, neither, effect)

    def add(self, joined: pl.DataFrame) -> None:
        """Count a bucket of items, with all items of its texts."""
        self.num_items += joined.height
        self.num_texts += joined.select(KEYS).unique().height
        self.num_gold_differs += joined.filter(GOLD_DIFFERS).height
        a, b = (pl.col(f"correct_{letter}") == 1 for letter in "ab")
        judged = joined.filter(~GOLD_DIFFERS, pl.col("correct_a") != UNKNOWN, pl.col("correct_b") != UNKNOWN)
        counts = judged.select((a & b).sum(), only_a=(a & ~b).sum(), only_b=(~a & b).sum(), none=(~a & ~b).sum())
        self._judged += np.array(counts.row(0), np.int64)
        nets = judged.group_by(KEYS).agg(w=pl.len().cast(pl.Int64), net=a.cast(pl.Int64).sum() - b.cast(pl.Int64).sum())
        w, net = pl.col("w"), pl.col("net")
        sums = nets.select(pl.len(), squares=(net**2).sum(), products=(w * net).sum(), weights=(w**2).sum())
        self._texts += np.array(sums.row(0), np.int64)
        flips = joined.filter(pl.col("predicted_a") != pl.col("predicted_b"))
        self.num_flips += flips.height
        names = [f"{name}_{letter}" for name in ("item_id", "confidence", "correct") for letter in "ab"]
        kept = flips.select(names, gold_differs=GOLD_DIFFERS)
        surest = pl.max_horizontal("confidence_a", "confidence_b")
        known = pl.concat([self.flips, kept]) if self.flips.width else kept
        self.flips = known.sort(surest, "item_id_a", descending=[True, False]).head(MAX_FLIPS)


def meet(a: Run, b: Run, x: PromptRecord, y: PromptRecord, *, by_row: bool) -> Met:
    """The items that are the same in both runs, under one prompt of each.

    Prompts that read the same columns have the same hash of an item, wherever it stands; a text that occurs several
    times is paired by its order of occurrence. Where they read others (`by_row`), an item is the same if its row is,
    the text in it and its choices.
    """
    sides = [(run, prompt, blocks_of_items(_own(run, prompt))) for run, prompt in ((a, x), (b, y))]
    buckets = buckets_for(*(blocks for _, _, blocks in sides))
    scratch, dtype, met = Path(tempfile.gettempdir()), [KEY, *FACTS.items()], Met()
    with Spill(scratch, dtype, buckets) as left, Spill(scratch, dtype, buckets) as right:
        for spill, (run, prompt, blocks) in zip((left, right), sides, strict=True):
            for block in blocks:
                keys, facts = _read(run, prompt, block, by_row=by_row)
                spill.add(bucket_of(keys, buckets), key=keys, **facts)
            spill.flush()
        for bucket in range(buckets):
            joined = _join(_as_table(left.read(bucket)), _as_table(right.read(bucket)), by_row=by_row)
            if joined.height or not met.flips.width:
                met.add(joined)
    return met


def _own(run: Run, prompt: PromptRecord) -> pl.LazyFrame:
    return run.predictions.filter(pl.col("prompt") == prompt.name)


def own_items(items: pl.LazyFrame, prompt: PromptRecord) -> pl.LazyFrame:
    """All items of a run, or those of one of its tasks."""
    return items if prompt.task is None else items.filter(pl.col(TASK) == prompt.name)


def _with_places(run: Run, prompt: PromptRecord, chosen: pl.Expr) -> tuple[Places, pl.LazyFrame]:
    """A run's predictions of the chosen items under one prompt, with what their places are told by."""
    places = Places(prompt, own_items(run.items.filter(chosen), prompt))
    return places, places.beside(with_gold_ids(_own(run, prompt).filter(chosen)))


def _read(run: Run, prompt: PromptRecord, block: tuple[int, int], *, by_row: bool) -> tuple[Array, dict[str, Array]]:
    """Hashes of a run's items  # (n, 4), and FACTS of each as numbers.

    `gold` is made of the names of the right classes in alphabetical order: the classes of the other run may have other
    ids. Numbers of names that are equal are equal; of a gold label that is not there it is 0.
    """
    chosen = in_block(block)
    places, rows = _with_places(run, prompt, chosen)
    rows = rows.with_columns(_number_of_list(places.right_names.list.sort()).alias("gold"))
    if by_row:
        has_choices = ITEM_CHOICES in run.items.collect_schema()
        choices = _number_of_list(pl.col(ITEM_CHOICES)) if has_choices else pl.lit(0, pl.UInt64)
        texts = run.items.filter(chosen).select("item_id", TEXT_HASH, choices=choices)
        rows = rows.drop(TEXT_HASH).join(texts.drop_nulls(TEXT_HASH), on="item_id")
    else:
        rows = rows.with_columns(choices=pl.lit(0, pl.UInt64))
    found = rows.select(
        TEXT_HASH,
        "item_id",
        "choices",
        "gold",
        pl.col("predicted").hash(),
        "confidence",
        pl.col("correct").cast(pl.Int8).fill_null(UNKNOWN),
    ).collect()
    return keys_of(found[TEXT_HASH].to_arrow()), {name: found[name].to_numpy() for name in FACTS}


def _number_of_list(names: pl.Expr) -> pl.Expr:
    """A number for a list of names; 0 for none."""
    number = pl.struct(size=names.list.len(), joined=names.list.join("\x1f")).hash()
    return pl.when(names.is_not_null()).then(number).otherwise(0)


def _as_table(records: Array) -> pl.DataFrame:
    words = {name: records["key"][:, i].astype("=u8") for i, name in enumerate(KEYS)}
    return pl.DataFrame(words | {name: np.ascontiguousarray(records[name]) for name in FACTS})


def _join(left: pl.DataFrame, right: pl.DataFrame, *, by_row: bool) -> pl.DataFrame:
    """The items of a bucket that are in both."""
    on = [*KEYS, "choices", "place"]
    place = pl.col("item_id") if by_row else pl.int_range(pl.len()).over(KEYS, order_by="item_id")
    facts = pl.col([name for name in FACTS if name != "choices"])
    a, b = (
        side.with_columns(place=place).select(*on, facts.name.suffix(f"_{letter}"))
        for letter, side in (("a", left), ("b", right))
    )
    return a.join(b, on=on)


def named_flips(met: Met, a: Run, b: Run, x: PromptRecord, y: PromptRecord) -> pl.DataFrame:
    """The flips of two prompts with what people read: predicted_a, predicted_b and gold, by name.

    Without one gold label in both, gold, correct_a and correct_b are null: no one label says which of them is right.
    """
    flips = met.flips.with_columns(pl.col("correct_a", "correct_b").replace(UNKNOWN, None).cast(pl.Boolean))
    for run, prompt, letter in ((a, x, "a"), (b, y, "b")):
        chosen = pl.col("item_id").is_in(flips[f"item_id_{letter}"].implode())
        places, rows = _with_places(run, prompt, chosen)
        names = rows.select(
            pl.col("item_id").alias(f"item_id_{letter}"),
            pl.col("predicted").alias(f"predicted_{letter}"),
            places.right_names.list.sort().alias(f"gold_{letter}"),
        ).collect()
        flips = flips.join(names, on=f"item_id_{letter}", how="left", maintain_order="left")
    judged = pl.when(~pl.col("gold_differs"))
    return flips.with_columns(judged.then(pl.col(name)).alias(name) for name in ("gold_a", "correct_a", "correct_b"))
