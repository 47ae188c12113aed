"""Which predictions changed since the run before, text by text.

Invariant: memory holds a slice of the items or a bucket of their texts, whatever the runs' sizes; what has been read
waits in scratch files without a name.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.reporting.items import in_block, text_key
from pipeline.reporting.predictions import Block, drop_outdated
from pipeline.storing.spill import Array, Spill, bucket_of, num_buckets

ITEMS_AT_ONCE = 1 << 17  # read at once: of eight rules some 100 MB
NONE = 0  # the prediction under a rule that an item lacks, which cannot have changed
SCHEMA = {"prompt": pl.String, "rule": pl.String, "num_common": pl.Int64, "num_changed": pl.Int64}


def changed_predictions(old: pl.LazyFrame | None, new: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, num_common, num_changed: over the texts that both tables hold, those predicted differently.

    A text counts once however many items have it: within a run they all get the same prediction. Without `old` the
    table is empty; a rule that was another then has no row.
    """
    if old is None:
        return pl.DataFrame(schema=SCHEMA)
    keys = ["prompt", "rule"]
    old = drop_outdated(old)
    there, here = (frame.select(keys).unique().collect(engine="streaming") for frame in (old, new))
    shared = there.join(here, on=keys).sort(keys)
    tables = []
    for (prompt,), group in shared.group_by("prompt", maintain_order=True):
        rules = group["rule"].to_list()
        before, after = (frame.filter(pl.col("prompt") == prompt) for frame in (old, new))
        num_common, num_changed = _count(before, after, rules)
        tables += [(prompt, rule, num_common, int(n)) for rule, n in zip(rules, num_changed, strict=True)]
    return pl.DataFrame(tables, schema=SCHEMA, orient="row")


def blocks_of_items(table: pl.LazyFrame) -> list[Block]:
    """Ranges of item ids with ITEMS_AT_ONCE of the table's rows in each; the table has an item once."""
    ids = table.select("item_id").collect(engine="streaming").to_series().sort()
    starts = ids.gather_every(ITEMS_AT_ONCE).to_list()
    return list(zip(starts, [*starts[1:], *(ids.tail(1) + 1).to_list()], strict=True))


def buckets_for(*sides: list[Block]) -> int:
    """How many buckets keep memory small when the items of these blocks meet."""
    return num_buckets(sum(map(len, sides)) * ITEMS_AT_ONCE)


def _count(before: pl.LazyFrame, after: pl.LazyFrame, rules: Sequence[str]) -> tuple[int, Array]:
    """How many texts two tables of one prompt share, and how many of these changed under each rule  # (rules,)."""
    sides = [(table, blocks_of_items(table.filter(pl.col("rule") == rules[0]))) for table in (before, after)]
    buckets = buckets_for(*(blocks for _, blocks in sides))
    dtype = [("key", "<u8"), ("predicted", "<u8", (len(rules),))]
    scratch = Path(tempfile.gettempdir())
    num_common, num_changed = 0, np.zeros(len(rules), np.int64)
    with Spill(scratch, dtype, buckets) as old, Spill(scratch, dtype, buckets) as new:
        for spill, (table, blocks) in zip((old, new), sides, strict=True):
            for keys, predicted in _by_text(table, blocks, rules):
                spill.add(bucket_of(keys[:, None], buckets), key=keys, predicted=predicted)
            spill.flush()
        for bucket in range(buckets):
            there, here = (_first_of_each(spill.read(bucket)) for spill in (old, new))
            _, i, j = np.intersect1d(there["key"], here["key"], assume_unique=True, return_indices=True)
            num_common += len(i)
            was, now = there["predicted"][i], here["predicted"][j]
            num_changed += ((was != now) & (was != NONE) & (now != NONE)).sum(axis=0)
    return num_common, num_changed


def _by_text(table: pl.LazyFrame, blocks: Sequence[Block], rules: Sequence[str]) -> Iterator[tuple[Array, Array]]:
    """64 bits of each item's text's hash  # (n,), and a number for its prediction under each rule  # (n, rules)."""
    cells = [pl.when(pl.col("rule") == rule).then(pl.col("predicted").hash()).max().alias(rule) for rule in rules]
    for block in blocks:
        rows = table.filter(in_block(block)).select("item_id", "rule", "predicted", "text_hash").collect()
        keys = rows.filter(pl.col("rule") == rules[0]).select("item_id", key=text_key())
        items = keys.join(rows.group_by("item_id").agg(cells), on="item_id", how="left")
        yield items["key"].to_numpy(), items.select(pl.col(rules).fill_null(NONE)).to_numpy()


def _first_of_each(records: Array) -> Array:
    return records[np.unique(records["key"], return_index=True)[1]]
