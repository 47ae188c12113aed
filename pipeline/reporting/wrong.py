"""The confidently wrong: items whose wrong prediction was furthest ahead.

Invariant: at most NUM_WRONG for each prompt, whatever the run's size.
"""

import polars as pl

from pipeline.reporting.items import join_classes, right_classes
from pipeline.reporting.predictions import Source
from pipeline.reporting.rules import score_column
from pipeline.storing.manifest import PromptRecord

NUM_WRONG = 60


def wrong_items(predictions: pl.LazyFrame, source: Source, prompt: PromptRecord) -> pl.DataFrame:
    """The NUM_WRONG wrong items of one prompt with the largest margin, text and all label scores beside them.

    prompt, item_id, text, gold (in words), predicted, confidence, margin, truncated, right (a list: the names of the
    right classes), labels and scores (lists in label order, the scores under the headline rule).
    """
    rule, right = source.headline, right_classes(prompt.label_names)
    worst = (
        predictions.filter(pl.col("prompt") == prompt.name, pl.col("rule") == rule, ~pl.col("correct"))
        .top_k(NUM_WRONG, by=["margin", "item_id"])
        .collect()
        .sort("margin", "item_id", descending=[True, False])
    )
    chosen = pl.col("item_id").is_in(worst["item_id"].implode())
    texts = source.items.filter(chosen).select("item_id", "text").collect()
    wide = source.wide_scores(prompt, [rule], chosen)
    cells = wide.select("item_id", scores=pl.concat_list(score_column(rule, i) for i in prompt.label_ids))
    labels = pl.concat_list(pl.lit(prompt.label_names[i]) for i in prompt.label_ids)
    return (
        worst.join(texts, on="item_id", how="left", maintain_order="left")
        .join(cells, on="item_id", how="left", maintain_order="left")
        .select(
            "prompt", "item_id", "text", join_classes(right).alias("gold"), "predicted", "confidence", "margin",
            "truncated", right.alias("right"), labels.alias("labels"), "scores",
        )
    )  # fmt: skip
