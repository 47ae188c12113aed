"""A choice with its output in an object store, on workers of Ray, and as Prefect shows it."""

import json
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.storing.choices import read_choice
from pipeline.storing.files import Output
from tests.flows.buckets import client, serve_bucket
from tests.flows.conftest import Command
from tests.flows.runs import start_command, wait_for
from tests.flows.test_choose import choice_of, command, same, write_rows

BUCKET = "labelscore-choices"


def test_a_bucket_gets_the_choice_that_a_folder_gets(
    labelscore: Command, tmp_path: Path, server_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on one machine, gone on with on another; a run from there scores what is left alone."""
    data, local = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "local"
    assert labelscore(*command(data, local)).code == 0
    with serve_bucket(BUCKET) as s3:
        out = f"s3://{BUCKET}/run"
        env = {**server_env, **s3, "XDG_CACHE_HOME": str(tmp_path / "a")}
        killed = start_command(command(data, out), tmp_path / "killed.log", env)
        wait_for(killed, " 100 items")
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, killed.said()
        for name, value in (s3 | {"XDG_CACHE_HOME": str(tmp_path / "b")}).items():
            monkeypatch.setenv(name, value)
        done = labelscore(*command(data, out))
        assert done.code == 0, done.err
        remote = read_choice(Output(out))
        assert remote is not None
        assert same(remote) == same(choice_of(local))
        assert 0 < remote["num_scored"] < choice_of(local)["num_scored"]
        keys = {found["Key"] for found in client(s3).list_objects_v2(Bucket=BUCKET, Prefix="run/choice/")["Contents"]}
        assert keys == {f"run/choice/{path.name}" for path in (local / "choice").iterdir()}
        assert "all files are sound" in labelscore("verify", out).out
        assert "recognisable-secret-key" not in done.out + done.err + json.dumps(remote)


@pytest.mark.ray
def test_two_workers_choose_what_one_does(tmp_path: Path, server_env: dict[str, str], labelscore: Command) -> None:
    """They keep their models from block to block; one that is killed loses nothing."""
    data, alone, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "alone", tmp_path / "out"
    assert labelscore(*command(data, alone)).code == 0
    run = start_command([*command(data, out), "--workers", "2", "--shard-size", "20"], tmp_path / "log", server_env)
    wait_for(run, " 100 items")
    children = psutil.Process(run.pid).children(recursive=True)
    next(child for child in children if child.name().startswith("ray::ScoringActor")).kill()
    assert run.wait() == 0, run.said()
    assert same(choice_of(out)) == same(choice_of(alone))
    assert "died" in run.said()
    assert run.leftovers() == []


def test_prefect_shows_how_far_a_choice_is_and_what_it_came_to(
    labelscore: Command, tmp_path: Path, server_env: dict[str, str]
) -> None:
    """A flow of its own, with a task for each step and each prompt of a block, progress, the verdict and the arms."""
    options = ["choose", "--prompt", "answer", "--prompt", "topic", "--within", "20", "--out", str(tmp_path / "out")]
    assert labelscore(*options).code == 0
    with httpx.Client(base_url=server_env["PREFECT_API_URL"]) as api:
        query = {"flows": {"name": {"any_": ["labelscore-choose"]}}, "sort": "START_TIME_DESC", "limit": 1}
        (run,) = api.post("/flow_runs/filter", json=query).json()
        assert run["state_type"] == "COMPLETED"
        assert run["name"] == "a choice for sample (test)"
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
        found = api.post("/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}).json()
        tasks = {task["name"] for task in api.post("/task_runs/filter", json=of_run).json()}
    artifacts = {artifact["key"].partition("-out-")[0].removeprefix("labelscore-"): artifact for artifact in found}
    assert artifacts.keys() == {"choose-progress", "choice", "arms", "choice-page"}
    assert artifacts["choose-progress"]["data"] == 100.0
    assert "of the best of 14 offered" in artifacts["choice"]["data"] or (
        "is the best of 14 offered" in artifacts["choice"]["data"]
    )
    assert len(json.loads(artifacts["arms"]["data"])) == 14
    assert any(name.startswith("score answer 1/1 of items 0 to 50") for name in tasks), tasks
    assert {"offer for sample", "look at items 0 to 50"} <= tasks
