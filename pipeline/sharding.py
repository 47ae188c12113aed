"""Shards: what is missing, cut into pieces that a worker scores one at a time; known without the model or torch.

Invariant: each missing text is in exactly one shard of its prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.prompts import Values
from pipeline.reading.model_ref import ModelRef
from pipeline.scoring.counts import Counts
from pipeline.storing.parts import PartWriter
from pipeline.storing.tables import read_batches

BYTES_IN_SHARD = 64_000_000  # of texts: they are in memory several times over


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """All that a process needs to score shards: it holds no data and can be sent to another machine.

    `writers` append to the store what is scored, one for each prompt, which they hold.
    """

    model: ModelRef
    writers: tuple[PartWriter, ...]
    max_text_tokens: int | None
    notebook: bool
    batch_tokens: int | None
    num_ranks: int = 1  # processes with a slice of the model each
    compiles: bool = False  # the model's layers


@dataclass(frozen=True, slots=True)
class Shard:
    """Texts to score under one prompt: rows [start, stop) of the parquet file `pending`."""

    name: str
    prompt: str
    pending: Path
    start: int
    stop: int


def cut_shards(prompt: str, pending: Path, shard_size: int) -> list[Shard]:
    """The shards of a prompt's missing texts, in the order of `pending`: so many in each, or fewer long ones."""
    stops = _stops(pq.read_metadata(pending), shard_size)
    return [
        Shard(f"{prompt} {number}/{len(stops)}", prompt, pending, start, stop)
        for number, (start, stop) in enumerate(zip([0, *stops], stops, strict=False), 1)
    ]


def _stops(pending: pq.FileMetaData, shard_size: int) -> list[int]:
    """The row after the last one of each shard; a shard of more than one text has at most about BYTES_IN_SHARD."""
    stops, row, size, num_bytes = [], 0, 0, 0.0
    for group in map(pending.row_group, range(pending.num_row_groups)):
        left, bytes_each = group.num_rows, group.total_byte_size / max(1, group.num_rows)
        while left:
            room = max(0 if size else 1, int((BYTES_IN_SHARD - num_bytes) // bytes_each))
            taken = min(left, shard_size - size, room)
            row, size, num_bytes, left = row + taken, size + taken, num_bytes + taken * bytes_each, left - taken
            if left or size == shard_size:
                stops.append(row)
                size, num_bytes = 0, 0.0
    return [*stops, row] if size else stops


def read_texts(shard: Shard) -> pa.Table:
    """The items of a shard: text_hash and their columns. Reads the row groups that hold them and no more."""
    with pq.ParquetFile(shard.pending) as file:
        first = offset = 0
        groups: list[int] = []
        for group in range(file.metadata.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if first < shard.stop and first + num_rows > shard.start:
                offset = offset if groups else first
                groups.append(group)
            first += num_rows
        return file.read_row_groups(groups).slice(shard.start - offset, shard.stop - shard.start)


def count_characters(shards: Sequence[Shard]) -> list[float]:
    """About how many characters the items of each shard have, from one look over the files that they lie in."""
    found = np.zeros(len(shards))
    for path in dict.fromkeys(shard.pending for shard in shards):
        mine = np.array([number for number, shard in enumerate(shards) if shard.pending == path])
        starts = np.array([shards[number].start for number in mine])
        order = np.argsort(starts)
        mine, starts = mine[order], starts[order]
        stops = np.array([shards[number].stop for number in mine])
        first = 0
        for batch in read_batches(path, [name for name in pq.read_schema(path).names if name != "text_hash"]):
            rows = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            place = np.searchsorted(starts, rows, side="right") - 1
            is_in = (place >= 0) & (rows < stops[place])
            np.add.at(found, mine[place[is_in]], _lengths(batch)[is_in])
    return found.tolist()


def _lengths(batch: pa.RecordBatch) -> npt.NDArray[np.float64]:
    """The bytes of each row's strings  # (rows,); those in lists as they are on average."""
    lengths = np.zeros(batch.num_rows)
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            lengths += np.asarray(pc.fill_null(pc.binary_length(column), 0))
        else:
            lengths += column.nbytes / max(1, batch.num_rows)
    return lengths


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What scoring a shard did; `counts` covers this shard alone."""

    name: str
    num_texts: int
    seconds: float
    counts: Counts
    path: str
    path_reason: str | None  # why not over a tree of labels
    remark: str | None = None  # what a person should know of the scores besides
    kernels: str | None = None  # what attention ran on, and whether layers were compiled

    @property
    def lines(self) -> list[str]:
        """What is to be told of it, once a run."""
        slower = self.path_reason and f"the slower path, a row for each label: {self.path_reason}"
        return list(filter(None, (slower, self.remark)))


def item_values(texts: pa.Table) -> list[Values]:
    """What makes each item."""
    values: list[Values] = texts.drop_columns("text_hash").to_pylist()
    return values


class EncodesAhead(Protocol):
    """What of a scorer of shards `score_all` asks for."""

    def encode_ahead(self, shard: Shard, texts: pa.Table | None = None) -> None: ...

    def drain(self) -> None: ...


def score_all(
    scorer: EncodesAhead, shards: Sequence[Shard], score_one: Callable[[Shard], ShardResult]
) -> Iterator[ShardResult]:
    """Score shards in order, each by `score_one`, which has `scorer` do it; the next one is encoded meanwhile.

    All is stored once the last result has been taken.
    """
    for shard, following in zip(shards, [*shards[1:], None], strict=True):
        scorer.encode_ahead(shard)
        if following:
            scorer.encode_ahead(following)
        yield score_one(shard)
    scorer.drain()
