"""The tracked record of kills, tests/kills.json, and the page for people that is made from it, tests/KILLS.md.

Invariant: a batch is written once it is whole, by one rename; one that was interrupted left nothing and counts for
nothing. A seed stands there once for a commit.
"""

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

RECORD = Path(__file__).resolve().parents[1] / "kills.json"


class Batch(BaseModel):
    """Kills that one seed drew: how many by what was killed and at which instant, and what was wrong after them.

    `seconds`: of the whole batch, checks included; `seconds_of` of each kind. `remark`: what came of what was wrong,
    written by hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    commit: str
    date: str
    seconds: float
    kills: dict[str, dict[str, int]]
    seconds_of: dict[str, float]
    ended_first: int
    undisturbed: int
    wrong: list[str]
    remark: str = ""

    @property
    def num_kills(self) -> int:
        return sum(sum(instants.values()) for instants in self.kills.values())


def read_record(path: Path) -> list[Batch]:
    """The batches so far, in the order in which they ended."""
    if not path.exists():
        return []
    return [Batch.model_validate(batch) for batch in json.loads(path.read_text(encoding="utf-8"))]


def is_there(path: Path, seed: int, commit: str) -> bool:
    """Whether this seed has had its batch at this commit."""
    return any((batch.seed, batch.commit) == (seed, commit) for batch in read_record(path))


def add_batch(path: Path, batch: Batch) -> None:
    """Write a batch into the record. Raises ValueError for one that is there."""
    if is_there(path, batch.seed, batch.commit):
        raise ValueError(f"seed {batch.seed} has its batch at {batch.commit} in {path}")
    batches = [*read_record(path), batch]
    lines = ",\n".join(json.dumps(batch.model_dump(exclude_defaults=True), ensure_ascii=False) for batch in batches)
    _write(path, f"[\n{lines}\n]\n")


def write_page(path: Path, about: Mapping[str, str]) -> None:
    """Write the page of a record, beside it; `about`: what each kind's kills are and what is checked, in words."""
    _write(path.with_name("KILLS.md"), render(read_record(path), about))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def render(batches: list[Batch], about: Mapping[str, str]) -> str:
    """The Markdown of tests/KILLS.md."""
    total, seconds = sum(batch.num_kills for batch in batches), sum(batch.seconds for batch in batches)
    num_undisturbed = sum(batch.undisturbed for batch in batches)
    return f"""# Kills

SIGKILL at random instants: {total:,} of them in {len(batches)} batches, {seconds / max(total, 1):.1f} seconds each with
all that was prepared and checked, on {platform.system()}, {_processor()} ({os.cpu_count()} cores). What was killed is
the real command (forked from a process that has made its imports), real Prefect servers and a real S3 server on
loopback.

An instant is what the command must have reached, seen by the files that it wrote and the lines that it printed, and a
random delay from there; both follow from the batch's seed. A command that ended before its instant came is no kill.
After each kill, whatever was killed: every published file is read (none torn, no doubled row, each with the hash that
the manifest gives it, the documented joins complete), and no process may be left. Each chain of kills ends with the
same command left alone ({num_undisturbed:,} of them), which must end well. Runs must then have the scores of one that
was never disturbed: the same keys, each score within 1e-6 x max(1, |score|) + 1e-5, every file sound by `labelscore
verify`.

`python -m tests.flows.kill_harness --until 1000` goes on with the next seeds until there are so many; it can be
interrupted at any time, and a batch that is not whole counts for nothing. `--kills 50 --seed 7` is one batch.

## What was killed

{_kinds(batches, about)}

## What was wrong

{_wrong(batches)}

## At which instant

{_instants(batches)}

## Batches

{_batches(batches)}
"""


def _counts(batches: list[Batch]) -> dict[str, Counter[str]]:
    """How many kills, by what was killed and instant."""
    counts: dict[str, Counter[str]] = {}
    for batch in batches:
        for kind, instants in batch.kills.items():
            counts.setdefault(kind, Counter()).update(instants)
    return counts


def _kinds(batches: list[Batch], about: Mapping[str, str]) -> str:
    counts = _counts(batches)
    rows = ["| killed | times | seconds each | how, and what must hold besides |", "| --- | ---: | ---: | --- |"]
    for kind in [*about, *(counts.keys() - about.keys())]:
        times = counts.get(kind, Counter()).total()
        seconds = sum(batch.seconds_of.get(kind, 0) for batch in batches) / max(times, 1)
        rows.append(f"| {kind} | {times} | {seconds:.1f} | {about.get(kind, '')} |")
    return "\n".join(rows)


def _wrong(batches: list[Batch]) -> str:
    found = [batch for batch in batches if batch.wrong or batch.remark]
    if not found:
        return "Nothing."
    lines = []
    for batch in found:
        lines.append(f"Seed {batch.seed} at {batch.commit}{': ' + batch.remark if batch.remark else ''}")
        lines += ["", *(f"- {' '.join(what.split())}" for what in batch.wrong), ""]
    return "\n".join(lines).rstrip()


def _instants(batches: list[Batch]) -> str:
    rows = ["| killed | when | times |", "| --- | --- | ---: |"]
    for kind, instants in _counts(batches).items():
        rows += [f"| {kind} | {where} | {times} |" for where, times in sorted(instants.items())]
    return "\n".join(rows)


def _batches(batches: list[Batch]) -> str:
    rows = ["| seed | commit | date | kills | ended first | minutes | wrong |", "| ---: | --- | --- | " + "---: | " * 4]
    rows[1] = rows[1].rstrip()
    for batch in batches:
        figures = f"{batch.num_kills} | {batch.ended_first} | {batch.seconds / 60:.1f} | {len(batch.wrong)}"
        rows.append(f"| {batch.seed} | {batch.commit} | {batch.date} | {figures} |")
    return "\n".join(rows)


def this_commit() -> str:
    """The commit that is at work here, with a + where files differ from it; the record and its page do not count."""
    root = Path(__file__).resolve().parents[2]
    said = [
        subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    ]
    changed = [line for line in said[1].splitlines() if not line.endswith(("tests/kills.json", "tests/KILLS.md"))]
    return (said[0].strip() or "unknown") + ("+" if changed else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
