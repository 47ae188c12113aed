"""A model in slices in several processes (--tensor-parallel): the same table as from one, and a rank that dies."""

import os
import re
import signal
from pathlib import Path

import polars as pl
import psutil

from pipeline.storing.files import Output
from pipeline.storing.layout import SCORES
from pipeline.storing.upkeep import verify
from tests.conftest import FinishedRun
from tests.flows.runs import Nursery, Run, wait_for
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


def assert_nothing_left(run: Run, ranks: list[psutil.Process]) -> None:
    """No rank outlives its run by more than a moment."""
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    assert run.leftovers() == []


def test_ranks_that_die_or_stop_lose_nothing_and_score_as_one_process(
    tmp_path: Path, nursery: Nursery, demo_run: FinishedRun
) -> None:
    """A rank is killed, the run is asked to stop, it is killed itself; the next one makes the table of a plain run.

    The demonstration model has the shape of Gemma 2B: one key-value head for all others. What is stored in slices is
    what a plain run would store, so that this finds nothing to score.
    """
    out = tmp_path / "out"
    command = ["run", "--out", str(out), *SLOWLY, *IN_SLICES]
    num_kept = 0
    for number, victim in ((signal.SIGKILL, "rank"), (signal.SIGTERM, "run"), (signal.SIGKILL, "run")):
        run = nursery.start(command, tmp_path / f"log of {number} to a {victim}")
        wait_for(run, "scored ")
        ranks = ranks_of(run)
        assert len(ranks) == 2, run.said()
        os.kill(ranks[1].pid if victim == "rank" else run.pid, number)
        code = run.wait()
        assert_nothing_left(run, ranks)
        if victim == "rank":
            assert code == 1
            assert "a process with a slice of demo (rank 1 of 2) was killed by signal 9" in last_lines(run)[0]
        elif number == signal.SIGTERM:
            assert code == 1
            assert re.search(r"stopped on request.*run the same command to go on", last_lines(run)[0])
        assert len(last_lines(run)) <= 1, run.said()
        assert num_kept < texts_kept(out) < 251
        num_kept = texts_kept(out)
    again = nursery.start(["run", "--out", str(out), *IN_SLICES], tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert f"{251 - num_kept} to score" in again.said()
    assert verify(Output(out)) == []
    plain, sliced = (pl.read_parquet(folder / SCORES) for folder in (demo_run.out, out))
    numbers = ["logprob", "logit"]
    assert sliced.drop(numbers).equals(plain.drop(numbers))
    assert (sliced[numbers] - plain[numbers]).select(pl.all().abs().max()).row(0) <= (2e-5, 2e-5)
    last = nursery.start(["run", "--out", str(out), "--device", "cpu"], tmp_path / "plain")
    assert last.wait() == 0
    assert "nothing to score" in last.said()
