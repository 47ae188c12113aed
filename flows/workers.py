"""Workers: what scores shards, in this process or in several.

Invariant: whoever scores a shard writes it to the store; what comes back is counts.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from prefect.tasks import Task

from pipeline.job import Job, Planned
from pipeline.shard import Shard, ShardResult, ShardScorer

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


@contextmanager
def open_workers(job: Job, planned: Planned, should_stop: Callable[[], bool]) -> Iterator[Workers]:
    """The configured number of workers with their models loaded; all they scored is stored when the block ends.

    One is this process, without Ray. Raises what loading a model and starting Ray raise.
    """
    if job.config.workers > 1 or os.environ.get("RAY_ADDRESS"):
        from flows.ray_workers import open_ray

        with open_ray(job, planned.spec, should_stop) as workers:
            yield workers
        return
    with job.timed("load"):
        first = planned.shards[0]
        scorer = ShardScorer(planned.spec, (first, partial(read_texts, first)))
    try:
        yield InProcess(scorer, should_stop)
    finally:
        scorer.close()


class InProcess:
    """One worker: this process. The next shard is encoded while the current one is scored."""

    def __init__(self, scorer: ShardScorer, should_stop: Callable[[], bool]) -> None:
        self._scorer = scorer
        self._should_stop = should_stop

    def score(self, shards: list[Shard], score_shard: ScoreShard, advance: Advance) -> Iterator[ShardResult]:
        """One shard after the other, in order."""
        for shard, following in zip(shards, [*shards[1:], None], strict=True):
            self._scorer.encode_ahead(shard, partial(read_texts, shard))
            if following:
                self._scorer.encode_ahead(following, partial(read_texts, following))
            yield score_shard(self, shard, advance)
        self._scorer.drain()

    def score_one(self, shard: Shard, advance: Advance) -> ShardResult:
        """Score a shard in this thread."""
        return self._scorer.score(shard, partial(read_texts, shard), advance, self._should_stop)


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
