"""The order in which items are asked about: one row of each distinct text, as a seed draws them.

A text is what all prompts together read of an item. Its place is that of a hash of the seed and of what it is, so that
the same texts come in the same order after a kill, in another file, and beside new rows.

Invariant: in an order a text stands once, has a gold label, and no row of the file says otherwise.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storing.tables import read_batches, write_table

CHUNK = 8192  # items that are in memory at once
TEXT_HASH = "text_hash"  # the one column of hashes that every items.parquet has
NO_GOLD = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """`rows`: those of items.parquet that are asked about, in order; and how many were left out for what.

    `num_disputed` texts have rows with different gold labels; `num_repeats` rows have the text of another one.
    """

    rows: np.ndarray  # (texts,)
    num_without_gold: int
    num_disputed: int
    num_repeats: int


def draw_order(items: Path, hash_columns: Sequence[str], seed: int) -> Order:
    """The order of the rows of items.parquet, of which `hash_columns` say together what each one's text is.

    Takes some 70 bytes a row. Two of ten million texts are taken for one once in 400,000 files (64 bits of a hash).
    """
    ranks, golds = (np.concatenate(found) for found in zip(*_read(items, hash_columns, seed), strict=True))
    labelled = np.flatnonzero(golds != NO_GOLD)
    by_rank = labelled[np.argsort(ranks[labelled], kind="stable")]  # of equal texts the first row comes first
    starts = np.flatnonzero(np.diff(ranks[by_rank], prepend=~ranks[by_rank[:1]]))
    if not len(starts):
        return Order(labelled, len(golds), 0, 0)
    own = golds[by_rank]
    agrees = np.minimum.reduceat(own, starts) == np.maximum.reduceat(own, starts)
    return Order(
        by_rank[starts[agrees]],
        num_without_gold=len(golds) - len(labelled),
        num_disputed=int((~agrees).sum()),
        num_repeats=len(labelled) - len(starts),
    )


def _read(items: Path, hash_columns: Sequence[str], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rank of each row's text, uint64, and a number for its gold label, or for several together."""
    for batch in read_batches(items, [*hash_columns, "gold_id", "gold_ids"]):
        texts = zip(*(batch[column].to_pylist() for column in hash_columns), strict=True)
        ranks = [_digits(f"{seed}\0" + "\0".join(hashes)) for hashes in texts]
        golds = np.asarray(pc.fill_null(batch["gold_id"].cast(pa.int64()), NO_GOLD)).copy()
        for row, several in enumerate(batch["gold_ids"].to_pylist()):
            if several is not None:
                golds[row] = -1 - (_digits(str(sorted(several))) >> 2)
        yield np.array(ranks, np.uint64), golds


def _digits(text: str) -> int:
    """64 bits of a text's hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


class OrderedItems:
    """The items of items.parquet in an order; CHUNK of them are in memory, or those of a block where these are more.

    `hash_columns`: its columns of hashes, under the names that prompts have there.
    """

    def __init__(self, items: Path, order: Order, hash_columns: Collection[str]) -> None:
        self._items, self._order, self._hash_columns = items, order, hash_columns
        self._start, self._chunk = 0, pq.read_schema(items).empty_table()

    def write(self, path: Path, start: int, stop: int, hashes: dict[str, str]) -> None:
        """Write items [start, stop) of the order as an items.parquet, in which an item's id is its place in the order.

        `hashes`: the columns of hashes that candidates ask for, each with the one of items.parquet that it is.
        """
        found = pa.concat_tables([self._slice(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK)])
        # A candidate may be called as a prompt of items.parquet is that reads other columns.
        table = found.drop_columns([name for name in self._hash_columns if name != TEXT_HASH])
        table = table.set_column(0, table.schema.field("item_id"), pa.array(np.arange(start, stop)))
        for column, known in hashes.items():
            if column != TEXT_HASH:
                table = table.append_column(found.schema.field(known).with_name(column), found[known])
        write_table(path, table.schema, [table])

    def _slice(self, start: int, stop: int) -> pa.Table:
        held = range(self._start, self._start + self._chunk.num_rows)
        if not (start in held and stop - 1 in held):
            self._start, self._chunk = start, self._gather(self._order.rows[start : start + CHUNK])
        return self._chunk.slice(start - self._start, stop - start)

    def _gather(self, rows: np.ndarray) -> pa.Table:
        """These rows of the file, in this order: one pass over it."""
        schema, rising = pq.read_schema(self._items), np.sort(rows)
        first, found = 0, []
        for batch in read_batches(self._items, schema.names):
            low, high = np.searchsorted(rising, [first, first + batch.num_rows])
            if high > low:
                found.append(batch.take(pa.array(rising[low:high] - first)))
            first += batch.num_rows
        return pa.Table.from_batches(found, schema).take(pa.array(np.searchsorted(rising, rows)))
