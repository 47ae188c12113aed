"""The failure webhook: what is posted, and that its address stays a secret."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from flows.hooks import hooks_of, post_failure, report_failure
from flows.run import score_dataset
from pipeline.errors import RunError
from tests.flows.receiver import Receiver, receiver

SECRET = "recognisable-webhook-secret"
RUN = FlowRun(id=uuid4(), flow_id=uuid4(), name="sample with demo", parameters={"config": {"out": "s3://bucket/night"}})


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as listening:
        monkeypatch.setenv("LABELSCORE_FAILURE_WEBHOOK", f"{listening.address}/{SECRET}")
        yield listening


def test_a_failed_run_says_what_where_and_why(hook: Receiver) -> None:
    """One post with the state, the output, the error's line, the run's name and the time."""
    state = Failed(message="Flow run encountered an exception: RunError: disk full\n  with a second line")
    report_failure(score_dataset, RUN, state)
    [(path, body)] = hook.posted
    assert path == f"/{SECRET}"
    assert body.pop("time").endswith("+00:00")
    assert body == {
        "what": "failed",
        "output": "s3://bucket/night",
        "error": "RunError: disk full",
        "run": "sample with demo",
    }


def test_a_crashed_run_is_told_from_a_failed_one(hook: Receiver) -> None:
    """What Prefect calls crashed: the process died. Parameters that are nonsense do not keep it from being told."""
    run = RUN.model_copy(update={"parameters": {"config": {"limit": -1}}})
    report_failure(score_dataset, run, Crashed(message="Process exited with status code: -9"))
    [(_, body)] = hook.posted
    assert (body["what"], body["output"], body["error"]) == ("crashed", "", "Process exited with status code: -9")


@pytest.mark.parametrize("address", ["", "no-address-at-all", "http://127.0.0.1:1", "http://[broken", "file:///tmp"])
def test_an_address_that_takes_nothing_is_one_warning_without_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """The run has failed already: the hook raises nothing, and its line does not quote the secret."""
    monkeypatch.setenv("LABELSCORE_FAILURE_WEBHOOK", address and f"{address}/{SECRET}")
    with caplog.at_level(logging.DEBUG):
        assert not post_failure("failed", "out", "x", "sample with demo")
    assert SECRET not in caplog.text
    assert len(caplog.records) == (1 if address else 0)


def test_prefect_is_not_told_of_success_where_nothing_was_sent(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address there is no hook to speak of; one that nobody took fails, in one line without the address."""
    assert hooks_of(report_failure) == [report_failure]
    hook.status = 500
    with pytest.raises(RunError) as told:
        report_failure(score_dataset, RUN, Failed(message="x"))
    assert str(told.value) == "nobody was told of this failure"
    assert told.value.__cause__ is None
    monkeypatch.delenv("LABELSCORE_FAILURE_WEBHOOK")
    assert hooks_of(report_failure) == []


def test_a_status_that_refuses_is_told(hook: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The number and nothing else."""
    hook.status = 403
    assert not post_failure("failed", "out", "x", "sample with demo")
    assert "answered with status 403" in caplog.text
    assert SECRET not in caplog.text


def test_the_command_posts_when_its_run_fails(hook: Receiver, tmp_path: Path) -> None:
    """`labelscore run` on a data set that is not there: exit code 2, one line, one post, and no secret anywhere."""
    env = {**os.environ, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    command = [sys.executable, "-m", "flows.cli", "run", "--dataset", "missing.parquet", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    [(_, body)] = hook.posted
    assert body["what"] == "failed"
    assert body["output"] == "out"
    assert "missing.parquet" in body["error"]
    assert SECRET not in done.stdout + done.stderr
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
