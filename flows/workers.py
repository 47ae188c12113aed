"""Who scores a run's shards: this process, or actors on Ray.

Invariant: a worker that is handed out has its model loaded.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from prefect.tasks import Task

from flows.ray_workers import RayWorkers, open_ray
from pipeline.ranks import GroupScorer, open_scorer
from pipeline.sharding import ScoringSpec, Shard, ShardResult, score_all

if TYPE_CHECKING:
    from pipeline.shard import ShardScorer


class InProcess:
    """One worker: this process, or ranks that it leads. The next shard is encoded while the current one is scored."""

    def __init__(self, scorer: "ShardScorer | GroupScorer", should_stop: Callable[[], bool]) -> None:
        self._scorer = scorer
        self._should_stop = should_stop

    def score(
        self, shards: list[Shard], score_shard: Task[..., ShardResult], advance: Callable[[int], None]
    ) -> Iterator[ShardResult]:
        """One shard after the other, in order."""
        return score_all(self._scorer, shards, lambda shard: score_shard(self, shard, advance))

    def score_one(self, shard: Shard, advance: Callable[[int], None]) -> ShardResult:
        """Score a shard in this thread."""
        num_shown = 0

        def show(num_texts: int) -> None:
            nonlocal num_shown
            num_shown += num_texts
            advance(num_texts)

        try:
            return self._scorer.score(shard, show, self._should_stop)
        except BaseException:
            advance(-num_shown)  # Prefect may try it again, from the start
            raise


Workers = InProcess | RayWorkers


@contextmanager
def open_workers(
    spec: ScoringSpec, first: Shard, num_workers: int, should_stop: Callable[[], bool]
) -> Iterator[Workers]:
    """So many workers with their models loaded; all they scored is stored when the block ends.

    One is this process, without Ray unless RAY_ADDRESS names a cluster; it encodes the shard `first` while its model
    loads. Raises what loading a model and starting Ray raise.
    """
    if num_workers > 1 or os.environ.get("RAY_ADDRESS"):
        with open_ray(spec, num_workers, should_stop) as workers:
            yield workers
    else:
        with closing(open_scorer(spec, first)) as scorer:
            yield InProcess(scorer, should_stop)
