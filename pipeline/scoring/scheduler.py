"""What is left to forward, and what is forwarded next: in order, within the budget, a few batches at a time.

Invariant: each sequence is waiting or in one batch that was handed out; the same calls give the same batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Generic

from pipeline.scoring.forward import S


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled(Generic[S]):
    """Sequences to be forwarded together, with no other batch beside them where `is_alone`."""

    sequences: list[S]
    is_alone: bool


class Scheduler(Generic[S]):
    """Hands out batches and takes back what did not fit into memory.

    num_fitting(sequences, max_tokens): how many of the first make a batch within the budget, at least one.
    Up to `max_running` batches are on their way at once, in `num_lanes` lanes.
    """

    def __init__(
        self,
        sequences: Sequence[S],
        num_fitting: Callable[[Iterable[S], int], int],
        *,
        max_tokens: int,
        num_lanes: int = 1,
        max_running: int = 1,
    ) -> None:
        """`sequences`: in their order."""
        self.max_tokens = max_tokens
        self._waiting: deque[S] = deque(sequences)
        self._num_tokens = sum(sequence.num_tokens for sequence in sequences)  # of those waiting
        self._num_fitting: Callable[[Iterable[S], int], int] = num_fitting
        self._num_lanes, self._max_running = num_lanes, max_running

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_alone(self) -> bool:
        """Whether batches run one at a time."""
        return self._max_running == 1

    def schedule(self, num_running: int = 0) -> Scheduled[S] | None:
        """The next batch; None where nothing waits, or as many are running as may be."""
        if not self._waiting or num_running >= self._max_running:
            return None
        self._split_first()
        max_tokens = self.max_tokens
        if self._num_lanes > 1:  # the last batches get smaller, so that the lanes end at one time
            max_tokens = min(max_tokens, max(smallest_budget(max_tokens), self._num_tokens // self._num_lanes))
        num_sequences = self._num_fitting(self._waiting, max_tokens)
        batch = [self._waiting.popleft() for _ in range(num_sequences)]
        self._num_tokens -= sum(sequence.num_tokens for sequence in batch)
        return Scheduled(batch, is_alone=self.is_alone)

    def put_back(self, batch: Scheduled[S], num_tokens: int) -> bool:
        """Let a batch of `num_tokens`, with padding, that did not fit wait again; returns whether the budget shrank.

        What does not fit beside others may fit alone, so from here on batches run one at a time. Those that were on
        their way together say nothing of half their size: only the first of them halves the budget. One that can
        be split lowers it to the size of its larger piece, which is more than half where the pieces share much.
        """
        self._add(batch.sequences)
        shrinks = batch.is_alone or (self._max_running > 1 and len(batch.sequences) > 1)
        if shrinks:
            pieces = batch.sequences[0].split() if len(batch.sequences) == 1 else []
            half = min(pieces[0].num_tokens, num_tokens - 1) if pieces else min(self.max_tokens, num_tokens) // 2
            self.max_tokens = max(1, min(self.max_tokens, half))
        self._max_running = 1
        return shrinks

    def _add(self, sequences: Iterable[S]) -> None:
        """Let sequences, in order, wait too."""
        sequences = list(sequences)
        self._waiting = deque(merge(sequences, self._waiting, key=lambda sequence: sequence.order))
        self._num_tokens += sum(sequence.num_tokens for sequence in sequences)

    def _split_first(self) -> None:
        """What has become too large for a budget that shrank is done in pieces, where it has any."""
        while self._waiting[0].num_tokens > self.max_tokens and (pieces := self._waiting[0].split()):
            self._num_tokens -= self._waiting.popleft().num_tokens
            self._add(pieces)


def smallest_budget(max_tokens: int) -> int:
    """How small the last batches' budget may get."""
    return max(1, max_tokens // 8)
