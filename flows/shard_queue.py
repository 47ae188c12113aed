"""Which shard is handed out next: the dearest, and near the end a part of one, so that workers end together.

Invariant: every text of the shards is handed out once. How they are cut moves a score by no more than rounding, as
another shard size does.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.sharding import Shard, count_characters

CHARACTERS_AROUND = 50  # of an item that has next to no text: the tokens of its labels and where they join
SMALLEST_PART = 8  # of a shard: the fewer texts, the further apart their lengths lie, and each part is a task, too


@dataclass(frozen=True, order=True)
class _Waiting:
    cost_down: float  # minus the cost, so that the dearest comes first
    number: int
    shard: Shard = field(compare=False)


class ShardQueue:
    """Shards that wait for one of `num_workers` workers; what one costs is told by its characters."""

    def __init__(self, shards: Sequence[Shard], num_workers: int) -> None:
        costs = [
            characters + CHARACTERS_AROUND * (shard.stop - shard.start)
            for shard, characters in zip(shards, count_characters(shards), strict=True)
        ]
        self._waiting = sorted(map(_Waiting, (-cost for cost in costs), range(len(shards)), shards))
        self._left = -sum(costs)
        self._num_workers = num_workers
        self._fewest = max([1, *((shard.stop - shard.start) // SMALLEST_PART for shard in shards)])

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def pop(self) -> Shard:
        """The next one: no more than half of a worker's share of what is left, but no crumb."""
        share = self._left / (2 * self._num_workers)
        first = self._waiting.pop(0)
        self._left -= first.cost_down
        shard, num_texts = first.shard, first.shard.stop - first.shard.start
        num_now = max(self._fewest, int(num_texts * share / first.cost_down)) if first.cost_down else num_texts
        if num_texts - num_now < self._fewest:
            return shard
        rest = replace(shard, start=shard.start + num_now)
        cost_down = first.cost_down * (1 - num_now / num_texts)
        insort(self._waiting, _Waiting(cost_down, first.number, rest))
        self._left += cost_down
        return replace(shard, name=f"{shard.name}, from {shard.start}", stop=rest.start)
