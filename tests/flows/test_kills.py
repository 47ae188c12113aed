"""Kills: a run that is killed anywhere loses nothing and doubles nothing; one that is asked to stop ends in order."""

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import psutil
import pytest

from flows.stopping import lose_no_ctrl_c
from pipeline.storing.files import Output
from pipeline.storing.layout import SCORES
from pipeline.storing.upkeep import verify
from tests.flows import kill_servers
from tests.flows.kill_harness import KINDS, campaign
from tests.flows.kill_lab import Lab
from tests.flows.runs import Nursery, Run, start_command, wait_for


def test_whatever_was_killed_an_undisturbed_run_ends_as_if_nothing_had_been(
    tmp_path: Path, server_env: dict[str, str], nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 kills at random instants, some of every kind: no row lost, doubled or changed, no published file torn, no
    process left.

    `python -m tests.flows.kill_harness --until 1000` does more, and kills `serve` together with its run, too: until the
    server misses its heartbeats takes minutes.
    """
    few = {name: share for name, share in kill_servers.WITHOUT_OR_WITH.items() if name != "together with its run"}
    monkeypatch.setattr(kill_servers, "WITHOUT_OR_WITH", few)
    with ExitStack() as running:
        lab = Lab(tmp_path, server_env, nursery, running)
        outcome = campaign(lab, 20, int(os.environ.get("LABELSCORE_SEED", "4")))
    assert outcome.wrong == []
    assert outcome.num_kills == 20
    assert all(outcome.of(kind) for kind in KINDS), outcome.killed


def last_lines(run: Run) -> list[str]:
    """What the run printed that is no progress line."""
    return [line for line in run.said().splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_keeps_what_it_scored_and_says_so(
    number: signal.Signals, tmp_path: Path, server_env: dict[str, str]
) -> None:
    """SIGTERM and Ctrl-C while scoring: one line, exit code 1, and the next run scores what is left and no more."""
    command = ["run", "--out", str(tmp_path / "out"), "--shard-size", "2", "--batch-tokens", "64"]
    run = start_command(command, tmp_path / "log", server_env | {"OMP_NUM_THREADS": "2"})  # two lanes
    wait_for(run, "scored 20 of")
    asked = time.monotonic()
    run.send(number)
    code = run.wait()
    print(f"ended {time.monotonic() - asked:.2f} s after {number.name}")
    assert code == 1
    assert len(last_lines(run)) == 1, run.said()
    assert re.search(r"stopped on request.*run the same command to go on", last_lines(run)[0])
    assert run.leftovers() == []
    num_scored = int(re.findall(r"scored (\d+) of", run.said())[-1])
    parts = list(tmp_path.glob("out/store/*/*.parquet"))
    kept = sum(pl.read_parquet(part)["text_hash"].n_unique() for part in parts)
    assert num_scored <= kept < 251
    again = start_command(command, tmp_path / "again", server_env)
    assert again.wait() == 0, again.said()
    assert f"{251 - kept} to score" in again.said()
    assert verify(Output(tmp_path / "out")) == []
    assert pl.read_parquet(tmp_path / "out" / SCORES).height == 4 * 248


def test_ctrl_c_in_a_finalizer_is_not_lost(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would print it and go on; it comes again in the code that was running."""

    class Interrupted:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # is put back afterwards
    lose_no_ctrl_c()

    def work() -> None:
        thing = Interrupted()
        del thing
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["", "to score", "scored 23 of 23"])
def test_ctrl_c_outside_scoring_ends_in_one_line_too(words: str, tmp_path: Path, nursery: Nursery) -> None:
    """While starting, loading, publishing or reporting: no traceback, nothing torn, the next run is right."""
    command = ["run", "--out", str(tmp_path / "out"), "--limit", "20"]
    run = nursery.start(command, tmp_path / "log")
    wait_for(run, words)
    time.sleep(0.2)
    run.send(signal.SIGINT)
    code = run.wait()
    assert "Traceback" not in run.said()
    if code:
        assert code == 1
        assert len(last_lines(run)) == 1, run.said()
        assert "stopped on request" in last_lines(run)[0]
    again = nursery.start(command, tmp_path / "again")
    assert again.wait() == 0, again.said()
    assert verify(Output(tmp_path / "out")) == []


def test_a_killed_run_with_an_embedded_server_leaves_no_process(tmp_path: Path, server_env: dict[str, str]) -> None:
    """Prefect's server is a process of its own; it notices that its run is gone."""
    env = {name: value for name, value in server_env.items() if name != "PREFECT_API_URL"}
    run = start_command(["run", "--out", str(tmp_path / "out")], tmp_path / "log", env)
    wait_for(run, "pulled")
    children = psutil.Process(run.pid).children(recursive=True)
    assert any("flows.embedded" in child.cmdline() for child in children)
    run.send(signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert run.leftovers() == []
