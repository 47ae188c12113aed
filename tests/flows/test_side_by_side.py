"""Runs started at the same time on one output: they take turns, all succeed, and none does another's work again."""

import io
import json
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.storing.files import LOCK, WORK, Output
from pipeline.storing.layout import SCORES
from pipeline.storing.upkeep import verify
from tests.flows.kill_checks import KEYS
from tests.flows.runs import Nursery
from tests.pipeline.test_analysis import DOCUMENT, FOLDER, blocks_of, plain

NUM_ITEMS = 60


def command(out: Path) -> list[str]:
    """The sample in small shards."""
    return ["run", "--out", str(out), "--limit", str(NUM_ITEMS), "--shard-size", "8"]


@pytest.mark.parametrize("num_runs", [2, 4])
def test_all_succeed_and_each_text_is_scored_once(num_runs: int, tmp_path: Path, nursery: Nursery) -> None:
    """Whoever comes late says in one line for whom it waits; then it finds the scores there. No row is doubled."""
    out = tmp_path / "out"
    with Output(out).lock(print):  # so that none is done before the last one has started
        runs = [nursery.start(command(out), tmp_path / f"log-{number}") for number in range(num_runs)]
        while not all("is in use by" in run.said() for run in runs):
            assert all(run.alive() for run in runs), [run.said() for run in runs]
    assert [run.wait() for run in runs] == [0] * num_runs, [run.said() for run in runs]
    waited = [line for run in runs for line in run.said().splitlines() if "is in use by" in line]
    assert all("waiting for it to finish" in line for line in waited)
    history = pl.read_parquet(out / "history.parquet").filter(pl.col("headline"))
    assert sorted(history["num_scored"]) == [0] * (num_runs - 1) + [NUM_ITEMS + 3]  # with the content-free texts
    assert history["run_id"].n_unique() == num_runs
    scores = pl.read_parquet(out / SCORES)
    assert scores.height == 4 * NUM_ITEMS
    assert not scores.select(KEYS).is_duplicated().any()
    assert verify(Output(out)) == []


def test_readers_beside_a_run_see_the_last_finished_one(tmp_path: Path, nursery: Nursery) -> None:
    """While a second run replaces the tables, a reader finds the old score table or the new one, never half of one."""
    out = tmp_path / "out"
    assert nursery.start(command(out), tmp_path / "first").wait() == 0
    run = nursery.start([*command(out), "--limit", "90"], tmp_path / "second")
    heights = set()
    while run.alive():
        # Polars opens a path twice, for the footer and for the data, and may meet two files; opened once, it is whole.
        scores = pl.read_parquet(io.BytesIO((out / SCORES).read_bytes()))
        heights.add((scores.height, scores.select(KEYS).n_unique()))
    assert run.wait() == 0, run.said()
    assert heights <= {(4 * NUM_ITEMS, 4 * NUM_ITEMS), (4 * 90, 4 * 90)}
    assert (4 * NUM_ITEMS, 4 * NUM_ITEMS) in heights


def answers(out: Path) -> tuple[str, list[pl.DataFrame]]:
    """The run that `load_run` finds now, and what every block of data/README.md answers for it."""
    names: dict[str, Any] = {}
    found = []
    for _, code in blocks_of(DOCUMENT.read_text().replace(FOLDER, str(out))):
        exec(compile(code, DOCUMENT.name, "exec"), names)
        found.append(plain(names["answer"]))
    return names["run"].manifest.run_id, found


def test_every_documented_join_holds_through_two_runs(tmp_path: Path, nursery: Nursery) -> None:
    """Whenever they are asked, the questions have the answers of one run: no refusal, no lost row, no wrong pair."""
    out = tmp_path / "out"
    prompts = ["--prompt", "answer", "--prompt", "topic"]
    assert nursery.start([*command(out), *prompts], tmp_path / "first").wait() == 0
    expected, polled = dict([answers(out)]), []
    for limit in ("90", "40"):
        run = nursery.start([*command(out), *prompts, "--limit", limit], tmp_path / limit)
        while run.alive():
            polled.append(answers(out))
        assert run.wait() == 0, run.said()
        expected |= dict([answers(out)])
    assert len(expected) == 3
    assert len({run_id for run_id, _ in polled}) >= 2
    for run_id, found in polled:
        for answer, right in zip(found, expected[run_id], strict=True):
            assert_frame_equal(answer, right, check_row_order=False, rel_tol=1e-9)


def test_the_lock_of_a_killed_run_does_not_block(tmp_path: Path, nursery: Nursery) -> None:
    """The kernel frees it with the process; that its file still names a dead process means nothing."""
    out = tmp_path / "out"
    run = nursery.start(command(out), tmp_path / "first")
    while run.alive() and not (out / WORK / "items.parquet").exists():
        pass
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert json.loads((out / LOCK).read_text())["pid"] == run.pid
    again = nursery.start(command(out), tmp_path / "second")
    assert again.wait() == 0, again.said()
    assert "in use" not in again.said()


def test_a_run_that_waits_may_be_stopped(tmp_path: Path, nursery: Nursery) -> None:
    """Ctrl-C while waiting ends the waiting run alone, in one line."""
    out = tmp_path / "out"
    with Output(out).lock(print):
        run = nursery.start(command(out), tmp_path / "log")
        while run.alive() and "is in use by" not in run.said():
            pass
        run.send(signal.SIGINT)
        assert run.wait() == 1
    assert "stopped on request" in run.said().splitlines()[-1]
    assert "Traceback" not in run.said()
    assert not out.exists()
