"""The whole command with its output in an object store: a real S3 protocol server on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pipeline.storing.layout import COPIED
from tests.conftest import FinishedRun
from tests.flows.buckets import client, serve_bucket

BUCKET = "labelscore-tests"


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """An empty bucket; yields the environment that leads to it."""
    with serve_bucket(BUCKET) as env:
        yield env


def start(s3: dict[str, str], cache: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a run on a machine of its own, as far as its mirror of the bucket goes."""
    env = {**os.environ, **s3, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "flows.cli", "run", "--out", f"s3://{BUCKET}/run", *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert "recognisable-secret-key" not in stdout + stderr
    return stderr


def stored(s3: dict[str, str]) -> dict[str, int]:
    listed = client(s3).list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {found["Key"]: found["Size"] for found in listed}


def fetch(s3: dict[str, str], name: str, folder: Path) -> Path:
    target = folder / Path(name).name
    client(s3).download_file(BUCKET, f"run/{name}", str(target))
    return target


def test_a_bucket_gets_the_tables_that_a_folder_gets(s3: dict[str, str], demo_run: FinishedRun, tmp_path: Path) -> None:
    """A killed run, two writers at once from two machines, and a rerun: the bucket ends with the folder's table."""
    killed = start(s3, tmp_path / "a", "--shard-size", "20")
    while not any("/store/" in name for name in stored(s3)):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    both = [start(s3, tmp_path / machine, "--shard-size", "50") for machine in ("b", "c")]
    for process in both:
        finish(process)
    assert "nothing to score" in finish(start(s3, tmp_path / "d"))

    columns = ["item_id", "prompt", "label_id", "text_hash", "label_words", "gold_id", "num_tokens", "logprob", "logit"]
    folder = json.loads(fetch(s3, "manifest.json", tmp_path).read_text())["folder"]
    ours = pl.read_parquet(fetch(s3, f"{folder}/scores/scores.parquet", tmp_path)).select(columns)
    local = pl.read_parquet(demo_run.out / "scores" / "scores.parquet").select(columns)
    assert ours.drop("logprob", "logit").equals(local.drop("logprob", "logit"))
    for name in ("logprob", "logit"):
        difference = (ours[name] - local[name]).abs()
        assert (difference <= 1e-6 * local[name].abs().clip(lower_bound=1) + 1e-5).all()
    names = stored(s3)
    published = {name for name in names if not name.startswith(("run/runs/", "run/store/"))}
    assert published == {f"run/{name}" for name in ("manifest.json", *COPIED)}
    for name in COPIED:  # those of the last run
        page = fetch(s3, name, tmp_path).read_bytes()
        assert page == fetch(s3, f"{folder}/{name}", tmp_path).read_bytes()
    assert not [name for name in names if ".tmp-" in name or ".labelscore" in name]

    # Nobody knows whether a run in a bucket is still at work: verify says how long its folder stays.
    now, long_ago = datetime.now(UTC), datetime.now(UTC) - timedelta(days=2)
    for when in (now, long_ago):
        key = f"run/runs/{when:%Y%m%dT%H%M%S}-00000000/items.parquet"
        client(s3).put_object(Bucket=BUCKET, Key=key, Body=b"cut short")
    command = [sys.executable, "-m", "flows.cli", "verify", f"s3://{BUCKET}/run"]
    env = {**os.environ, **s3, "XDG_CACHE_HOME": str(tmp_path / "e")}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    for when, fix in ((now, "a run removes it when it is a day old"), (long_ago, "the next run removes it")):
        assert f"{when:%Y%m%dT%H%M%S}-00000000: its run is at work, or was cut short; {fix}" in told
