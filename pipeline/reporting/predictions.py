"""Predictions of every rule: from the score table to predictions.parquet, a block of items at a time.

Invariant: memory holds one block of items, whatever the run's size; a prediction is made only from an item whose
labels are all there, exactly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.errors import RunError
from pipeline.reporting.items import GOLD_IDS, ItemFacts
from pipeline.reporting.rules import decide, label_constants, log_sum_exp, wide_scores, with_inputs, with_log_q
from pipeline.storing.layout import ITEMS, PREDICTIONS_SCHEMA, SCORES, SCORES_SCHEMA
from pipeline.storing.manifest import PromptRecord
from pipeline.storing.tables import write_table

BLOCK_ROWS = 1 << 16  # score rows in memory at once: some 40 MB with eight rules; larger blocks are no faster

NOT_READ = ("model", "revision", "label", "label_words")  # the same in every row of a prompt and label
SCORE_COLUMNS = [name for name in SCORES_SCHEMA.names if name not in NOT_READ]


class Tallies:
    """What predictions.parquet does not hold, added up over all items, a block at a time."""

    def __init__(self) -> None:
        self._brier: list[pl.DataFrame] = []
        self._mass: list[pl.DataFrame] = []
        self._length: list[pl.DataFrame] = []

    def add(self, brier: list[pl.DataFrame], mass: pl.DataFrame, length: pl.DataFrame) -> None:
        """The sums and counts of one prompt in one block."""
        self._brier += brier
        self._mass.append(mass)
        self._length.append(length)

    @property
    def brier(self) -> pl.DataFrame:
        """prompt, rule, brier (mean over items with one gold label), n."""
        return _mean(self._brier, "brier")

    @property
    def mass(self) -> pl.DataFrame:
        """prompt, label_mass (mean over items), n."""
        return _mean(self._mass, "label_mass")

    @property
    def length(self) -> pl.DataFrame:
        """prompt, prompt_tokens, n, num_correct, copies (summed; items with gold, headline rule)."""
        keys = ["prompt", "prompt_tokens"]
        return pl.concat(self._length).group_by(keys).agg(pl.col("n", "num_correct", "copies").sum()).sort(keys)


def make_constants(
    scores: pl.LazyFrame, prompts: Sequence[PromptRecord], blocks: "Blocks", priors: pl.DataFrame | None
) -> pl.DataFrame:
    """The rules' inputs for each (prompt, label): `log_prior`, `log_cf`, and `log_batch` from a pass over all items."""
    labels = pl.DataFrame(
        [(prompt.name, i) for prompt in prompts for i in prompt.label_ids],
        schema={"prompt": pl.String, "label_id": pl.Int16},
        orient="row",
    )
    sums = [
        with_log_q(_block(scores, prompt.name, low, high))
        .group_by("prompt", "label_id")
        .agg(log_sum=log_sum_exp(pl.col("log_q")), n=pl.len())
        .collect()
        for low, high in blocks
        for prompt in prompts
    ]
    means = (
        pl.concat(sums)
        .group_by("prompt", "label_id")
        .agg(log_batch=log_sum_exp(pl.col("log_sum")) - pl.col("n").sum().cast(pl.Float64).log())
    )
    return label_constants(labels, priors).join(means, on=["prompt", "label_id"], how="left")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive ranges [low, high) of item ids that cover a run, and how many items there are."""

    bounds: tuple[int, ...]
    num_items: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.bounds[:-1], self.bounds[1:], strict=True))


def make_blocks(item_ids: pl.Series, rows_per_item: int) -> Blocks:
    """Cut the run's items so that a block holds about BLOCK_ROWS score rows."""
    ids = item_ids.sort()
    starts = ids.gather_every(max(1, BLOCK_ROWS // rows_per_item)).to_list()
    return Blocks((*starts, int(ids[-1]) + 1), len(ids))


@dataclass(frozen=True, slots=True)
class Source:
    """What predictions are made from. `constants`: see `make_constants`; `headline` is one of `rules`."""

    scores: pl.LazyFrame
    items: ItemFacts
    prompts: Sequence[PromptRecord]
    rules: Sequence[str]
    headline: str
    blocks: Blocks
    constants: pl.DataFrame

    def constants_of(self, prompt: PromptRecord) -> pl.DataFrame:
        return self.constants.filter(pl.col("prompt") == prompt.name)


def write_predictions(source: Source, path: Path) -> Tallies:
    """Write predictions.parquet to `path`, sorted by item, prompt and rule; return what is counted on the way.

    Raises RunError where an item lacks a label's scores or has them twice.
    """
    tallies = Tallies()
    write_table(path, PREDICTIONS_SCHEMA, _predict_blocks(source, tallies))
    for prompt_name, num_found in tallies.mass.select("prompt", "n").iter_rows():
        if num_found != source.blocks.num_items:
            raise RunError(
                f"{SCORES} has scores of {num_found:,} items under prompt '{prompt_name}', {ITEMS} has "
                f"{source.blocks.num_items:,} items; run `labelscore run` again"
            )
    return tallies


def _predict_blocks(source: Source, tallies: Tallies) -> Iterator[pa.Table]:
    """The rows of predictions.parquet, a block of items at a time."""
    for low, high in source.blocks:
        several = source.items.gold_ids(low, high)
        parts = [part for prompt in source.prompts for part in _predict(source, prompt, low, high, several, tallies)]
        rows = pl.concat(parts).sort("item_id", maintain_order=True)  # keeps prompts and rules in their order
        yield rows.to_arrow().cast(PREDICTIONS_SCHEMA)


def _predict(
    source: Source, prompt: PromptRecord, low: int, high: int, several: pl.DataFrame | None, tallies: Tallies
) -> list[pl.DataFrame]:
    """The predictions of one prompt for the items in [low, high), a table for each rule; counts them in `tallies`."""
    wide = _whole_items(source, prompt, low, high)
    decisions = {rule: decide(wide, rule, prompt.label_ids) for rule in source.rules}
    gold = _gold_and_copies(wide, several, source.items)
    judged = {rule: _judge(decision, gold) for rule, decision in decisions.items()}
    tallies.add(
        [_brier_sums(decision, prompt, rule) for rule, decision in decisions.items()],
        wide.select(pl.col("label_mass").sum(), prompt=pl.lit(prompt.name), n=pl.len()),
        _length_counts(wide, judged[source.headline], prompt),
    )
    return [_as_rows(decision, prompt, rule) for rule, decision in judged.items()]


def _mean(sums: list[pl.DataFrame], name: str) -> pl.DataFrame:
    """Add up sums and counts over all blocks, and divide; null where nothing was counted."""
    keys = [column for column in sums[0].columns if column not in (name, "n")]
    total = pl.concat(sums).group_by(keys, maintain_order=True).agg(pl.col(name).sum(), pl.col("n").sum())
    return total.with_columns(pl.when(pl.col("n") > 0).then(pl.col(name) / pl.col("n")))


def _block(scores: pl.LazyFrame, prompt: str, low: int, high: int) -> pl.LazyFrame:
    return scores.filter(pl.col("item_id") >= low, pl.col("item_id") < high, pl.col("prompt") == prompt)


def _whole_items(source: Source, prompt: PromptRecord, low: int, high: int) -> pl.DataFrame:
    block = _block(source.scores.select(SCORE_COLUMNS), prompt.name, low, high)
    inputs = with_inputs(block, source.constants_of(prompt))
    wide = wide_scores(inputs, source.rules, prompt.label_ids).collect()
    first = f"{source.rules[0]}:"
    broken = wide.filter(
        (pl.col("num_labels") != len(prompt.labels)) | pl.any_horizontal(pl.col(f"^{first}.*$").is_null())
    )
    if broken.height:
        raise RunError(
            f"{SCORES}: item {broken['item_id'][0]} has {broken['num_labels'][0]} label scores under prompt "
            f"'{prompt.name}', not one for each of its {len(prompt.labels)} labels; run `labelscore run` again"
        )
    return wide


def _gold_and_copies(wide: pl.DataFrame, several: pl.DataFrame | None, items: ItemFacts) -> pl.DataFrame:
    """gold_ids and copies of the items of `wide`, in its order; `several`: the gold_ids of those that have any."""
    ids = wide.select("item_id")
    if several is None:
        rows = ids.with_columns(gold_ids=pl.lit(None, GOLD_IDS))
    else:
        rows = ids.join(several, on="item_id", how="left", maintain_order="left")
    return rows.select("gold_ids", items.repeats.count_copies(wide))


def _judge(decision: pl.DataFrame, gold: pl.DataFrame) -> pl.DataFrame:
    """A decision with gold_ids and copies; where an item has several right classes, any of them is correct."""
    any_of_them = pl.col("gold_ids").list.contains(pl.col("predicted_id"))
    judged = decision.with_columns(gold)
    if gold["gold_ids"].null_count() < gold.height:
        judged = judged.with_columns(
            correct=pl.when(pl.col("gold_ids").is_not_null()).then(any_of_them).otherwise("correct")
        )
    return judged.with_columns(copies=pl.when(pl.col("correct").is_not_null()).then("copies"))


def _as_rows(decision: pl.DataFrame, prompt: PromptRecord, rule: str) -> pl.DataFrame:
    names = prompt.label_names
    return decision.with_columns(
        prompt=pl.lit(prompt.name),
        rule=pl.lit(rule),
        predicted=pl.col("predicted_id").replace_strict(names, return_dtype=pl.String),
        gold=pl.col("gold_id").replace_strict(names, default=None, return_dtype=pl.String),
    ).select(PREDICTIONS_SCHEMA.names)


def _brier_sums(decision: pl.DataFrame, prompt: PromptRecord, rule: str) -> pl.DataFrame:
    brier = pl.col("brier")
    return decision.select(brier.sum(), prompt=pl.lit(prompt.name), rule=pl.lit(rule), n=brier.count())


def _length_counts(wide: pl.DataFrame, headline: pl.DataFrame, prompt: PromptRecord) -> pl.DataFrame:
    judged = wide.select("prompt_tokens").with_columns(headline["correct"], headline["copies"]).drop_nulls("correct")
    return (
        judged.group_by("prompt_tokens")
        .agg(n=pl.len(), num_correct=pl.col("correct").sum(), copies=pl.col("copies").cast(pl.Int64).sum())
        .with_columns(prompt=pl.lit(prompt.name))
    )
