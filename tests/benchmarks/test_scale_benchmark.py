"""The benchmark of ten million items, over a few: its stages are told apart, and an interrupted one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.benchmarks import scale
from tests.benchmarks.command import ROOT
from tests.benchmarks.scale import COMMAND, STAGES, STEPS, TITLE, write_dataset


def test_the_rows_are_the_test_split_over_and_over_and_no_text_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "CHUNK", 3000)
    rows = pl.read_parquet(write_dataset(tmp_path / "data.parquet", 20_000))
    assert rows["text"].n_unique() == rows.height == 20_000
    assert rows["label"].value_counts()["count"].to_list() == [5000] * 4


@pytest.mark.bench
def test_a_benchmark_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Stopped while it scores, it keeps what that took, and ends with every stage of every command."""
    folder, results = tmp_path / "scale", tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--items", "2000", "30000", "--s3", "2000"]
    command += ["--folder", str(folder), "--results", str(results)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    log = folder / "30000" / "run.log"
    while not (log.exists() and "scored" in log.read_text()):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=ROOT, check=True)
    for size in ("2000", "30000", "s3-2000"):
        measured = json.loads((folder / size / "measured.json").read_text())
        assert [step for step in STEPS if measured.get(step, {}).get("done")] == list(STEPS)
        assert tuple(measured["run"]["stages"]) == STAGES
        assert all(stage["peak_bytes"] > 10_000_000 for stage in measured["verify"]["stages"].values())
    text = results.read_text()
    assert f"## {TITLE}" in text
    assert f"`{COMMAND} --items 2000 30000 --s3 2000`" in text
