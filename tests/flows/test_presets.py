"""The presets against a hub on loopback: what a newcomer with a token gets, and the notebook's figures."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.bundled import demo_model_path
from tests.hub_server import HubServer, ag_news_files, folder_files

TOKEN = "hf_recognisable_token"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """AG News with 60 test rows, and our demonstration model under the name and behind the licence of Gemma-2B."""
    with HubServer() as server:
        server.put("dataset", "fancyzhx/ag_news", ag_news_files(num_train=40, num_test=60))
        server.put("model", "google/gemma-2b", folder_files(demo_model_path()), gated=True)
        server.accept_licence("model", "google/gemma-2b", TOKEN)
        yield server


def run(hub: HubServer, folder: Path, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", "run", *options]
    environment = hub.env(cache=folder / "hf", **env)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_notebook_preset_shows_published_beside_measured(hub: HubServer, tmp_path: Path) -> None:
    """50 rows, four prompts, both rules; 32, 22, 46 and 68 % stand beside what was measured; the token nowhere."""
    done = run(hub, tmp_path, "--preset", "notebook", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data" / "runs" / "ag_news-gemma-2b"
    report = (out / "report" / "report.md").read_text()
    for prompt, published in (("detailed", 32), ("described", 22), ("topic-science", 46), ("topic", 68)):
        row = next(line for line in report.splitlines() if line.startswith(f"| `{prompt}`"))
        assert f"{published} %" in row
        assert f"{published}.0 %" in next(line for line in done.stdout.splitlines() if line.startswith(f"{prompt} "))
    scores = pl.read_parquet(out / "scores" / "scores.parquet")
    assert scores["item_id"].n_unique() == 50
    assert not scores["notebook_logit"].is_null().any()
    assert not scores["truncated"].any()
    assert len(scores["revision"][0]) == 40  # the commit
    predictions = pl.read_parquet(out / "report" / "predictions.parquet")
    assert {"sum", "notebook"} <= set(predictions["rule"])
    for path in out.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    assert TOKEN not in done.stdout + done.stderr


def test_a_gated_model_without_a_token_says_which_steps(hub: HubServer, tmp_path: Path) -> None:
    """One line with the steps, exit code 2, and no output."""
    done = run(hub, tmp_path, "--preset", "gemma", "--limit", "4")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    for word in ("google/gemma-2b", "licence", "token", "HF_TOKEN"):
        assert word in line
    assert "Traceback" not in done.stderr


def test_shots_are_scored_apart_from_plain_prompts(hub: HubServer, tmp_path: Path) -> None:
    """Few-shot scores have a fingerprint of their own."""
    base = ("--preset", "gemma", "--limit", "8", "--out", "out")
    plain = run(hub, tmp_path, *base, HF_TOKEN=TOKEN)
    shots = run(hub, tmp_path, *base, "--num-shots", "4", HF_TOKEN=TOKEN)
    assert (plain.returncode, shots.returncode) == (0, 0), plain.stderr + shots.stderr
    assert "11 to score" in shots.stderr
    parts = list((tmp_path / "out" / "store").glob("*/*.parquet"))
    assert len({part.parent for part in parts}) == 2
