"""Thousands of items that bring their own choices: killed runs, two workers, a bucket, comparisons, the history.

Invariant: whatever happened on the way, the table is that of a run that nobody disturbed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.bundled import sample_path
from tests.flows.buckets import client, serve_bucket
from tests.flows.conftest import Command

NUM_ITEMS = 1_000
BUCKET = "labelscore-choices"
CONFIG = """label_column = "right"
prompt = ["next", "topic"]
[prompts.next]
template = "News: {start}"
choices = "ends"
[prompts.topic]
template = "{start} ..."
choices = "ends"
choice = " and {choice}"
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beginnings of the sample's texts with two to five ends of its texts to choose from."""
    folder = tmp_path_factory.mktemp("choices")
    texts = [json.loads(line)["text"].split() for line in sample_path("test").read_text().splitlines()]
    with (folder / "d.jsonl").open("w") as file:
        for n in range(NUM_ITEMS):
            words = texts[n % len(texts)]
            ends = [" ".join(texts[(n * 7 + k) % len(texts)][-4:]) for k in range(1, 2 + n % 4)]
            place = n % (len(ends) + 1)
            ends.insert(place, " ".join(words[-4:]))
            file.write(json.dumps({"start": f"{n} {' '.join(words[:-4])}", "ends": ends, "right": place}) + "\n")
    (folder / "c.toml").write_text(CONFIG)
    return folder


def command(here: Path, out: Path | str, *options: str) -> list[str]:
    config = [str(here / "c.toml"), "--dataset", str(here / "d.jsonl"), "--out", str(out)]
    return [sys.executable, "-m", "flows.cli", "run", *config, *options]


def start(here: Path, out: Path | str, *options: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(here, out, *options),
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def undisturbed(here: Path) -> pl.DataFrame:
    finish(start(here, here / "out"))
    return pl.read_parquet(here / "out/scores/scores.parquet")


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """The same rows, and scores within the rounding that another composition of batches makes."""
    assert found.drop("logprob", "logit").equals(expected.drop("logprob", "logit"))
    for name in ("logprob", "logit"):
        assert ((found[name] - expected[name]).abs() <= 1e-6 * expected[name].abs() + 2e-5).all()


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(
    here: Path, undisturbed: pl.DataFrame, tmp_path: Path
) -> None:
    """SIGKILL once parts are there; what they hold is not scored again."""
    out = tmp_path / "out"
    for num_parts in (1, 4):
        process = start(here, out, "--shard-size", "100")
        while len(list(out.glob("store/*/*.parquet"))) < num_parts and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    said = finish(start(here, out))
    assert ", 0 stored already" not in said
    assert "stored already" in said
    assert_same(pl.read_parquet(out / "scores/scores.parquet"), undisturbed)
    assert "nothing to score" in finish(start(here, out))


@pytest.mark.ray
def test_two_workers_make_the_table_of_one(here: Path, undisturbed: pl.DataFrame, tmp_path: Path) -> None:
    finish(start(here, tmp_path / "out", "--workers", "2", "--shard-size", "250", OMP_NUM_THREADS="1"))
    assert_same(pl.read_parquet(tmp_path / "out/scores/scores.parquet"), undisturbed)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with serve_bucket(BUCKET) as env:
        yield env


def test_a_bucket_gets_the_table_that_a_folder_gets(
    here: Path, undisturbed: pl.DataFrame, s3: dict[str, str], tmp_path: Path
) -> None:
    env = {**s3, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    out = f"s3://{BUCKET}/choices"
    finish(start(here, out, **env))
    assert "nothing to score" in finish(start(here, out, **env))
    listed = client(s3).list_objects_v2(Bucket=BUCKET)["Contents"]
    (name,) = [each["Key"] for each in listed if each["Key"].endswith("scores/scores.parquet")][-1:]
    client(s3).download_file(BUCKET, name, str(tmp_path / "scores.parquet"))
    assert_same(pl.read_parquet(tmp_path / "scores.parquet"), undisturbed)


def test_reports_comparisons_and_the_history_take_them(
    here: Path, undisturbed: pl.DataFrame, labelscore: Command, tmp_path: Path
) -> None:
    """Every other command on such a run; two runs are compared item by item."""
    out, other = str(here / "out"), str(tmp_path / "other")
    config = ["run", str(here / "c.toml"), "--dataset", str(here / "d.jsonl"), "--out", other, "--limit", "500"]
    assert labelscore(*config, "--prompt", "next").code == 0
    done = labelscore("compare", out, other)
    assert done.code == 0, done.err
    assert "500" in done.out
    for arguments in (("report", out, "--rule", "mean_char"), ("history", out), ("status", out), ("verify", out)):
        done = labelscore(*arguments)
        assert done.code == 0, (arguments, done.err)
    run = load_run(out)
    scores = run.scores.filter(pl.col("prompt") == "next")
    joined = scores.join(run.items, left_on=["item_id", "text_hash"], right_on=["item_id", "hash_next"]).collect()
    assert joined.height == undisturbed.height / 2
    page = (here / "out/report/report.html").read_text()
    assert "Each item brings its own choices" in page
    done = labelscore("report", out, "--rule", "pmi")
    assert done.code == 2
    assert "pmi" in done.complaints[0]
