"""Kill the command at random instants, over and over, and then hold what it leaves against an undisturbed run.

Invariant: an instant is drawn before its run starts: what the run must have reached (by the files it wrote and the
lines it printed), and a delay from there; both follow from the seed. A run that ended first counts as no kill.

    python -m tests.flows.kill_harness --kills 200

writes its result to tests/KILLS.md.
"""

import argparse
import os
import platform
import random
import shlex
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.analysis import load_run
from pipeline.storing.files import LOCK, WORK, Output
from pipeline.storing.layout import MANIFEST, PART, PREDICTIONS, SCORES
from pipeline.storing.upkeep import verify
from tests.flows.runs import Nursery, Run, quiet_server, start_command

RESULT = Path(__file__).resolve().parents[1] / "KILLS.md"
KEYS = ["item_id", "prompt", "label_id"]
KILLS_PER_OUTPUT = 5
FIRST_LIMIT, MORE_EACH_RUN = 20, 8  # items: each run of a chain wants more than the one before
EMBEDDED_EVERY = 10  # so many kills, one is of a command that the user typed, embedded server and all


# Instants


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen of a run from outside."""

    run: Run
    out: Path
    before: Mapping[str, int]  # inode by name when the run started

    def files(self) -> dict[str, int]:
        """Inode by name of all files of the output, temporary ones included."""
        found = {}
        for folder, _, names in os.walk(self.out):
            for name in names:
                path = Path(folder, name)
                try:
                    found[str(path.relative_to(self.out))] = path.stat().st_ino
                except FileNotFoundError:
                    continue
        return found

    def new(self) -> set[str]:
        """Names of files that this run wrote or replaced."""
        return {name for name, inode in self.files().items() if self.before.get(name) != inode}


def _says(words: str, seen: Seen) -> bool:
    return words in seen.run.said()


def _writes(pattern: str, seen: Seen) -> bool:
    """Whether a file of such a name is being written at this moment (or was, and is there by now)."""
    return any(fnmatch(name, pattern) for name in seen.new())


def _writes_aside(seen: Seen) -> bool:
    return any(Path(name).name.startswith(".tmp-") for name in seen.new())


def _stored(num_parts: int, seen: Seen) -> bool:
    return sum(1 for name in seen.new() if PART.fullmatch(name)) >= num_parts


# What to wait for, and how long the random delay after it may be, in seconds.
INSTANTS: dict[str, tuple[Callable[[Seen], bool], float]] = {
    "at the start": (lambda seen: True, 1.0),
    "while pulling": (lambda seen: (seen.out / LOCK).exists(), 0.3),
    "while planning": (partial(_says, "pulled"), 0.2),
    "at the very first write": (partial(_writes, "store/*"), 0.02),
    "while a file is written aside": (_writes_aside, 0.005),
    "while loading the model": (partial(_says, "to score"), 0.5),
    "while scoring": (partial(_stored, 1), 0.2),
    "late in scoring": (partial(_stored, 3), 0.2),
    "while the tables are written": (partial(_writes, "runs/*/scores/*"), 0.05),
    "after the tables were written": (partial(_writes, "runs/*/items.parquet"), 0.05),
    "while reporting": (partial(_writes, "runs/*/items.parquet"), 0.5),
    "while the report is written": (partial(_writes, "runs/*/report/*"), 0.05),
    "before the switch": (partial(_writes, "runs/*/manifest.json"), 0.002),
    "after the switch": (partial(_writes, "manifest.json"), 0.005),
    "at the end": (partial(_writes, "report/*"), 0.2),
}


# Kills


@dataclass
class Outcome:
    """What a campaign of kills came to; `wrong` is what must be empty."""

    killed: Counter[str] = field(default_factory=Counter)
    embedded: int = 0
    ended_first: int = 0
    outputs: int = 0
    undisturbed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        """The runs that SIGKILL ended."""
        return self.killed.total()


def command(out: Path, limit: int) -> list[str]:
    """The sample and its model, in shards small enough for many writes."""
    return ["run", "--out", str(out), "--limit", str(limit), "--shard-size", "4", "--prompt", "answer"]


def campaign(folder: Path, num_kills: int, seed: int, env: Mapping[str, str], nursery: Nursery) -> Outcome:
    """Kill `num_kills` runs in chains, each on an output of its own and ended by an undisturbed run that must be right.

    Prints a line for each kill.
    """
    outcome, instants = Outcome(), random.Random(seed)
    reference = _reference(nursery, folder)
    while outcome.num_kills < num_kills:
        out = folder / f"out-{outcome.outputs}"
        outcome.outputs += 1
        limit = FIRST_LIMIT
        for _ in range(min(KILLS_PER_OUTPUT, num_kills - outcome.num_kills)):
            _kill_one(nursery, env, out, limit, instants, outcome)
            limit += MORE_EACH_RUN
        _finish(nursery, out, limit, reference, outcome)
    return outcome


def _kill_one(
    nursery: Nursery, env: Mapping[str, str], out: Path, limit: int, instants: random.Random, outcome: Outcome
) -> None:
    where = instants.choice(list(INSTANTS))
    reached, longest = INSTANTS[where]
    delay = instants.uniform(0, longest)
    log = out.with_name(f"{out.name}-{limit}.log")
    embedded = outcome.num_kills % EMBEDDED_EVERY == 1
    before = Seen(Run(0, log, int), out, {}).files()
    if embedded:
        alone = {name: value for name, value in env.items() if name != "PREFECT_API_URL"}
        run = start_command(command(out, limit), log, alone)
    else:
        run = nursery.start(command(out, limit), log)
    seen = Seen(run, out, before)
    while run.alive() and not reached(seen):
        time.sleep(0.0005)
    time.sleep(delay)
    run.send(signal.SIGKILL)
    code = run.wait()
    if code == -signal.SIGKILL:
        outcome.killed[where] += 1
        outcome.embedded += embedded
    else:
        outcome.ended_first += 1
        if code:
            outcome.wrong.append(f"{log.name}: exit code {code}: {run.said()[-500:]}")
    outcome.wrong += [f"{log.name}, killed {where}: {what}" for what in [*check_readable(out), *_survivors(run)]]
    print(f"{outcome.num_kills} killed {where} + {delay:.3f} s, exit code {code}", flush=True)


def _survivors(run: Run) -> list[str]:
    """Processes of the run that are still there; an embedded server notices within a moment that its run has gone."""
    for _ in range(100):
        left = run.leftovers()
        if not left:
            return []
        time.sleep(0.1)
    return [f"left behind: {line}" for line in left]


def check_readable(out: Path) -> list[str]:
    """What a reader of the published files would trip over at this moment: a torn file, a doubled row, a score lost."""
    wrong = []
    for path in out.rglob("*.parquet"):
        if path.name.startswith(".tmp-") or WORK in path.parts:
            continue
        try:
            table = pl.read_parquet(path)
        except Exception as error:
            wrong.append(f"{path.name} cannot be read: {error}")
            continue
        if path.name == "scores.parquet" and table.select(KEYS).is_duplicated().any():
            wrong.append("the score table has doubled rows")
    return wrong + (check_joins(out) if (out / MANIFEST).exists() else [])


def check_joins(out: Path) -> list[str]:
    """Whatever is wrong with the last finished run and the documented joins, by its folder and by names in `out`."""
    wrong = []
    try:
        found = load_run(out)
    except Exception as error:
        return [f"the last run does not open: {error}"]
    links = [out] if all((out / name).exists() for name in (SCORES, "items.parquet", PREDICTIONS)) else []
    for folder in (found.folder, *links):  # a first run may be killed before it has made them
        items = pl.read_parquet(folder / "items.parquet")
        for name in (SCORES, PREDICTIONS):
            table = pl.read_parquet(folder / name)
            if table["item_id"].n_unique() != items.height:
                wrong.append(f"{name} has {table['item_id'].n_unique()} items, not {items.height}")
            if table.join(items, on=["item_id", "text_hash"]).height != table.height:
                wrong.append(f"{name} has rows without their item")
    return wrong


def _reference(nursery: Nursery, folder: Path) -> Path:
    """The output of a run that nothing disturbed, over more items than any chain asks for."""
    out = folder / "reference"
    run = nursery.start(command(out, FIRST_LIMIT + KILLS_PER_OUTPUT * MORE_EACH_RUN), folder / "reference.log")
    if code := run.wait():
        raise RuntimeError(f"the undisturbed run failed ({code}): {run.said()}")
    return out


def _finish(nursery: Nursery, out: Path, limit: int, reference: Path, outcome: Outcome) -> None:
    """One undisturbed run, which must leave what the reference holds of the same items."""
    run = nursery.start(command(out, limit), out.with_name(f"{out.name}-last.log"))
    code = run.wait()
    outcome.undisturbed += 1
    wrong = [f"exit code {code}: {run.said()[-500:]}"] if code else compare(out, reference, limit)
    outcome.wrong += [f"{out.name}: {what}" for what in wrong]


def compare(out: Path, reference: Path, limit: int) -> list[str]:
    """Whatever differs between a finished output and the first `limit` items of another one; empty if nothing."""
    wrong = [str(finding) for finding in verify(Output(out, create=False))]
    ours, theirs = (pl.read_parquet(folder / SCORES) for folder in (out, reference))
    theirs = theirs.filter(pl.col("item_id") < limit)
    if not ours.select(KEYS).equals(theirs.select(KEYS)):
        return [*wrong, f"other keys: {ours.height} rows, undisturbed {theirs.height}"]
    for name in ("logprob", "logit"):
        # The bound for another composition of the batches.
        bound = 1e-6 * pl.max_horizontal(1.0, theirs[name].abs()) + 1e-5
        if not ((ours[name] - theirs[name]).abs() <= theirs.select(bound).to_series()).all():
            wrong.append(f"{name} differs by up to {(ours[name] - theirs[name]).abs().max()}")
    set_aside = [path.name for path in (out / "store" / "set-aside").glob("*")]
    return wrong + [f"a kill left a damaged part: {name}" for name in set_aside]


# The tracked result


def write_result(outcome: Outcome, seed: int, seconds: float, line: str) -> str:
    """The Markdown of tests/KILLS.md."""
    rows = "\n".join(f"| {where} | {outcome.killed[where]} |" for where in INSTANTS)
    wrong = "\n".join(f"- {what}" for what in outcome.wrong) or "Nothing."
    return f"""# Kills

