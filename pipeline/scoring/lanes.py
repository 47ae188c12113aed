"""Batches side by side: each lane is a thread that forwards batches of its own on its share of a CPU's cores.

Cores that share each matrix product wait for the slowest of them hundreds of times in a forward pass, and whatever
else the machine does for a moment on one of them holds up all; lanes meet only where their scores are collected.

Invariant: what a lane computes depends on the batch and on the number of threads of its lane alone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from pipeline.scoring.forward import B, Forward, S, TreeForward
from pipeline.scoring.packed import PackedBatch, TokenTree
from pipeline.scoring.ranks import is_rank
from pipeline.scoring.transfers import fetch

# More lanes would wait for Python's lock, and hold memory for a batch each; on more cores each lane has several.
_MAX_LANES = 8

_Result = TypeVar("_Result")


class Lanes(Generic[S, B]):
    """Where batches are forwarded, each by a forward that no other uses meanwhile.

    Up to `max_running` batches should be on their way at once: beside the one that is forwarded each lane has one to go
    on with, and so has a GPU, which is still at work when `start` returns.
    """

    def __init__(
        self, forward: Forward[S, B], twins: Sequence[Forward[S, B]] = (), pool: Executor | None = None
    ) -> None:
        """Without twins in a pool of threads there is one lane, the caller's own thread."""
        self.forward: Forward[S, B] = forward
        self.num = len(twins) or 1
        self.max_running = 1 if pool is None and forward.device.type == "cpu" else 2 * self.num
        self._pool = pool
        self._free: SimpleQueue[Forward[S, B]] = SimpleQueue()
        for each in twins or (forward,):
            self._free.put(each)

    def start(self, work: Callable[[Forward[S, B]], _Result]) -> Callable[[], _Result]:
        """Begin some work with a forward; the function returned waits for what it gives, or raises."""
        if self._pool is not None:
            return self._pool.submit(self._run, work).result
        result = self._run(work)
        if isinstance(result, Tensor):
            return cast(Callable[[], _Result], fetch(result))
        return lambda: result

    def _run(self, work: Callable[[Forward[S, B]], _Result]) -> _Result:
        forward = self._free.get()
        try:
            return work(forward)
        finally:
            self._free.put(forward)


@contextmanager
def open_lanes(tree: TreeForward, num_batches: int) -> Iterator[Lanes[TokenTree, PackedBatch]]:
    """As many lanes as pay for so many batches: one, in the caller's thread, on a GPU and where batches are few.

    One, too, for a rank of several: what lanes send each other's ranks would come in any order.

    On leaving, batches that have not begun are given up, those that have are waited for.
    """
    num_threads = torch.get_num_threads()
    threads_each = -(-num_threads // _MAX_LANES)
    num_lanes = num_threads // threads_each
    if tree.device.type != "cpu" or num_lanes == 1 or num_batches < num_lanes or is_rank():
        yield Lanes(tree)
        return
    pool = ThreadPoolExecutor(num_lanes, "lane", torch.set_num_threads, (threads_each,))
    try:
        yield Lanes(tree, [tree.twin() for _ in range(num_lanes)], pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # the lanes' number is also that of threads that begin after them
