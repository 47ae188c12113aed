"""One pass of a plan through the model: its batches are begun one after the other, and collected in that order.

Invariant: at any time each sequence of the plan waits, is on its way in one batch, or is in the sums.
"""

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.scoring.counts import Counts
from pipeline.scoring.forward import RowsForward, TreeForward
from pipeline.scoring.lanes import Lanes, open_lanes
from pipeline.scoring.memory import attempt
from pipeline.scoring.packed import PackedBatch
from pipeline.scoring.padded import PaddedBatch
from pipeline.scoring.plan import Plan
from pipeline.scoring.scheduler import Scheduled, Scheduler, smallest_budget
from pipeline.scoring.strings import Ids
from pipeline.scoring.terms import LabelSums


class _Running(NamedTuple):
    """A batch on its way; `wait` gives the scores of its terms, or None where the memory did not suffice."""

    scheduled: Scheduled[Any]
    batch: PackedBatch | PaddedBatch
    wait: Callable[[], Tensor | None]


class Pass:
    """Takes a plan through the model. `counts` and `sums` are of what has been collected so far.

    `batch_tokens` bounds a batch and gets smaller where the memory does not suffice.
    """

    def __init__(
        self,
        plan: Plan,
        tree: TreeForward,
        rows: RowsForward,
        *,
        batch_tokens: int,
        greedy: bool = False,
        side_by_side: bool = True,
    ) -> None:
        """On a CPU batches run `side_by_side` in lanes, unless that is not wanted."""
        self.plan, self.batch_tokens = plan, batch_tokens
        self.counts = Counts(trie_tokens=plan.num_distinct)
        self.sums = LabelSums(plan.items, plan.indices, greedy=greedy)
        self._tree, self._rows = tree, rows
        self._greedy, self._side_by_side = greedy, side_by_side
        self._stages = deque(plan.stages)
        self._lanes: Lanes[Any, Any] = Lanes(tree if plan.path == "tree" else rows)
        self._regime = 0
        self._scheduler = Scheduler[Any]([], self._lanes.forward.num_fitting, max_tokens=batch_tokens)
        self._open = ExitStack()  # the lanes of the stage
        self._running: deque[_Running] = deque()

    @property
    def is_begun(self) -> bool:
        """Whether all batches have been begun, and nothing speaks against others behind them."""
        return not self._stages and not self._scheduler.num_waiting and not self._scheduler.is_alone

    @property
    def is_done(self) -> bool:
        return not (self._stages or self._scheduler.num_waiting or self._running)

    def begin(self) -> None:
        """Begin batches until as many are on their way as may be."""
        if not self._scheduler.num_waiting and not self._running and self._stages:
            self._begin_stage()
        while (scheduled := self._scheduler.schedule(len(self._running))) is not None:
            self._running.append(self._start(scheduled))

    def collect(self) -> list[int]:
        """Wait for the first batch on its way; returns the items that are complete with it.

        Raises RunError where a single item does not fit into memory.
        """
        running = self._running.popleft()
        scores = running.wait()
        if scores is None:
            self._put_back(running)
            return []
        batch = running.batch
        self.counts.batches += 1
        self.counts.forwarded_tokens += batch.num_tokens
        self.counts.padding_tokens += batch.ids.numel() - batch.num_tokens
        self.counts.read_positions += len(batch.reads)
        return self.sums.add(batch.indices, batch.terms, scores)

    def close(self) -> None:
        """Give up what has not begun, and end the lanes; batches that have begun there are waited for."""
        self._open.close()

    def _begin_stage(self) -> None:
        self._open.close()
        self._regime, sequences = self._stages.popleft()
        self._lanes.forward.set_regime(self._regime)
        if self.plan.path == "tree":
            num_tokens = sum(tree.num_tokens for tree in sequences) if self._side_by_side else 0
            lanes = open_lanes(self._tree, num_tokens // smallest_budget(self.batch_tokens))
            self._lanes = self._open.enter_context(lanes)
        self._scheduler = Scheduler(
            sequences,
            self._lanes.forward.num_fitting,
            max_tokens=self.batch_tokens,
            num_lanes=self._lanes.num,
            max_running=self._lanes.max_running,
        )

    def _start(self, scheduled: Scheduled[Any]) -> _Running:
        """Lay out a batch and begin its forward, after its prefix."""
        forward, greedy = self._lanes.forward, self._greedy
        if forward.regime != self._regime:  # another pass has begun meanwhile
            forward.set_regime(self._regime)
        num_forwarded = self._keep_prefix(scheduled.sequences[0].prefix)
        batch = forward.lay_out(scheduled.sequences)
        if num_forwarded is None:
            return _Running(scheduled, batch, lambda: None)
        self.counts.forwarded_tokens += num_forwarded
        return _Running(
            scheduled, batch, self._lanes.start(lambda forward: attempt(forward.scores, batch, greedy=greedy))
        )

    def _keep_prefix(self, prefix: Ids) -> int | None:
        """How many tokens were forwarded for it, None where the memory did not suffice."""
        if not self._running or self._tree.has_prefix(prefix):  # with all threads
            return attempt(self._tree.keep_prefix, prefix)
        return self._lanes.start(lambda _: attempt(self._tree.keep_prefix, prefix))()

    def _put_back(self, failed: _Running) -> None:
        """Let a batch that did not fit wait again, for smaller ones."""
        device = self._tree.device
        if device.type != "cpu":
            torch.accelerator.empty_cache()
        num_tokens, sequences = failed.batch.ids.numel(), failed.scheduled.sequences
        if failed.scheduled.is_alone and len(sequences) == 1 and not sequences[0].split():
            shared = f" after {len(sequences[0].prefix)} tokens of prompt" if sequences[0].prefix else ""
            raise RunError(
                f"out of memory on {device} with a single item of {num_tokens} tokens{shared}; use a "
                "smaller model, --dtype bfloat16, a shorter prompt, or --max-text-tokens to cut long texts"
            )
        if self._scheduler.put_back(failed.scheduled, num_tokens):
            self.counts.out_of_memory += 1
            self.batch_tokens = self._scheduler.max_tokens
