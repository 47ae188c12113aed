"""Whether confidence means anything: reliability, accuracy on the most confident items, margins by class.

Invariant: over items with a gold label only, margins by class over those with exactly one; the order of the rows of
predictions.parquet never matters.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.reporting.metrics import KEY, sum_copies, with_wilson
from pipeline.reporting.places import are_tasks
from pipeline.storing.manifest import PromptRecord

NUM_BINS = 15  # of equal width, as in Guo et al. 2017
NUM_MARGIN_BINS = 40


def reliability_table(predictions: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, bin, bin_low, bin_high, n, confidence (mean), accuracy, low, high, variance; no bins without items.

    Bins are (low, high] over the winner's confidence; the expected calibration error is their mean |accuracy -
    confidence|, weighted by n (Guo et al. 2017). `variance` is that of the number right in the bin if the confidences
    were true: the sum of c (1 - c), each times the items that share its text.
    """
    confidence, copies = pl.col("confidence"), pl.col("copies").cast(pl.Float64)
    number = (pl.col("confidence") * NUM_BINS).ceil().clip(1, NUM_BINS).cast(pl.Int64) - 1
    table = (
        predictions.drop_nulls("correct")
        .group_by(*KEY, bin=number)
        .agg(
            n=pl.len().cast(pl.Int64),
            confidence=pl.col("confidence").mean(),
            accuracy=pl.col("correct").mean(),
            num_correct=pl.col("correct").sum().cast(pl.Int64),
            copies=sum_copies(),
            variance=(confidence * (1 - confidence) * copies).sum(),
        )
        .sort(*KEY, "bin")
        .collect(engine="streaming")
        # Not in `agg`, where Polars would hold every row for it.
        .with_columns(bin_low=pl.col("bin") / NUM_BINS, bin_high=(pl.col("bin") + 1) / NUM_BINS)
    )
    return with_wilson(table, "num_correct", "n").drop("num_correct", "copies")


def coverage_table(predictions: pl.LazyFrame, prompts: Sequence[PromptRecord], rules: Sequence[str]) -> pl.DataFrame:
    """prompt, rule, coverage (0.01 to 1), n, accuracy, threshold: accuracy if only the most confident are answered.

    The risk-coverage curve (El-Yaniv and Wiener 2010), sorted exactly. `threshold` is the least confidence kept. Memory
    holds one rule's confidences of all items.
    """
    # Tasks share the items out among them; other prompts have all items each.
    groups = [prompts] if are_tasks(prompts) else [[prompt] for prompt in prompts]
    tables = {}
    for names in ([prompt.name for prompt in group] for group in groups):
        for rule in rules:
            chosen = predictions.filter(pl.col("prompt").is_in(names), pl.col("rule") == rule).drop_nulls("correct")
            rows = chosen.select(pl.col("prompt").cast(pl.Enum(names)), "confidence", "correct")
            parts = rows.collect(engine="streaming").partition_by("prompt", as_dict=True)
            for name in names:
                part = parts.get((name,), pl.DataFrame(schema={"confidence": pl.Float64, "correct": pl.Boolean}))
                tables[name, rule] = risk_coverage(part["confidence"].to_numpy(), part["correct"].to_numpy())
    return pl.concat(
        tables[name, rule].select(pl.lit(name).alias("prompt"), pl.lit(rule).alias("rule"), pl.all())
        for name in (prompt.name for prompt in prompts)
        for rule in rules
    )


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> pl.DataFrame:
    """coverage, n, accuracy, threshold at each percent of items kept; equal confidences count by their mean.

    Where the cut falls among items of equal confidence, accuracy is what a random choice among them gives on average,
    so the order of the rows never matters.
    """
    n = len(confidence)
    if n == 0:
        empty = {"coverage": pl.Float64, "n": pl.Int64, "accuracy": pl.Float64, "threshold": pl.Float64}
        return pl.DataFrame(schema=empty)
    order = np.argsort(-confidence, kind="stable")
    ranked = -confidence[order]  # rising
    hits = np.concatenate([[0], np.cumsum(correct[order])])
    coverage = np.arange(1, 101) / 100
    kept = np.ceil(np.round(coverage * n, 6)).astype(np.int64)
    first = np.searchsorted(ranked, ranked[kept - 1], side="left")
    last = np.searchsorted(ranked, ranked[kept - 1], side="right")
    right = hits[first] + (hits[last] - hits[first]) * (kept - first) / (last - first)
    return pl.DataFrame({"coverage": coverage, "n": kept, "accuracy": right / kept, "threshold": -ranked[kept - 1]})


def margin_table(predictions: pl.LazyFrame, rule: str, prompts: Sequence[PromptRecord]) -> pl.DataFrame:
    """prompt, gold, bin_low, bin_high, n: how far the winner was ahead, negative where it was wrong.

    The winner's margin in the rule's units, in bins of equal width over the middle 99 % (the ends take the rest). The
    classes of a prompt are in the order of its labels; one whose items bring their own choices has none.
    """
    margin = pl.col("margin").cast(pl.Float64)  # stored as a float32
    signed = pl.when("correct").then(margin).otherwise(-margin)
    schema = {"prompt": pl.String, "gold": pl.String, "bin_low": pl.Float64, "bin_high": pl.Float64, "n": pl.Int64}
    tables = [pl.DataFrame(schema=schema)]
    for prompt in (prompt for prompt in prompts if not prompt.has_choices):
        own = predictions.filter(pl.col("prompt") == prompt.name, pl.col("rule") == rule)
        chosen = own.drop_nulls("gold").select("gold", signed=signed)  # of several classes it is of none
        ends = [pl.col("signed").quantile(q).fill_null(0.0).alias(str(q)) for q in (0.005, 0.995)]
        num_chosen, low, high = chosen.select(pl.len(), *ends).collect(engine="streaming").row(0)
        if not num_chosen:
            continue
        width = (high - low) / NUM_MARGIN_BINS or 1.0
        number = ((pl.col("signed") - low) / width).floor().clip(0, NUM_MARGIN_BINS - 1)
        order = [label.name for label in prompt.labels]
        tables.append(
            chosen.group_by("gold", bin=number)
            .agg(n=pl.len().cast(pl.Int64))
            .collect(engine="streaming")
            .sort(pl.col("gold").replace_strict(order, range(len(order))), "bin")
            .select(
                pl.lit(prompt.name).alias("prompt"),
                "gold",
                bin_low=low + pl.col("bin") * width,
                bin_high=low + (pl.col("bin") + 1) * width,
                n="n",
            )
        )
    return pl.concat(tables)


def margins_by_class(margins: pl.DataFrame) -> pl.DataFrame:
    """gold, n, least, median (the middle of its bin), most: the rows of one prompt of `margin_table`, by class."""
    middle = pl.col("n").cum_sum() >= pl.col("n").sum() / 2
    return margins.group_by("gold", maintain_order=True).agg(
        pl.col("n").sum(),
        least=pl.col("bin_low").min(),
        median=((pl.col("bin_low") + pl.col("bin_high")) / 2).filter(middle).first(),
        most=pl.col("bin_high").max(),
    )
