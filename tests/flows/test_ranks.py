"""A model in slices in several processes (--tensor-parallel): the same table as from one, whatever dies."""

import os
import re
import signal
from pathlib import Path

import polars as pl
import psutil
import pytest

from pipeline.storing.files import Output
from pipeline.storing.layout import SCORES
from pipeline.storing.upkeep import verify
from tests.conftest import FinishedRun
from tests.flows.runs import Nursery, Run, start_command, wait_for
from tests.flows.test_kills import last_lines

IN_SLICES = ["--device", "cpu", "--tensor-parallel", "2"]
SLOWLY = ["--shard-size", "2", "--batch-tokens", "64"]


def ranks_of(run: Run) -> list[psutil.Process]:
    """The run's ranks, by their numbers."""
    children = psutil.Process(run.pid).children()
    return [child for child in children if "pipeline.rank" in child.cmdline()]


def texts_kept(out: Path) -> int:
    """How many texts have their scores in the store."""
    return sum(pl.read_parquet(part)["text_hash"].n_unique() for part in out.glob("store/*/*.parquet"))


def assert_as_plain(out: Path, demo_run: FinishedRun) -> None:
    """The plain run's table, and scores within rounding."""
    plain, found = (pl.read_parquet(folder / SCORES) for folder in (demo_run.out, out))
    numbers = ["logprob", "logit"]
    assert found.drop(numbers).equals(plain.drop(numbers))
    apart = (found[numbers] - plain[numbers]).select(pl.all().abs().max()).row(0)
    assert max(apart) <= 2e-5


def test_ranks_that_die_or_stop_keep_what_they_scored_and_score_as_one_process(
    tmp_path: Path, nursery: Nursery, demo_run: FinishedRun
) -> None:
    """A rank is killed, then a run is asked to stop; a plain run goes on from there to the table of a plain run.

    The demonstration model has the shape of Gemma 2B: one key-value head for all others.
    """
    out = tmp_path / "out"
    endings = {
        signal.SIGKILL: r"a process with a slice of demo \(rank 1 of 2\) was killed by signal 9",
        signal.SIGTERM: "stopped on request.*run the same command to go on",
    }
    num_kept = 0
    for number, ending in endings.items():
        run = nursery.start(["run", "--out", str(out), *SLOWLY, *IN_SLICES], tmp_path / number.name)
        wait_for(run, "scored 20 of")
        ranks = ranks_of(run)
        assert len(ranks) == 2, run.said()
        os.kill(ranks[1].pid if number == signal.SIGKILL else run.pid, number)
        assert run.wait() == 1
        assert len(last_lines(run)) == 1, run.said()
        assert re.search(ending, last_lines(run)[0])
        assert not psutil.wait_procs(ranks, timeout=30)[1]
        assert run.leftovers() == []
        assert num_kept < texts_kept(out) < 251
        num_kept = texts_kept(out)
    again = nursery.start(["run", "--out", str(out), "--device", "cpu"], tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert f"{251 - num_kept} to score" in again.said()
    assert verify(Output(out)) == []
    assert_as_plain(out, demo_run)


@pytest.mark.ray
def test_workers_on_ray_can_be_groups_of_ranks(
    tmp_path: Path, server_env: dict[str, str], demo_run: FinishedRun
) -> None:
    """Two actors with two ranks each: the table of a plain run, and no process left."""
    command = ["run", "--out", str(tmp_path / "out"), "--workers", "2", "--shard-size", "60", *IN_SLICES]
    run = start_command(command, tmp_path / "log", server_env)
    wait_for(run, "scored ")
    family = psutil.Process(run.pid).children(recursive=True)
    assert len([each for each in family if "pipeline.rank" in each.cmdline()]) in (2, 4)  # one may still be loading
    assert run.wait() == 0, run.said()
    assert_as_plain(tmp_path / "out", demo_run)
    assert not psutil.wait_procs(family, timeout=30)[1]
