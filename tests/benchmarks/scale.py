"""Ten million items: every command over an output of that size, its seconds by stage, and the peak of its memory.

Invariant: all is kept in a folder, so that what is interrupted goes on; a size's figures come from one output, and a
stage that has been measured is not measured again.

    python -m tests.benchmarks.scale --items 2500000 10000000 --s3 1000000 --folder DIRECTORY
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storing.files import Output
from pipeline.storing.layout import RUNS
from pipeline.storing.manifest import need_manifest
from pipeline.storing.runs import run_folders
from tests.benchmarks import inputs
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section
from tests.benchmarks.watch import Stage, watch
from tests.flows.kill_bucket import serve_bucket_apart
from tests.flows.kill_record import this_commit

TITLE = "Ten million items, CPU"
COMMAND = "python -m tests.benchmarks.scale"
GOAL_GB = 4
PROMPT, OTHER_PROMPT = "answer", "topic"
STAGES = ("pull", "plan", "score", "publish", "report")  # of a run
STEPS = ("run", "again", "report", "status", "verify", "compare", "other", "prune")
MIN_SECONDS = 5  # of processor time: what takes less is mostly imports
CHUNK = 100_000


# Inputs


def rows(num_items: int) -> Iterator[dict[str, Any]]:
    """AG News' test rows over and over, each time with another number behind the text, so that all are distinct."""
    texts = inputs.texts()
    for i in range(num_items):
        number, row = divmod(i, len(texts))
        yield {"text": f"{texts[row]} {number}" if number else texts[row], "label": i % 4}


def write_dataset(path: Path, num_items: int) -> Path:
    """The rows as a Parquet file, in groups of CHUNK."""
    if path.exists():
        return path
    found, aside = rows(num_items), path.with_suffix(".part")
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        while chunk := list(islice(found, CHUNK)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))
    return aside.replace(path)


# One size


class Case:
    """The output of one size and what was measured on it, which a file beside it keeps."""

    def __init__(self, folder: Path, num_items: int, model: Path, out: str) -> None:
        self.folder, self.num_items, self.model, self.out = folder, num_items, model, out
        folder.mkdir(parents=True, exist_ok=True)
        self.measured: dict[str, dict[str, Any]] = {}
        if self._record.exists():
            self.measured = json.loads(self._record.read_text(encoding="utf-8"))

    @property
    def _record(self) -> Path:
        return self.folder / "measured.json"

    def step(self, name: str, *arguments: str, stage_of: Callable[[], str] | None = None) -> None:
        """Run a command and measure it, unless that was done before; interrupted, it goes on where it was."""
        known = self.measured.setdefault(name, {"commit": this_commit(), "done": False, "stages": {}})
        if known["done"]:
            return
        if this_commit() not in known["commit"]:  # it goes on with another version than it began with
            known["commit"] += f" and {this_commit()}"
        # What was scored is stored; the other stages of an interrupted run begin anew.
        stages = {stage: Stage(**numbers) for stage, numbers in known["stages"].items() if stage == "score"}
        num_samples = 0

        def add(stage: str, sample: Stage) -> None:
            nonlocal num_samples
            stages.setdefault(stage, Stage()).add(sample)
            num_samples += 1
            if num_samples % 100 == 0:
                self._keep(known, stages)

        log = self.folder / f"{name}.log"
        watch([sys.executable, "-m", "flows.cli", *arguments], log, stage_of or (lambda: "all"), add)
        known["done"] = True
        self._keep(known, stages)
        seconds = ", ".join(f"{stage} {found.seconds:.0f} s" for stage, found in stages.items())
        print(f"{self.num_items:,} {name}: {seconds}", flush=True)

    def _keep(self, known: dict[str, Any], stages: dict[str, Stage]) -> None:
        known["stages"] = {stage: stages[stage].to_json() for stage in (*STAGES, "all") if stage in stages}
        aside = self._record.with_suffix(".part")
        aside.write_text(json.dumps(self.measured, indent=1), encoding="utf-8")
        aside.replace(self._record)


class RunStages:
    """Which stage a run is in, by its log and by what lies in its output's folder here (of a bucket: in the mirror)."""

    def __init__(self, case: Case, name: str) -> None:
        self._log = case.folder / f"{name}.log"
        self._start = self._log.stat().st_size if self._log.exists() else 0
        self._root = Output(case.out).root
        self._before = set(self._runs())
        self._stage = 0

    def __call__(self) -> str:
        """The stages follow one another, so that only the next one is looked for."""
        if self._stage < 2 and self._says(("pulled", "to score")[self._stage]):
            self._stage += 1
        elif self._stage == 2 and self._holds("scores"):
            self._stage = 3
        elif self._stage == 3 and self._holds("report"):
            self._stage = 4
        return STAGES[self._stage]

    def _runs(self) -> Iterator[Path]:
        return self._root.glob(f"{RUNS}/*")

    def _says(self, words: str) -> bool:
        if not self._log.exists():
            return False
        with self._log.open("rb") as file:
            file.seek(self._start)
            return words.encode() in file.read()

    def _holds(self, folder: str) -> bool:
        return any((run / folder).exists() for run in self._runs() if run not in self._before)


def measure(case: Case) -> None:
    """All commands over an output of this size, one after the other."""
    data = write_dataset(case.folder / "data.parquet", case.num_items)
    run = ["run", "--dataset", str(data), "--model", str(case.model), "--out", case.out]
    case.step("run", *run, "--prompt", PROMPT, stage_of=RunStages(case, "run"))
    out = Output(case.out, create=False)
    case.measured.setdefault("bytes", {"dataset": data.stat().st_size, **_sizes(out)})
    case.step("again", *run, "--prompt", PROMPT, stage_of=RunStages(case, "again"))
    case.step("report", "report", case.out, "--rule", "mean_token")
    case.step("status", "status", case.out)
    case.step("verify", "verify", case.out)
    first = next(iter(run_folders(out)))
    case.step("compare", "compare", f"{case.out}/{first}", case.out)
    # Another prompt takes the place of this one, whose millions of scores are stale then.
    case.step("other", *run, "--prompt", OTHER_PROMPT, "--limit", "1000")
    case.step("prune", "prune", case.out, "--yes")


