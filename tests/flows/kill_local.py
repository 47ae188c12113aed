"""Commands killed at work on a local output: run, publication, report, prune, compare and verify.

Invariant: a chain of kills has an output of its own and ends with the same command undisturbed, which must leave what
it leaves where nothing was ever killed.
"""

import json
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil

from pipeline.storing.files import Output
from pipeline.storing.manifest import need_manifest, write_manifest
from pipeline.storing.upkeep import prune, verify
from tests.flows.kill_checks import check_kept, check_last_line, check_readable, compare
from tests.flows.kill_lab import ATTEMPTS, Instants, Lab, Seen, copy, draw, local_files, survivors, wait_until
from tests.flows.runs import Run, wait_for

FIRST_LIMIT, MORE_EACH_RUN = 20, 8  # items: each run of a chain wants more than the one before
MOST_ITEMS = 100
SAMPLE = ("--shard-size", "4", "--prompt", "answer")  # shards small enough for many writes


def run_command(out: object, limit: int, *options: str) -> list[str]:
    """The sample and its model."""
    return ["run", "--out", str(out), "--limit", str(limit), *SAMPLE, *options]


# Chains


@dataclass(frozen=True, slots=True)
class Chain:
    """Kills of one command on one output. `prepare` lays out what it works on, `command` is for its nth try.

    `held` says what is wrong after a kill and `ended` after the command was left alone at last. `env` and `files` are
    its environment besides the nursery's, and what of its work can be seen. `victim` kills something else than the
    command, which must then end by itself, and says whether it was there. `is_done_once`: once it has ended there is
    nothing left for it to do. `waits` are cut short in a command that is killed, see `Nursery.start`.
    """

    kind: str
    prepare: Callable[[Lab, Path], None]
    command: Callable[[Path, int], list[str]]
    instants: Instants
    held: Callable[[Lab, Path], list[str]]
    ended: Callable[[Lab, Path, int], list[str]]
    env: Callable[[Lab, Path, int], Mapping[str, str | None]] = lambda lab, folder, number: {}
    files: Callable[[Lab, Path], dict[str, object]] = lambda lab, folder: local_files(folder)
    victim: Callable[[Lab, Run], bool] | None = None
    is_done_once: bool = False
    waits: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, lab: Lab, draws: random.Random, folder: Path, num_kills: int) -> None:
        """Kill it `num_kills` times in a folder of the chain's own, and then let it end."""
        folder.mkdir()
        self.prepare(lab, folder)
        tries = killed = 0
        while killed < num_kills and tries < ATTEMPTS * num_kills:
            was_killed = self._kill(lab, draws, folder, tries)
            if self.is_done_once and not was_killed:
                shutil.rmtree(folder / "out")
                self.prepare(lab, folder)
            killed, tries = killed + was_killed, tries + 1
        env = self.env(lab, folder, tries)
        run = lab.nursery.start(self.command(folder, tries), folder / "last.log", env=env)
        code = run.wait()
        lab.outcome.undisturbed += 1
        wrong = [f"exit code {code}: {run.said()[-500:]}"] if code else self.ended(lab, folder, tries)
        lab.outcome.wrong += [f"{self.kind}, undisturbed at last ({folder.name}): {what}" for what in wrong]

    def _kill(self, lab: Lab, draws: random.Random, folder: Path, number: int) -> bool:
        where, reached, delay = draw(self.instants, draws)
        files = partial(self.files, lab, folder)
        before, log = files(), folder.with_name(f"{folder.name}-{number}.log")
        run = lab.nursery.start(self.command(folder, number), log, env=self.env(lab, folder, number), waits=self.waits)
        seen = Seen(run, files, before)
        wait_until(seen, reached, delay)
        killed, wrong = self._kill_other(lab, run) if self.victim else _kill_run(run)
        lab.count(self.kind, where, killed, f"+ {delay:.3f} s")
        lab.note(self.kind, where, run, [*wrong, *self.held(lab, folder), *survivors(run)])
        return killed

    def _kill_other(self, lab: Lab, run: Run) -> tuple[bool, list[str]]:
        assert self.victim
        try:
            killed = self.victim(lab, run)
        except psutil.Error:  # it ended meanwhile
            killed = False
        try:
            code = run.wait()
        except TimeoutError:
            return killed, ["it hangs"]
        wrong = [] if code in (0, 1) else [f"exit code {code}"]
        return killed, wrong + (check_last_line(run.said()) if code else [])


def _kill_run(run: Run) -> tuple[bool, list[str]]:
    """Whether SIGKILL ended it, and what is wrong with how it ended before that."""
    run.send(signal.SIGKILL)
    code = run.wait()
    killed = code == -signal.SIGKILL
    return killed, [] if killed or code == 0 else [f"exit code {code}: {run.said()[-500:]}"]


