"""Figures of each prompt and rule, as small tables from predictions.parquet.

Invariant: every figure is over the items with a gold label (n says how many), except the histogram, ties and
truncated items, which are over all, and those of classes, which are over the items with exactly one right class.
Where items bring their own choices there are no classes, and the tables of these have no rows.
Where texts repeat, shares stay over items and intervals count as many as `effective_number` says.

scikit-learn has most of these, one prompt and rule at a time and over all rows in memory; here one pass counts
them all. The tests hold each one against scikit-learn.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.reporting.stats import calibrated_errors, effective_number, wilson_interval
from pipeline.storing.layout import METRICS_SCHEMA
from pipeline.storing.manifest import PromptRecord

COVERAGES = {"accuracy_at_50": 0.5, "accuracy_at_80": 0.8, "accuracy_at_90": 0.9}
NUM_LENGTH_BINS = 5
COLLAPSE = 0.75  # one label for three quarters of the items ...
EXCESS = 0.25  # ... and for a quarter of them more than have it as gold, so that two balanced classes count too
KEY = ("prompt", "rule")
NO_FILTER = "none"  # what lm-evaluation-harness calls a filter that changes nothing


def count_confusions(predictions: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, gold_id (null unless there is exactly one right class), predicted_id, n, copies (their sum).

    What the histogram and the figures of classes are made from.
    """
    keys = (*KEY, "gold_id", "predicted_id")
    counts = predictions.group_by(keys).agg(n=pl.len().cast(pl.Int64), copies=sum_copies())
    return counts.sort(keys).collect(engine="streaming")


def sum_copies() -> pl.Expr:
    """How many items share each item's text, added up: what `effective_number` wants beside a count of items."""
    return pl.col("copies").cast(pl.Int64).sum()


def with_wilson(
    frame: pl.DataFrame, num_correct: str, num_items: str, copies: str = "copies", prefix: str = ""
) -> pl.DataFrame:
    """`frame` with the columns `low` and `high`: Wilson's interval of num_correct / num_items, null at 0 items.

    `copies` names the column with the items' copies added up: the interval is as wide as that of so many texts.
    """
    rows = frame.select(num_correct, num_items, copies).iter_rows()
    ends = [wilson_interval(k, n, effective_number(n, c)) if n else (None, None) for k, n, c in rows]
    columns = dict.fromkeys((f"{prefix}low", f"{prefix}high"), pl.Float64)
    return frame.with_columns(pl.DataFrame(ends, columns, orient="row"))


def _labels(prompts: Sequence[PromptRecord], rules: Sequence[str]) -> pl.DataFrame:
    """prompt, rule, label_id, label: each label of each prompt, for each rule."""
    rows = [(p.name, rule, i, p.label_names[i]) for p in prompts for rule in rules for i in p.label_ids]
    return pl.DataFrame(rows, {**dict.fromkeys(KEY, pl.String), "label_id": pl.Int16, "label": pl.String}, orient="row")


def confusion_table(counts: pl.DataFrame, prompts: Sequence[PromptRecord], rules: Sequence[str]) -> pl.DataFrame:
    """prompt, rule, gold_id, gold, predicted_id, predicted, n, copies, share (of the gold label's items).

    Over items with exactly one right class; empty cells are 0.
    """
    gold, predicted = (
        _labels(prompts, rules).rename({"label_id": f"{part}_id", "label": part}) for part in ("gold", "predicted")
    )
    return (
        gold.join(predicted, on=KEY, maintain_order="left_right")
        .join(counts, on=[*KEY, "gold_id", "predicted_id"], how="left", maintain_order="left")
        .with_columns(pl.col("n", "copies").fill_null(0))
        .with_columns(share=_ratio("n", pl.col("n").sum().over(*KEY, "gold_id")))
    )


def histogram_table(counts: pl.DataFrame, prompts: Sequence[PromptRecord], rules: Sequence[str]) -> pl.DataFrame:
    """prompt, rule, label_id, label, n and share of all items predicted so, gold_share (null without gold labels).

    gold_share is of the items with exactly one right class.
    """
    return _count_ids(counts, _labels(prompts, rules))


def position_table(counts: pl.DataFrame, prompts: Sequence[PromptRecord]) -> pl.DataFrame:
    """prompt, rule, label_id, n, share, gold_share: `histogram_table` of the places of choices, without names.

    The place where a choice stands should tell nothing: what is predicted more often there than is right is position
    bias.
    """
    own = counts.filter(pl.col("prompt").is_in([prompt.name for prompt in prompts if prompt.has_choices]))
    ids = pl.concat(own.select(*KEY, label_id=part) for part in ("predicted_id", "gold_id"))
    return _count_ids(counts, ids.drop_nulls().unique().sort(*KEY, "label_id"))