def _sizes(out: Output) -> dict[str, int]:
    """Bytes of the store and of the last run's largest files."""
    folder, files = need_manifest(out).folder, out.list()
    found = {"store": sum(size for name, size in files.items() if name.startswith("store/"))}
    for name, size in files.items():
        if name.startswith(f"{folder}/") and size > 1_000_000:
            found[name.removeprefix(f"{folder}/")] = size
    return found


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """An S3 server in a process of its own, which dies with its objects, and the URL of a bucket there."""
    shutil.rmtree(folder, ignore_errors=True)
    with serve_bucket_apart("scale") as server:
        os.environ |= {**server.env, "XDG_CACHE_HOME": str(folder / "cache")}
        yield "s3://scale/out"


# The table


def stage_rows(cases: list[Case]) -> list[list[str]]:
    """For each stage its seconds, processor seconds and peak in GB in each case."""
    rows = []
    for step in STEPS:
        for stage in _stages_of(cases, step):
            cells = []
            for case in cases:
                found = case.measured.get(step, {}).get("stages", {}).get(stage)
                numbers = Stage(**found) if found else None
                cells += [
                    number(numbers.seconds) if numbers else "",
                    number(numbers.cpu_seconds) if numbers else "",
                    f"{numbers.peak_bytes / 1e9:.2f}" if numbers else "",
                ]
            rows.append([step if stage == "all" else f"{step}: {stage}", *cells])
    return rows


def _stages_of(cases: list[Case], step: str) -> list[str]:
    found = {stage for case in cases for stage in case.measured.get(step, {}).get("stages", {})}
    return [stage for stage in (*STAGES, "all") if stage in found]


def growth(cases: list[Case]) -> str:
    """How the seconds of each command grow from the first size to the last, over the ratio of the sizes."""
    first, last = cases[0], cases[-1]
    found = []
    for step in STEPS:
        for stage in _stages_of([first, last], step):
            few, many = (case.measured.get(step, {}).get("stages", {}).get(stage) for case in (first, last))
            if few and many and few["cpu_seconds"] > MIN_SECONDS:
                ratio = many["cpu_seconds"] / few["cpu_seconds"] / (last.num_items / first.num_items)
                found.append(f"{step}{'' if stage == 'all' else f' ({stage})'} {ratio:.2f}")
    return ", ".join(found)


def write_up(cases: list[Case]) -> str:
    """The section's body."""
    peak = max(stage["peak_bytes"] for case in cases for step in STEPS for stage in _measured(case, step)) / 1e9
    header = ["", *(f"{_name(case)}: {what}" for case in cases for what in ("s", "s of CPU", "peak, GB"))]
    sizes = "; ".join(
        f"{_name(case)}: " + ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in case.measured["bytes"].items())
        for case in cases
    )
    commits = sorted({case.measured[step]["commit"] for case in cases for step in STEPS if step in case.measured})
    words = (
        f"AG News' test rows over and over with a running number, 4 labels, prompt `{PROMPT}`, a Gemma of one layer "
        "and hidden size 16. `run` scores all of them; `again` is the same command with everything stored, whose "
        f"report counts what changed; `other` publishes 1,000 items under the prompt `{OTHER_PROMPT}`, and `prune` "
        "then removes the millions that no finished run uses. Peak: resident memory of the whole process tree, "
        f"Prefect's server included, goal under {GOAL_GB} GB everywhere: **{peak:.2f} GB**. "
        f"Measured at {', '.join(commits)}.\n\n"
    )
    words += f"Bytes. {sizes}.\n\n"
    locals_ = [case for case in cases if "://" not in case.out]
    if len(locals_) > 1:
        words += (
            f"Processor seconds an item at {_name(locals_[-1])} over those at {_name(locals_[0])}, where there are "
            f"more than {MIN_SECONDS}: {growth(locals_)}.\n\n"
        )
    return words + table(header, stage_rows(cases))


def _measured(case: Case, step: str) -> list[dict[str, float]]:
    return list(case.measured.get(step, {}).get("stages", {}).values())


def _name(case: Case) -> str:
    return f"{case.num_items / 1e6:g} million{' on S3' if '://' in case.out else ''}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[2_500_000, 10_000_000])
    parser.add_argument("--s3", type=int, default=1_000_000, help="items of an output on a loopback S3 server; 0: none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "labelscore-scale"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    model = options.folder / "trivial-gemma"
    if not model.exists():
        trivial = inputs.random_gemma(hidden=16, layers=1, heads=1, intermediate=16, vocabulary=4_096)
        inputs.save_model_folder(model, trivial)
    cases = [Case(options.folder / f"{n}", n, model, str(options.folder / f"{n}" / "out")) for n in options.items]
    for case in cases:
        measure(case)
    if options.s3:
        folder = options.folder / f"s3-{options.s3}"
        cases.append(Case(folder, options.s3, model, "s3://scale/out"))
        if not cases[-1].measured.get("prune", {}).get("done"):  # what was there has gone with its server
            with bucket(folder) as url:
                cases[-1] = Case(folder, options.s3, model, url)
                measure(cases[-1])
    write_section(TITLE, command_line(COMMAND, parser, options), write_up(cases), options.results)


if __name__ == "__main__":
    main()