def after(words: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.says(words)


def writing(pattern: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.writes(pattern)


def stored(num_parts: int) -> Callable[[Seen], bool]:
    return lambda seen: seen.num_parts() >= num_parts


def gone(num_files: int) -> Callable[[Seen], bool]:
    return lambda seen: seen.num_gone() >= num_files


def readable(lab: Lab, folder: Path) -> list[str]:
    return check_readable(folder / "out")


# Runs, and their publication

SCORING: Instants = {
    "at the start": (lambda seen: True, 1.0),
    "while pulling": (writing("out/.labelscore-work/*"), 0.1),
    "while planning": (after("pulled"), 0.2),
    "at the very first write": (writing("out/store/*"), 0.02),
    "while a file is written aside": (Seen.writes_aside, 0.005),
    "while loading the model": (after("to score"), 0.5),
    "while scoring": (stored(1), 0.2),
    "late in scoring": (stored(2), 0.2),
}
SWITCHING: Instants = {
    "while the report is written": (writing("out/runs/*/report/*"), 0.05),
    "before the switch": (writing("out/runs/*/manifest.json"), 0.002),
    "after the switch": (writing("out/manifest.json"), 0.005),
}
PUBLISHING: Instants = {
    "while the tables are written": (writing("out/runs/*/scores/*"), 0.05),
    "after the tables were written": (writing("out/runs/*/items.parquet"), 0.05),
    "while reporting": (writing("out/runs/*/items.parquet"), 0.5),
    **SWITCHING,
    "while the links are made": (writing("out/current"), 0.003),
    "at the end": (writing("out/current"), 0.3),
}


def wanted(number: int) -> int:
    """How many items the nth run of a chain asks for."""
    return min(FIRST_LIMIT + MORE_EACH_RUN * number, MOST_ITEMS)


def undisturbed_run(lab: Lab) -> Path:
    """The output of a run that nothing disturbed, over more items than any chain asks for."""
    return lab.template("run", lambda lab, out: _make(lab, out, MOST_ITEMS))


def _make(lab: Lab, out: Path, limit: int, *options: str) -> None:
    lab.undisturbed(run_command(out, limit, *options), out.with_name(f"{out.name}.log"))


def _all_scored(lab: Lab, folder: Path) -> None:
    copy(undisturbed_run(lab), folder / "out")


def same_scores(lab: Lab, folder: Path, number: int) -> list[str]:
    return compare(folder / "out", undisturbed_run(lab), wanted(number))


RUN = Chain(
    "run",
    lambda lab, folder: None,
    lambda folder, number: run_command(folder / "out", wanted(number)),
    {**SCORING, **PUBLISHING},
    readable,
    same_scores,
)
PUBLICATION = replace(RUN, kind="publication", prepare=_all_scored, instants=PUBLISHING)


# Reports

REPORT = Chain(
    "report",
    _all_scored,
    lambda folder, number: ["report", str(folder / "out"), "--rule", ("sum", "pmi", "batch")[number % 3]],
    {
        "at the start": (lambda seen: True, 0.3),
        "while the tables are linked": (writing("out/runs/*/scores/*"), 0.01),
        "while reporting": (writing("out/runs/*/history.parquet"), 0.5),
        **SWITCHING,
        "at the end": (writing("out/current"), 0.2),
    },
    readable,
    lambda lab, folder, number: compare(folder / "out", undisturbed_run(lab), MOST_ITEMS),
)


# Pruning


def much_to_prune(lab: Lab) -> Path:
    """An output with stale scores, runs replaced long ago, something set aside, a finished run, and a cut-off one.

    Beside it stand the names of files that must stay, and of those that an undisturbed prune takes.
    """
    return lab.template("prune", _make_much_to_prune)


def _make_much_to_prune(lab: Lab, out: Path) -> None:
    _make(lab, out, 40, "--shard-size", "1", "--max-text-tokens", "40")
    stale = set(local_files(out / "store"))
    part = next(path for path in out.glob("store/*/*.parquet"))
    (out / "store" / "set-aside").mkdir()
    shutil.copy(part, out / "store" / "set-aside" / part.name)
    _make(lab, out, 12)
    cut_off = lab.nursery.start(run_command(out, 60, "--max-text-tokens", "60"), out.with_name("cut-off.log"))
    wait_for(cut_off, "scored 8 of")
    cut_off.send(signal.SIGKILL)
    if cut_off.wait() != -signal.SIGKILL:
        raise RuntimeError("the run that was to be cut off has ended")
    output = Output(out)
    manifest = need_manifest(output)
    long_ago = datetime.now(UTC) - timedelta(days=2)
    write_manifest(output, manifest.model_copy(update={"replaced": dict.fromkeys(manifest.replaced, long_ago)}))
    with output.lock(print):  # which removes what the kill left unfinished
        pruned = [file.name for file in prune(output, dry_run=True)]
    kept = {f"store/{name}" for name in local_files(out / "store") if name not in stale and "set-aside" not in name}
    kept |= {name for name in local_files(out) if name.startswith(manifest.folder)}
    if len(pruned) < len(stale) or kept.intersection(pruned):
        raise RuntimeError(f"prune would remove {len(pruned)} files, and {sorted(kept.intersection(pruned))}")
    out.with_name("prune.json").write_text(json.dumps({"kept": sorted(kept), "pruned": sorted(pruned)}))


def _prepare_prune(lab: Lab, folder: Path) -> None:
    copy(much_to_prune(lab), folder / "out")
    (folder / "before.json").write_text(json.dumps(local_files(folder / "out")))


def _kept(lab: Lab, folder: Path) -> list[str]:
    plan = json.loads(much_to_prune(lab).with_name("prune.json").read_text())
    before = json.loads((folder / "before.json").read_text())
    files = json.loads(json.dumps(local_files(folder / "out")))
    return [*readable(lab, folder), *check_kept(files, {name: before[name] for name in plan["kept"]})]


def _pruned(lab: Lab, folder: Path, number: int) -> list[str]:
    plan = json.loads(much_to_prune(lab).with_name("prune.json").read_text())
    there = local_files(folder / "out").keys() & set(plan["pruned"])
    findings = [str(finding) for finding in verify(Output(folder / "out", create=False))]
    return [*_kept(lab, folder), *findings, *(f"{name} was not pruned" for name in sorted(there))]


PRUNE = Chain(
    "prune",
    _prepare_prune,
    lambda folder, number: ["prune", "--yes", str(folder / "out")],
    {
        "at the start": (lambda seen: True, 0.1),
        "when the first file is gone": (gone(1), 0.002),
        "when 10 files are gone": (gone(10), 0.005),
        "when 30 files are gone": (gone(30), 0.005),
        "late": (gone(45), 0.005),
    },
    _kept,
    _pruned,
    is_done_once=True,
)


# Commands that change no output


def _two_runs(lab: Lab, folder: Path) -> None:
    copy(undisturbed_run(lab), folder / "out")
    copy(undisturbed_run(lab), folder / "other")
    (folder / "page").mkdir()
    (folder / "before.json").write_text(json.dumps(_outputs(folder)))


def _outputs(folder: Path) -> dict[str, object]:
    files = {name: what for name, what in local_files(folder).items() if name.startswith(("out/", "other/"))}
    return {name: what for name, what in files.items() if not name.endswith(".labelscore.lock")}


def _unchanged(lab: Lab, folder: Path) -> list[str]:
    before = json.loads((folder / "before.json").read_text())
    files = json.loads(json.dumps(_outputs(folder)))
    return [*check_kept(files, before), *(f"{name} is new" for name in files.keys() - before.keys())]


def _compare_command(folder: Path, number: int) -> list[str]:
    return ["compare", str(folder / "out"), str(folder / "other"), "--html", str(folder / "page" / "page.html")]


def _whole_page(lab: Lab, folder: Path) -> list[str]:
    """The page is not there, or is all of it."""
    page = folder / "page" / "page.html"
    whole = not page.exists() or page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    wrong = [] if whole else [f"the page is cut short, at {page.stat().st_size} bytes"]
    if page.exists():
        page.unlink()  # so that the next kill sees it made
    return [*wrong, *_unchanged(lab, folder)]


COMPARE = Chain(
    "compare",
    _two_runs,
    _compare_command,
    {
        "at the start": (lambda seen: True, 0.3),
        "while the page is written": (writing("*"), 0.002),
        "after the page was written": (writing("page.html"), 0.02),
    },
    _whole_page,
    lambda lab, folder, number: (
        _whole_page(lab, folder) if (folder / "page" / "page.html").exists() else ["there is no page"]
    ),
    files=lambda lab, folder: local_files(folder / "page"),
)
VERIFY = Chain(
    "verify",
    _two_runs,
    lambda folder, number: ["verify", str(folder / "out")],
    {"at the start": (lambda seen: True, 0.05), "while it reads": (lambda seen: True, 0.3)},
    _unchanged,
    lambda lab, folder, number: [*_unchanged(lab, folder), *readable(lab, folder)],
)
