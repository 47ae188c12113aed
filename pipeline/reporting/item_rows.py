"""The items that a reader looks through: one row each, with what every prompt makes of it.

Invariant: whatever the run's size, MAX_ITEMS items at most are read: those asked for, and a random sample of the
others, which is the same each time.
"""

import numpy as np
import polars as pl

from pipeline.reporting.items import item_texts
from pipeline.reporting.places import join_names
from pipeline.reporting.predictions import Source
from pipeline.reporting.rules import RULES
from pipeline.storing.manifest import PromptRecord

MAX_ITEMS = 20_000  # whose texts no page has room for, if they are longer than a tweet
MAX_SCORES = 4_000_000  # label scores of one prompt in memory: some 100 MB
NUM_SCORES = 12  # label scores kept of a prediction: the highest, and that of the gold label
SEED = 0
EACH = ("predicted", "correct", "confidence", "margin", "labels", "scores")  # a list of each, in the prompts' order


def item_rows(predictions: pl.LazyFrame, source: Source, first: pl.Series) -> pl.DataFrame:
    """One row per item, those of the ids in `first` at the top, then as many others as are read, in random order.

    item_id, prompt (which an item of a task is under, else the first), text (of all columns that the prompts read),
    gold (names, null where unknown), and EACH as lists with a value for each prompt; of a prediction `labels` and
    `scores` are lists themselves.
    """
    ids = pl.DataFrame({"item_id": pick_items(source, first.unique(maintain_order=True))})
    chosen = pl.col("item_id").is_in(ids["item_id"].implode())
    judged = predictions.filter(pl.col("rule") == source.headline, chosen).collect()
    parts = [
        describe(judged if prompt.task else judged.filter(pl.col("prompt") == prompt.name), source, prompt, NUM_SCORES)
        for prompt in source.passes
    ]
    by_item = pl.concat(parts).group_by("item_id", maintain_order=True)
    rows = by_item.agg(*EACH, pl.col("prompt", "right_names").first()).rename({"right_names": "gold"})
    columns = tuple(dict.fromkeys(column for prompt in source.passes for column in prompt.columns))
    read_by_any = source.passes[0].model_copy(update={"columns": columns})
    texts = item_texts(source.items, read_by_any).filter(chosen).collect(engine="streaming")
    return ids.join(rows, on="item_id", maintain_order="left").join(texts, on="item_id", maintain_order="left")


def pick_items(source: Source, first: pl.Series) -> pl.Series:
    """The ids in `first`, then others of the run in random order, as far as they may be read."""
    most = min(MAX_ITEMS, MAX_SCORES // max(1, *(len(prompt.labels) for prompt in source.passes)))
    ids = source.items.select("item_id").collect(engine="streaming")["item_id"].sort().to_numpy()
    # As many as could be wanted if all of `first` were among them: shuffling the ids themselves would copy them all.
    sample = np.random.default_rng(SEED).choice(len(ids), min(len(ids), most + len(first)), replace=False)
    others = ids[sample]
    others = others[~np.isin(others, first.to_numpy())]
    return pl.Series(np.concatenate([first.to_numpy(), others])[:most], dtype=pl.Int64)


def describe(predicted: pl.DataFrame, source: Source, prompt: PromptRecord, num_scores: int | None) -> pl.DataFrame:
    """Rows of predictions.parquet under one prompt, or tasks, with all that there is to show of each beside them.

    Adds text, right_ids and right_names (lists) with `gold` as their names in words, and of the item's places, or of
    those with the `num_scores` highest scores, the lists label_ids, labels and scores under the headline rule.
    """
    chosen = pl.col("item_id").is_in(predicted["item_id"].implode())
    places, score = source.places(prompt, chosen), pl.col("score")
    rows = source.rows(prompt, chosen, "label").with_columns(score=RULES[source.headline])
    if num_scores is not None:
        is_high = score.rank("ordinal", descending=True).over("item_id") <= num_scores
        rows = rows.filter(is_high | (pl.col("label_id") == pl.col("gold_id")))
    texts = item_texts(source.items, prompt).filter(chosen).collect(engine="streaming").lazy()
    scores = rows.sort("label_id").group_by("item_id").agg(label_ids="label_id", labels="label", scores="score")
    return (
        places.beside(predicted.lazy())
        .with_columns(right_ids=places.right_ids, right_names=places.right_names)
        .with_columns(gold=join_names(pl.col("right_names")))
        .join(texts, on="item_id", how="left", maintain_order="left")
        .join(scores, on="item_id", how="left", maintain_order="left")
        .collect()
    )
