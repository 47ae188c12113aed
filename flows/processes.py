"""The processes that this one has started, and those that they have, to be ended when they do not end by themselves.

Invariant: a process is known by its number and the time it started, so that a number which was given to another
process since is never killed.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine; `started` in clock ticks since the machine started."""

    pid: int
    started: int


def descendants() -> set[Process]:
    """The children of this process, their children and so on; none where there is no /proc, as on macOS."""
    children: dict[int, list[Process]] = {}
    for folder in PROC.glob("[0-9]*"):
        if (found := _look(int(folder.name))) is not None:
            process, parent = found
            children.setdefault(parent, []).append(process)
    known: set[Process] = set()
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        known.update(below)
        waiting += [process.pid for process in below]
    return known


def kill(processes: Iterable[Process]) -> None:
    """End processes at once, also stopped ones; those that have ended are left out."""
    for process in processes:
        found = _look(process.pid)
        if found is not None and found[0] == process:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)


def _look(pid: int) -> tuple[Process, int] | None:
    """A process and the number of its parent."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:  # it has just ended
        return None
    fields = text.rpartition(")")[2].split()  # a process's name may hold anything, also blanks and brackets
    return Process(pid, int(fields[19])), int(fields[1])
