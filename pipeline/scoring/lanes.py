"""Batches side by side: each lane is a thread that forwards batches of its own on its share of a CPU's cores.

Cores that share each matrix product wait for the slowest of them hundreds of times in a forward pass, and whatever
else the machine does for a moment on one of them holds up all; lanes meet only where their scores are collected.

Invariant: what a lane computes depends on the batch and on the number of threads of its lane alone.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from pipeline.scoring.forward import TreeForward

# More lanes would wait for Python's lock, and hold memory for a batch each; on more cores each lane has several.
_MAX_LANES = 8

Result = TypeVar("Result")
Job = Callable[[TreeForward], Result]


class Lanes:
    """Where batches are forwarded; `depth` is how many should be on their way at once, waiting or forwarded."""

    def __init__(self, trees: list[TreeForward], pool: Executor | None) -> None:
        self.num = len(trees)
        self.depth = 1 if pool is None else 2 * len(trees)
        self._pool = pool
        self._free: SimpleQueue[TreeForward] = SimpleQueue()
        for tree in trees:
            self._free.put(tree)

    def start(self, job: Job[Result]) -> Callable[[], Result]:
        """Begin a job with a forward of its own; the function returned waits for what it gives, or raises."""
        if self._pool is not None:
            return self._pool.submit(self._run, job).result
        result = self._run(job)
        return lambda: result

    def _run(self, job: Job[Result]) -> Result:
        tree = self._free.get()
        try:
            return job(tree)
        finally:
            self._free.put(tree)


@contextmanager
def open_lanes(tree: TreeForward, num_batches: int) -> Iterator[Lanes]:
    """As many lanes as pay for so many batches: one, in the caller's thread, on a GPU and where batches are few.

    On leaving, batches that have not begun are given up, those that have are waited for.
    """
    num_threads = torch.get_num_threads()
    threads_each = -(-num_threads // _MAX_LANES)
    num_lanes = num_threads // threads_each
    if tree.device.type != "cpu" or num_lanes == 1 or num_batches < num_lanes:
        yield Lanes([tree], None)
        return
    pool = ThreadPoolExecutor(num_lanes, "lane", torch.set_num_threads, (threads_each,))
    try:
        yield Lanes([tree.twin() for _ in range(num_lanes)], pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # the lanes' number is also that of threads that begin after them
