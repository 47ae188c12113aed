"""A device that sleeps for as long as a GPU would work, to see whether the host keeps it busy.

It takes the scorer's way to a GPU: batches are queued, and their scores are waited for. What a host does to launch a
forward it does here, too: that of a narrow model with as many layers as the real one, over a few of a batch's trees.

Invariant: the scores mean nothing; all else is what the host does for a real device, but for copies from pinned memory.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.scoring import lanes
from pipeline.scoring.forward import Shortcut, TreeForward
from pipeline.scoring.packed import PackedBatch, TokenTree
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.strings import Ids
from pipeline.scoring.transfers import send

LAUNCHED_TREES = 4
ELSEWHERE = torch.device("meta")  # takes what is sent, and keeps nothing


@dataclass
class SleepingDevice:
    """Works on one batch after the other; `spans`: when it begins and ends each, in seconds of `perf_counter`."""

    seconds_an_item: float
    spans: list[tuple[float, float]] = field(default_factory=list)
    launch_seconds: list[float] = field(default_factory=list)

    def queue(self, num_items: int) -> None:
        begin = max(time.perf_counter(), self.spans[-1][1] if self.spans else 0.0)
        self.spans.append((begin, begin + num_items * self.seconds_an_item))

    def fetch(self, scores: Tensor) -> Callable[[], Tensor]:
        """The scores of the batch queued last, once it is done."""
        end = self.spans[-1][1] if self.spans else 0.0

        def wait() -> Tensor:
            time.sleep(max(0.0, end - time.perf_counter()))
            return scores

        return wait

    @property
    def busy(self) -> float:
        """The share of the time from the first batch's start to the last one's end."""
        return sum(end - begin for begin, end in self.spans) / (self.spans[-1][1] - self.spans[0][0])

    @property
    def gaps(self) -> list[float]:
        """For how many seconds it had nothing to do, each time."""
        return [begin - end for (_, end), (begin, _) in zip(self.spans, self.spans[1:], strict=False) if begin > end]


@contextmanager
def scored_by(device: SleepingDevice) -> Iterator[None]:
    """Scorers made meanwhile have their batches done by the device, once they have checked the model as it is."""
    usual = Scorer.__init__

    def make(scorer: Scorer, *given: Any, **options: Any) -> None:
        usual(scorer, *given, **options)
        tree = scorer._tree
        launcher = tree.twin()
        tree.device, tree.shortcuts = ELSEWHERE, tree.shortcuts | {Shortcut.NO_MASKS}
        few: list[Sequence[TokenTree]] = []
        patched: Any = tree
        patched.lay_out = partial(_lay_out, tree, few)
        patched.keep_prefix = partial(_keep_prefix, tree, launcher, device)
        patched.scores = partial(_scores, launcher, few, device)
        check: Any = scorer._check
        check.reach, check.covers = (lambda _: None), (lambda _: True)

    with patch.object(Scorer, "__init__", make), patch.object(lanes, "fetch", device.fetch):
        yield


def _lay_out(tree: TreeForward, few: list[Sequence[TokenTree]], trees: Sequence[TokenTree]) -> PackedBatch:
    few[:] = [trees[:LAUNCHED_TREES]]
    return tree._pack(trees, tree._prefix)


def _keep_prefix(tree: TreeForward, launcher: TreeForward, device: SleepingDevice, ids: Ids) -> int:
    if tree.has_prefix(ids):
        return 0
    launcher.keep_prefix(ids)
    tree._prefix, tree._prefix_ids = launcher._prefix, ids
    return len(ids)


def _scores(
    launcher: TreeForward,
    few: list[Sequence[TokenTree]],
    device: SleepingDevice,
    batch: PackedBatch,
    *,
    greedy: bool = False,
) -> Tensor:
    started = time.perf_counter()
    send(batch, ELSEWHERE)
    launcher.keep_prefix(few[0][0].prefix)
    launcher.scores(launcher.lay_out(few[0]), greedy=greedy)
    device.launch_seconds.append(time.perf_counter() - started)
    device.queue(len(batch.indices))
    return torch.full((2, len(batch.terms)), -1.0)