Runs of the real command, ended by SIGKILL at random instants.

- command: `{line}` (seed {seed})
- date and commit: {datetime.now(UTC):%Y-%m-%d}, {_commit()}
- machine: {platform.system()}, {_processor()} ({os.cpu_count()} cores), Python {platform.python_version()}
- it took {seconds / 60:.0f} minutes

{outcome.num_kills} runs were killed, in chains of up to {KILLS_PER_OUTPUT} on {outcome.outputs} outputs. Each run of a
chain asks for {MORE_EACH_RUN} more items than the one before, so that there is always something to score. Of the
killed runs {outcome.embedded} were started as a user does, each with an embedded Prefect server; the others shared one
server and were forked from a process that had made the imports. {outcome.ended_first} more ended before their instant
came.

After each kill every published file was read, and processes left behind were looked for. Every chain ended with an
undisturbed run ({outcome.undisturbed} of them), whose table was compared with that of a run never disturbed: the same
keys, each score within 1e-6 x max(1, |score|) + 1e-5, every file sound by `labelscore verify`.

| killed | times |
| --- | ---: |
{rows}

## What was wrong

{wrong}
"""


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    """Run a campaign as asked for on the command line, and write its result; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description="Kill labelscore at random instants and check what is left.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as folder,
        quiet_server(Path(folder, "prefect")) as env,
        closing(Nursery(env)) as nursery,
    ):
        outcome = campaign(Path(folder), given.kills, given.seed, env, nursery)
    line = shlex.join(["python", "-m", "tests.flows.kill_harness", "--kills", str(given.kills)])
    given.result.write_text(write_result(outcome, given.seed, time.monotonic() - started, line))
    print("\n".join(outcome.wrong) or "nothing was wrong")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
