"""A command watched from outside: how long each of its stages takes, of how much processor time, at what peak memory.

Invariant: what is counted is the whole process tree, and a stage begins when something outside can see that it did.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.command import ROOT, tree_use

POLL_SECONDS = 0.1


@dataclass(slots=True)
class Stage:
    """What a stage of a command took; several are added up where the command was interrupted and run again."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # resident, the whole process tree at its largest moment

    def add(self, other: "Stage") -> None:
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def watch(
    arguments: Sequence[str], log: Path, stage_of: Callable[[], str], on_sample: Callable[[str, Stage], None]
) -> None:
    """Run a command to its end. `on_sample` is told, ten times a second, in which stage it is and what passed since.

    Raises SystemExit with the end of its log where it fails.
    """
    with log.open("ab") as stream:
        start = stream.tell()
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=dict(os.environ))
        last, cpu = time.perf_counter(), 0.0
        while True:
            code = process.poll()
            used, peak = tree_use(process.pid) if code is None else (cpu, 0)
            now = time.perf_counter()
            # Processes that end take their own processor time out of the tree, until their parent has waited for them.
            on_sample(stage_of(), Stage(now - last, max(0.0, used - cpu), peak))
            last, cpu = now, max(cpu, used)
            if code is not None:
                break
            time.sleep(POLL_SECONDS)
    if code:
        text = log.read_bytes()[start:].decode(errors="replace")
        raise SystemExit(f"{' '.join(arguments[2:])} ended with {code}:\n{text[-3000:]}")
