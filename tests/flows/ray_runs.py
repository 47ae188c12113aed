"""Runs on Ray in processes of their own, over more items than the sample has."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil

from pipeline.bundled import sample_path
from tests.conftest import ROOT

NUM_ROWS = 5_000
SLOWLY = ("--shard-size", "250", "--batch-tokens", "500")  # so that there is time to kill
MAIN = "import sys; from flows.cli import main; sys.exit(main())"


def write_rows(path: Path) -> Path:
    """NUM_ROWS items: those of the sample several times, with a number after each."""
    sample = pl.read_ndjson(sample_path("test"))
    num_parts = -(-NUM_ROWS // len(sample))
    parts = [sample.with_columns(pl.col("text") + f" {part}") for part in range(num_parts)]
    pl.concat(parts).head(NUM_ROWS).write_parquet(path)
    return path


def actors_of(parent: psutil.Process) -> list[psutil.Process]:
    """The processes of actors below a process."""
    found = []
    for child in parent.children(recursive=True):
        try:
            if "".join(child.cmdline()[:1]).startswith("ray::ScoringActor"):  # asked once: it may just end
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


class Run:
    """`labelscore run` over `rows` in a process of its own, with one thread for each worker."""

    def __init__(self, rows: Path, out: Path, *options: str, main: str = MAIN, **more: str) -> None:
        self.out = out
        self.log = out.with_suffix(".log")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
        command = [sys.executable, "-c", main, "run", "--dataset", str(rows), "--out", str(out), *options]
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *env.get("PYTHONPATH", "").split(os.pathsep)])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=out.parent, env=env, stdout=log, stderr=log)

    def actors(self) -> list[psutil.Process]:
        """The processes of the run's actors."""
        return actors_of(psutil.Process(self.process.pid))

    def family(self) -> list[psutil.Process]:
        """All processes that it has started so far."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def parts(self) -> int:
        return len(list(self.out.glob("store/*/*.parquet")))

    def lines(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, what: str, find: Callable[[], object], seconds: float = 240) -> None:
        """The limit is for a machine under load and no claim."""
        deadline = time.monotonic() + seconds
        while not find():
            assert self.process.poll() is None, f"ended before {what}:\n{self.lines()}"
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{self.lines()}"
            time.sleep(0.02)

    def finish(self) -> int:
        return self.process.wait(timeout=480)

    def kill(self) -> None:
        """End what of it still runs."""
        if self.process.poll() is None:
            for process in self.family():
                process.kill()
            self.process.kill()
            self.process.wait()
