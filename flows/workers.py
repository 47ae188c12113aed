"""Workers: what scores shards, in this process or in several, and where they find the texts.

Invariant: whoever scores a shard writes it to the store; what comes back is counts.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from prefect.tasks import Task

from pipeline.shard import Shard, ShardResult

Advance = Callable[[int], None]
ScoreShard = Task[["Workers", Shard, Advance], ShardResult]


class Workers(Protocol):
    """Loaded models that score shards."""

    def score(self, shards: list[Shard], score_shard: ScoreShard, advance: Advance) -> Iterator[ShardResult]:
        """Score all shards through the task `score_shard`, yielding results as they come."""
        ...

    def score_one(self, shard: Shard, advance: Advance) -> ShardResult:
        """Score one shard; `advance` is called with the number of texts scored since its last call."""
        ...


def read_texts(shard: Shard) -> pa.Table:
    """The texts of a shard: columns text_hash and text. Reads the row groups that hold them and no more."""
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
