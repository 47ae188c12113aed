"""How many predictions changed since the run before, text by text.

Invariant: memory holds a few numbers for each text of one prompt, never its strings.
"""

import polars as pl

from pipeline.reporting.items import text_key


def changed_predictions(old: pl.LazyFrame | None, new: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, num_common, num_changed: over the texts that both tables hold, those predicted differently.

    A text counts once however many items have it: within a run they all get the same prediction. Without `old` the
    table is empty.
    """
    schema = {"prompt": pl.String, "rule": pl.String, "num_common": pl.Int64, "num_changed": pl.Int64}
    if old is None:
        return pl.DataFrame(schema=schema)
    shared = _keys(old).join(_keys(new), on=["prompt", "rule"]).sort("prompt", "rule")
    tables = []
    for (prompt,), group in shared.group_by("prompt", maintain_order=True):
        rules = group["rule"].to_list()
        before, after = (_by_text(frame.filter(pl.col("prompt") == prompt), rules) for frame in (old, new))
        joined = after.join(before, on="key", suffix="_old")
        changed = [(pl.col(rule) != pl.col(f"{rule}_old")).sum() for rule in rules]
        num_common, *num_changed = joined.select(pl.len(), *changed).row(0)
        tables += [(prompt, rule, num_common, n) for rule, n in zip(rules, num_changed, strict=True)]
    return pl.DataFrame(tables, schema=schema, orient="row")


def _keys(predictions: pl.LazyFrame) -> pl.DataFrame:
    return predictions.select("prompt", "rule").unique().collect(engine="streaming")


def _by_text(predictions: pl.LazyFrame, rules: list[str]) -> pl.DataFrame:
    """One row per text of one prompt: `key` (64 bits of its hash) and a number for the prediction under each rule.

    Numbers, because strings in the table of all items take several GB at millions of items.
    """
    cells = [pl.when(pl.col("rule") == rule).then(pl.col("predicted").hash()).max().alias(rule) for rule in rules]
    keys = predictions.filter(pl.col("rule") == rules[0]).select("item_id", key=text_key()).unique("key")
    by_item = predictions.group_by("item_id").agg(cells)
    return keys.join(by_item, on="item_id").drop("item_id").collect(engine="streaming")
