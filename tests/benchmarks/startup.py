"""Start-up: what a person waits for where there is little or nothing to score, and processor seconds.

Invariant: each command runs as a whole process, as typed. A first run finds no folder of Prefect's and no cache; a
rerun finds all its scores stored. With `--beside` another checkout takes turns with this one.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.results import RESULTS, command_line, table, write_section
from tests.conftest import ROOT

TITLE = "Start-up, CPU"
COMMAND = "python -m tests.benchmarks.startup"
# What runs, and the goal in seconds on two cores.
COMMANDS = {
    "run, the first": ("run --out first", 10.0),
    "run, nothing to score": ("run --out again", 5.0),
    "status": ("status again", 0.5),
    "prompts": ("prompts", 0.5),
    "--help": ("--help", 0.5),
}
PREPARE = "run --out again"

Seconds = tuple[float, float]  # wall, and processor time of the process and its children


def time_command(words: str, folder: Path, env: Mapping[str, str]) -> Seconds:
    """Run `labelscore` with these words. Raises SystemExit, with what it said, where it fails."""
    before = _processor_seconds()
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words.split()],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"labelscore {words}: {done.stderr}")
    return wall, _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(checkout: Path, folder: Path) -> dict[str, Seconds]:
    """One round: each of the commands once, the first run in an empty folder."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    (folder / "new").mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {**kept, "PYTHONPATH": str(checkout), "PREFECT_HOME": str(folder / "prefect"), "HF_HUB_OFFLINE": "1"}
    new = {"PREFECT_HOME": str(folder / "new/prefect"), "XDG_CACHE_HOME": str(folder / "new/cache")}
    found = {}
    for name, (words, _) in COMMANDS.items():
        is_first = words.endswith("first")
        found[name] = time_command(words, folder / "new" if is_first else folder, {**env, **new} if is_first else env)
    return found


def section(rounds: list[list[dict[str, Seconds]]]) -> str:
    """The table: of this checkout and, where there is one, of the other; medians over the rounds, and their range."""
    mine = [here for here, *_ in rounds]
    header = ["command", "seconds", "lowest to highest", "processor seconds", "goal"]
    if rounds[0][1:]:
        header += ["beside: seconds", "processor seconds", "ratio of seconds, median"]
    rows = []
    for name, (words, goal) in COMMANDS.items():
        walls = [each[name][0] for each in mine]
        shown = f"{statistics.median(walls):.2f}", f"{min(walls):.2f} to {max(walls):.2f}"
        row = [f"{name} (`labelscore {words}`)", *shown, f"{_median(mine, name, 1):.2f}", f"{goal:g}"]
        if rounds[0][1:]:
            other = [there for _, there in rounds]
            ratios = [here[name][0] / there[name][0] for here, there in rounds]
            row += [f"{_median(other, name, 0):.2f}", f"{_median(other, name, 1):.2f}"]
            row += [f"{statistics.median(ratios):.2f}"]
        rows.append(row)
    return (
        f"{len(rounds)} rounds, each command a whole process; the sample's 248 items with the bundled model. The first "
        "run finds no folder of Prefect's, whose database it makes, and no cache.\n\n" + table(header, rows)
    )


def _median(rounds: list[dict[str, Seconds]], name: str, which: int) -> float:
    return statistics.median(each[name][which] for each in rounds)


def main(argv: list[str] | None = None) -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", help="another checkout, to take turns with")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that gets the section")
    options = parser.parse_args(argv)
    checkouts = [ROOT, *([Path(options.beside).resolve()] if options.beside else [])]
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(number) for number in range(len(checkouts))]
        for checkout, folder in zip(checkouts, folders, strict=True):
            folder.mkdir()
            env = {**os.environ, "PYTHONPATH": str(checkout), "PREFECT_HOME": str(folder / "prefect")}
            env.pop("PREFECT_API_URL", None)
            time_command(PREPARE, folder, env)  # what the second command finds, and Python's compiled files
        rounds = [
            [measure(checkout, folder) for checkout, folder in zip(checkouts, folders, strict=True)]
            for _ in range(options.rounds)
        ]
    write_section(TITLE, command_line(COMMAND, parser, options), section(rounds), options.results)


if __name__ == "__main__":
    main()