def _count_ids(counts: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """`table` (prompt, rule, label_id, ...) with how often each id was predicted, and is gold."""
    keys = [*KEY, "label_id"]
    for name, part in (("n", "predicted_id"), ("num_gold", "gold_id")):
        found = counts.group_by(*KEY, label_id=part).agg(pl.col("n").sum().alias(name))
        table = table.join(found, on=keys, how="left", maintain_order="left").with_columns(pl.col(name).fill_null(0))
    share, gold_share = (_ratio(name, pl.col(name).sum().over(KEY)) for name in ("n", "num_gold"))
    return table.with_columns(share=share, gold_share=gold_share).drop("num_gold")


def collapsed(histogram: pl.DataFrame) -> pl.DataFrame:
    """The rows of `histogram` whose label took (nearly) all predictions without being that common.

    Without gold labels nothing shows how common a label is, so its share of the predictions alone decides.
    """
    excess = pl.col("share") - pl.col("gold_share").fill_null(0.0)
    return histogram.filter(pl.col("share") >= COLLAPSE, excess >= EXCESS)


def _ratio(numerator: str, denominator: pl.Expr) -> pl.Expr:
    return pl.when(denominator > 0).then(pl.col(numerator) / denominator)


def class_table(confusion: pl.DataFrame) -> pl.DataFrame:
    """prompt, rule, label_id, label, support, num_predicted, num_correct, precision, recall (with Wilson ends), f1.

    Precision is null for a label that was never predicted, recall for one without items; F1 is 2 tp / (2 tp + fp + fn).
    """
    keys = [*KEY, "label_id", "label"]
    gold = confusion.group_by(*KEY, label_id="gold_id", label="gold", maintain_order=True).agg(
        support=pl.col("n").sum(),
        num_correct=pl.col("n").filter(pl.col("gold_id") == pl.col("predicted_id")).sum(),
        copies=pl.col("copies").sum(),
    )
    predicted = confusion.group_by(*KEY, label_id="predicted_id", label="predicted").agg(
        num_predicted=pl.col("n").sum(), predicted_copies=pl.col("copies").sum()
    )
    table = gold.join(predicted, on=keys, maintain_order="left").with_columns(
        precision=_ratio("num_correct", pl.col("num_predicted")),
        recall=_ratio("num_correct", pl.col("support")),
        f1=2 * _ratio("num_correct", pl.col("support") + pl.col("num_predicted")),
    )
    table = with_wilson(table, "num_correct", "num_predicted", "predicted_copies", "precision_")
    return with_wilson(table, "num_correct", "support", prefix="recall_").drop("copies", "predicted_copies")


def summary_table(
    prompts: Sequence[PromptRecord],
    rules: Sequence[str],
    facts: pl.DataFrame,
    classes: pl.DataFrame,
    reliability: pl.DataFrame,
    coverage: pl.DataFrame,
    brier: pl.DataFrame,
) -> pl.DataFrame:
    """One row per prompt and rule: accuracy with its interval and everything else that is one number.

    Balanced accuracy is the mean recall of the classes that have items, macro F1 the mean F1 of those that have items
    or predictions (both as in scikit-learn). All but num_items, ties and truncated are null without gold labels;
    balanced accuracy, macro F1 and Brier score are over the num_single items with exactly one right class, and null
    without any; the first two are null without classes, too. num_distinct: texts of the items with a gold label;
    num_effective: as how many they count in intervals.
    """
    table = pl.DataFrame([(prompt.name, rule) for prompt in prompts for rule in rules], KEY, orient="row")
    of_classes = classes.group_by(KEY).agg(balanced_accuracy=pl.col("recall").mean(), macro_f1=pl.col("f1").mean())
    for other in (of_classes, facts):
        table = table.join(other, on=KEY, how="left", maintain_order="left")
    table = table.with_columns(accuracy=_ratio("num_correct", pl.col("num_gold")))
    effective = [float(effective_number(n, c)) if n else None for n, c in table.select("num_gold", "copies").rows()]
    gap = (pl.col("accuracy") - pl.col("confidence")).abs()
    ece = reliability.group_by(KEY).agg(ece=(gap * pl.col("n")).sum() / pl.col("n").sum())
    ece = ece.join(calibrated_ece(reliability), on=KEY, how="left")
    at = coverage.group_by(KEY).agg(
        pl.col("accuracy").filter(pl.col("coverage") == share).first().alias(name) for name, share in COVERAGES.items()
    )
    for other in (ece, at, brier.select(*KEY, "brier")):
        table = table.join(other, on=KEY, how="left", maintain_order="left")
    table = table.with_columns(pl.Series("num_effective", effective, dtype=pl.Float64))
    return with_wilson(table, "num_correct", "num_gold").drop("copies")


def calibrated_ece(reliability: pl.DataFrame) -> pl.DataFrame:
    """prompt, rule, ece_calibrated, ece_calibrated_high: the ECE if confidences were true, and what 95 % stay under.

    Even then it is not 0: each bin's accuracy is that of few items.
    """
    rows = reliability.group_by(KEY, maintain_order=True).agg("bin", pl.col("variance").sqrt(), pl.col("n").sum())
    num_bins = reliability.select(pl.col("bin").max().fill_null(0) + 1).item()
    deviations = np.zeros((rows.height, num_bins))
    for i, (bins, values) in enumerate(rows.select("bin", "variance").iter_rows()):
        deviations[i, bins] = values
    mean, high = calibrated_errors(deviations, rows["n"].to_numpy())
    return rows.select(KEY).with_columns(ece_calibrated=mean, ece_calibrated_high=high)


def count_facts(predictions: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, num_items, ties, truncated over all items; the others over those with a gold label.

    num_gold, num_correct, num_single (with exactly one right class), copies (their sum), num_distinct (texts).
    """
    return (
        predictions.group_by(KEY)
        .agg(
            num_items=pl.len().cast(pl.Int64),
            ties=pl.col("tie").sum(),
            truncated=pl.col("truncated").sum(),
            num_gold=pl.col("correct").count().cast(pl.Int64),
            num_correct=pl.col("correct").sum().cast(pl.Int64),
            num_single=pl.col("gold_id").count().cast(pl.Int64),
            copies=sum_copies(),
            num_distinct=(1 / pl.col("copies")).sum().round().cast(pl.Int64),  # a text of w items is here w times
        )
        .collect(engine="streaming")
    )


def length_table(length: pl.DataFrame) -> pl.DataFrame:
    """prompt, tokens_low, tokens_high, n, accuracy, low, high: five groups of about equal size by prompt_tokens."""
    below = pl.col("n").cum_sum().over("prompt", order_by="prompt_tokens") - pl.col("n") / 2
    number = (below / pl.col("n").sum().over("prompt") * NUM_LENGTH_BINS).floor()
    table = (
        length.with_columns(bin=number)
        .group_by("prompt", "bin")
        .agg(
            tokens_low=pl.col("prompt_tokens").min(),
            tokens_high=pl.col("prompt_tokens").max(),
            n=pl.col("n").sum().cast(pl.Int64),
            accuracy=pl.col("num_correct").sum() / pl.col("n").sum(),
            num_correct=pl.col("num_correct").sum().cast(pl.Int64),
            copies=pl.col("copies").sum(),
        )
        .sort("prompt", "bin")
    )
    return with_wilson(table, "num_correct", "n").drop("bin", "num_correct", "copies")


def tidy(
    summary: pl.DataFrame, classes: pl.DataFrame, histogram: pl.DataFrame, mass: pl.DataFrame, harness: pl.DataFrame
) -> pl.DataFrame:
    """metrics.parquet: one row per (prompt, rule, metric, label), with value, low, high and n.

    `label` is null for figures of a whole prompt and rule; `rule` is null for label_mass, which has none.
    Figures that do not exist (no gold labels, a label never predicted) have no row. What lm-evaluation-harness makes of
    its tasks and groups is under their names, without a rule, its filter in the place of a label.
    """
    of_rules = {
        **dict.fromkeys(("num_correct", "ece", *COVERAGES), "num_gold"),
        **dict.fromkeys(("balanced_accuracy", "macro_f1", "brier"), "num_single"),
        **dict.fromkeys(("ties", "truncated"), "num_items"),
    }
    expected = summary.with_columns(low=pl.lit(None, pl.Float64))
    tables = [
        _metric(summary, "accuracy", "num_gold", "low", "high"),
        *(_metric(summary, name, over).filter(pl.col("n") > 0) for name, over in of_rules.items()),
        _metric(expected, "ece_calibrated", "num_gold", "low", "ece_calibrated_high"),
        _metric(classes, "precision", "num_predicted", "precision_low", "precision_high"),
        _metric(classes, "recall", "support", "recall_low", "recall_high"),
        _metric(classes, "f1", "support"),
        _metric(histogram.with_columns(num_items=pl.col("n").sum().over(KEY)), "share", "num_items"),
        _metric(mass, "label_mass", "n"),
        harness.select(
            prompt="task",
            metric=pl.format("harness_{}", "metric"),
            label=pl.col("filter").replace(NO_FILTER, None),
            value="value",
            n="num_items",
        ),
    ]
    rows = pl.concat(tables, how="diagonal").select(METRICS_SCHEMA.names)
    return rows.drop_nulls("value").sort("prompt", "rule", "metric", "label", nulls_last=True)


def _metric(table: pl.DataFrame, name: str, n: str, *ends: str) -> pl.DataFrame:
    """One figure as rows of metrics.parquet; it is over `n` items, `ends` are those of its interval."""
    return table.select(
        *(key for key in (*KEY, "label") if key in table.columns),
        metric=pl.lit(name),
        value=pl.col(name).cast(pl.Float64),
        n=pl.col(n).cast(pl.Int64),
        **{end: pl.col(column) for end, column in zip(("low", "high"), ends, strict=False)},
    )
