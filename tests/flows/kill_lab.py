"""What kills are done with: one Prefect server, a nursery of runs, outputs prepared once, and the count.

Invariant: an instant is drawn before its command starts: what the command must have reached (by the files it wrote and
the lines it printed), and a delay from there; both follow from the seed. A command that ended first counts as no kill.
"""

import os
import random
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pipeline.storing.layout import PART
from tests.flows.kill_bucket import BucketServer
from tests.flows.runs import Nursery, Run

ATTEMPTS = 6  # for a kill: a command may end before its instant comes


def local_files(folder: Path) -> dict[str, object]:
    """What tells each file from any other, by name: inode and size. Temporary ones and links included."""
    found: dict[str, object] = {}
    for place, folders, names in os.walk(folder):
        for name in (*names, *folders):
            path = Path(place, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                found[str(path.relative_to(folder))] = (status.st_ino, status.st_size)
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen of a command from outside: what it prints, and the files it works on."""

    run: Run
    files: Callable[[], dict[str, object]]
    before: Mapping[str, object]

    def says(self, words: str) -> bool:
        return words in self.run.said()

    def new(self) -> list[str]:
        """Names of files that it wrote or replaced."""
        return [name for name, what in self.files().items() if self.before.get(name) != what]

    def writes(self, pattern: str) -> bool:
        """Whether a file of such a name is being written at this moment (or was, and is there by now)."""
        return any(fnmatch(name, pattern) for name in self.new())

    def writes_aside(self) -> bool:
        return any(Path(name).name.startswith(".tmp-") for name in self.new())

    def num_parts(self) -> int:
        """How many parts of the store it wrote."""
        return sum(1 for name in self.new() if PART.fullmatch(name))

    def num_gone(self) -> int:
        return len(self.before.keys() - self.files().keys())


# What to wait for, and how long the random delay after it may be, in seconds.
Instants = Mapping[str, tuple[Callable[[Seen], bool], float]]


@dataclass
class Outcome:
    """What kills came to, by what was killed and at which instant; `wrong` is what must be empty."""

    killed: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    ended_first: int = 0
    undisturbed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        """How many processes SIGKILL ended."""
        return self.killed.total()

    def of(self, kind: str) -> int:
        """How many of them were of a kind."""
        return sum(count for (what, _), count in self.killed.items() if what == kind)


@dataclass
class Lab:
    """A folder for all outputs, what starts commands, the environment that leads to the Prefect server, the count.

    running: what else was started for it and ends with it; `bucket`, once it is needed.
    """

    folder: Path
    env: Mapping[str, str]
    nursery: Nursery
    running: ExitStack
    bucket: BucketServer | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def template(self, name: str, make: Callable[["Lab", Path], None]) -> Path:
        """An output that is made once, for others to be copied from."""
        path = self.folder / "templates" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            make(self, path)
        return path

    def undisturbed(self, argv: list[str], log: Path) -> Run:
        """A command that nothing disturbs and that must end well. Raises RuntimeError where it does not."""
        run = self.nursery.start(argv, log)
        if code := run.wait():
            raise RuntimeError(f"{argv[0]}, which nothing disturbed, failed ({code}): {run.said()[-2000:]}")
        return run

    def count(self, kind: str, where: str, killed: bool, details: str) -> None:
        """Count a kill, or a command that ended before its instant came; prints a line."""
        if killed:
            self.outcome.killed[kind, where] += 1
        else:
            self.outcome.ended_first += 1
        ended = "killed" if killed else "ended first, to be killed"
        print(f"{self.outcome.num_kills:4} {kind}: {ended} {where} {details}", flush=True)

    def note(self, kind: str, where: str, run: Run, wrong: list[str]) -> None:
        """Remember what was wrong after a kill."""
        self.outcome.wrong += [f"{kind}, killed {where} ({run.log.name}): {what}" for what in wrong]


def draw(instants: Instants, draws: random.Random) -> tuple[str, Callable[[Seen], bool], float]:
    """An instant: its name, what must be reached, and how long after it, in seconds."""
    where = draws.choice(list(instants))
    reached, longest = instants[where]
    return where, reached, draws.uniform(0, longest)


def wait_until(seen: Seen, reached: Callable[[Seen], bool], delay: float) -> None:
    """Wait for an instant, or for the end of the command."""
    while seen.run.alive() and not reached(seen):
        time.sleep(0.0005)
    time.sleep(delay)


def survivors(run: Run, seconds: float = 10) -> list[str]:
    """Processes of the run that are still there; an embedded server notices within a moment that its run has gone."""
    deadline = time.monotonic() + seconds
    while left := run.leftovers():
        if time.monotonic() > deadline:
            return [f"left behind: {line}" for line in left]
        time.sleep(0.1)
    return []


def copy(template: Path, target: Path) -> None:
    """A copy of an output, links as links."""
    shutil.copytree(template, target, symlinks=True)
