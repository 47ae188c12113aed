"""Two workers on Ray on this machine: the same table as one, and actors that are killed while they score."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest

from tests.flows.ray_runs import NUM_ROWS, SLOWLY, Run

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def one_worker(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The score table of the plain run in one process."""
    run = Run(rows, tmp_path_factory.mktemp("one") / "out")
    assert run.finish() == 0, run.lines()
    return pl.read_parquet(run.out / "scores" / "scores.parquet")


def assert_same(out: Path, expected: pl.DataFrame) -> None:
    """The same rows, and scores within the rounding that another composition of batches makes."""
    found = pl.read_parquet(out / "scores" / "scores.parquet")
    assert found.drop("logprob", "logit").equals(expected.drop("logprob", "logit"))
    for name in ("logprob", "logit"):
        difference = (found[name] - expected[name]).abs()
        assert (difference <= 1e-6 * expected[name].abs().clip(lower_bound=1) + 1e-5).all()


OFTEN = """
import sys
import flows.pulse, pipeline.job
for name in [name for name in vars(flows.pulse) if name.startswith("LOOKS_")]:
    setattr(flows.pulse, name, 50 * getattr(flows.pulse, name))
flows.pulse.SECONDS_BETWEEN_LOOKS = 0.02
pipeline.job.SECONDS_BETWEEN_LINES = 0.1
from flows.cli import main
sys.exit(main())
"""


def test_two_workers_make_the_table_of_one(start: Callable[..., Run], one_worker: pl.DataFrame) -> None:
    """The same table; each actor loads its model once for all its shards; nothing of Ray is left or printed.

    Of a shard that takes a while is told how far it is: there are more lines than shards, and the last has all texts.
    """
    run = start("two", "--workers", "2", "--shard-size", "9000", "--batch-tokens", "200", main=OFTEN)
    run.wait_for("two actors", lambda: len(run.actors()) == 2)
    family = run.family()
    assert run.finish() == 0, run.lines()
    assert_same(run.out, one_worker)
    assert run.parts() > 2
    told = re.findall(r"scored ([\d,]+) of 5,003 \([\d,.]+ items/s, [\d,]+ s left\)", run.lines())
    counts = [int(num.replace(",", "")) for num in told]
    assert counts == sorted(counts), run.lines()
    assert len(set(counts)) > run.parts(), run.lines()
    assert counts[-1] == NUM_ROWS + 3
    assert run.lines().count("has loaded the model") == 2, run.lines()
    assert "ray" not in run.lines().lower().replace(str(run.out).lower(), ""), run.lines()
    assert not psutil.wait_procs(family, timeout=30)[1]


def test_actors_killed_mid_shard_lose_nothing(start: Callable[..., Run], one_worker: pl.DataFrame) -> None:
    """Their shards are scored again, other actors take their places, and the table is the same."""
    run = start("killed", "--workers", "2", *SLOWLY)
    run.wait_for("scores", lambda: run.parts() > 1 and run.lines().count("has loaded the model") == 2)
    for actor in run.actors():
        actor.kill()
    assert run.finish() == 0, run.lines()
    assert run.lines().count("; starting another") == 2, run.lines()
    assert run.lines().count("has loaded the model") in (3, 4), run.lines()  # 4 if the second one was still needed
    assert "raylet" not in run.lines()
    assert_same(run.out, one_worker)


def test_actors_that_keep_dying_end_the_run_in_one_line(start: Callable[..., Run], one_worker: pl.DataFrame) -> None:
    """No place in the pool is filled for ever: the run ends with what to do, and the next goes on from its parts."""
    run = start("dying", "--workers", "2", *SLOWLY)
    run.wait_for("scores", lambda: run.parts() > 1)
    while run.process.poll() is None:
        for actor in run.actors():
            actor.kill()
        time.sleep(0.2)
    assert run.finish() == 1
    error = [line for line in run.lines().splitlines() if line.startswith("labelscore: error:")]
    assert len(error) == 1, run.lines()
    assert "died" in error[0]
    assert "what is finished is kept" in error[0]
    assert "Traceback" not in run.lines()
    assert run.parts() > 1

    again = start("dying")
    assert again.finish() == 0, again.lines()
    assert ", 0 stored already" not in again.lines()
    assert "stored already" in again.lines()
    assert_same(again.out, one_worker)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_run_takes_its_actors_along(start: Callable[..., Run], number: signal.Signals) -> None:
    """On request the batches in hand are stored and the run says so in a line; SIGKILL leaves no actor either."""
    run = start("stopped", "--workers", "2", *SLOWLY)
    run.wait_for("scores", lambda: run.parts() > 0)
    # After SIGKILL Ray's own helpers follow by themselves, in a minute or two.
    family = run.actors() if number == signal.SIGKILL else run.family()
    run.process.send_signal(number)
    code = run.finish()
    assert code == (-number if number == signal.SIGKILL else 1)
    if number != signal.SIGKILL:
        assert run.lines().splitlines()[-1].startswith("labelscore: error: stopped on request"), run.lines()
        assert "Traceback" not in run.lines()
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_without_ray_the_error_says_what_to_install(tmp_path: Path) -> None:
    """One line and exit code 2. A package of that name that cannot be imported stands for one that is missing."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "ray.py").write_text("raise ImportError('no ray here')\n")
    env = {**os.environ, "PYTHONPATH": str(blocked)}
    command = [sys.executable, "-m", "flows.cli", "run", "--workers", "2", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'labelscore[ray]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
