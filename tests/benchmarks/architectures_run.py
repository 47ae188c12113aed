"""Cases of the sweep in processes of their own, a few at a time.

Invariant: each case that is given comes back with an outcome once; one whose process dies, or takes too long, is
"crashed", and no other case notices.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.benchmarks.architectures_case import run_case
from tests.benchmarks.architectures_cases import CASES

Key = tuple[str, str]  # model type, case
NUM_PROCESSES = 2
MAX_SECONDS = 120
# Everything is imported once, before the forks; the parent computes nothing, so there are no threads to lose.
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(slots=True)
class _Running:
    key: Key
    process: Any
    receiver: Connection
    deadline: float

    def outcome(self) -> dict[str, Any] | None:
        """None while it is awaited."""
        if self.receiver.poll():
            try:
                found: dict[str, Any] = self.receiver.recv()
            except EOFError:
                self.process.join()
                return _crashed(f"the process died ({self.process.exitcode})")
        elif time.monotonic() < self.deadline:
            return None
        else:
            self.process.kill()
            found = _crashed(f"not done after {MAX_SECONDS} s")
        self.process.join()
        return found


def run_all(todo: Sequence[Key]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Each case's outcome, as they come."""
    waiting, running = list(reversed(todo)), []
    while waiting or running:
        while waiting and len(running) < NUM_PROCESSES:
            running.append(_start(waiting.pop()))
        next_deadline = min(each.deadline for each in running)
        wait([each.receiver for each in running], timeout=max(0.0, next_deadline - time.monotonic()))
        for each in list(running):
            if (outcome := each.outcome()) is not None:
                running.remove(each)
                yield each.key, outcome


def _start(key: Key) -> _Running:
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(*key, sender))
    process.start()
    sender.close()
    return _Running(key, process, receiver, time.monotonic() + MAX_SECONDS)


def _work(name: str, case: str, sender: Connection) -> None:
    with Path(os.devnull).open("w") as nothing:  # transformers' reports and bars
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    sender.send(run_case(name, CASES[case].variant, CASES[case].dtype))


def _crashed(why: str) -> dict[str, Any]:
    return {"verdict": "crashed", "why": why}
