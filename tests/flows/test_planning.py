"""`labelscore run --plan`: what it says is what the run then does, and it leaves everything as it was."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from flows.cli import main
from pipeline.bundled import sample_path
from pipeline.config import load_config
from pipeline.job import Job
from pipeline.storing.files import LOCK, Output
from tests.conftest import FinishedRun
from tests.flows.conftest import Command


def state_of(out: Path) -> dict[str, str]:
    """Every file and link below a folder, with what is in it; but for who held the lock last."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and name != LOCK:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = ""
    return found


def test_a_plan_for_nothing_yet_needs_no_server_and_leaves_no_folder(tmp_path: Path) -> None:
    """In a process of its own, which neither imports Prefect nor makes the output."""
    code = (
        "import sys; from flows.cli import main; code = main(['run', '--plan', '--out', 'deep/new']);"
        "sys.exit(code or 'prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "248 items of sample (test), with demo (float32 on cpu)" in done.stdout
    assert "to score   251 (texts x prompts) in 1 shard" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_plan_says_what_the_next_run_scores(labelscore: Command, tmp_path: Path) -> None:
    """Its counts are those of the run's manifest after it; the output is byte for byte what it was."""
    data, out = tmp_path / "news.csv", tmp_path / "out"
    sample = pl.read_ndjson(sample_path("test")).head(80)
    sample.write_csv(data)
    options = ("--dataset", str(data), "--out", str(out), "--prompt", "answer", "--prompt", "topic")
    assert labelscore("run", *options, "--limit", "60").code == 0
    before = state_of(out)
    ended = labelscore("run", *options, "--plan", "--json")
    plan = json.loads(ended.out)
    assert (ended.code, state_of(out)) == (0, before)
    assert plan["seconds"] == pytest.approx(plan["num_missing"] / plan["items_per_second"])
    other = json.loads(labelscore("run", *options, "--max-text-tokens", "9", "--plan", "--json").out)
    assert (other["items_per_second"], other["seconds"]) == (None, None)  # such items had no rate yet
    shown = labelscore("run", *options, "--plan").out
    assert f"to score   {plan['num_missing']:,} (texts x prompts) in 2 shards" in shown
    assert labelscore("run", *options).code == 0
    done = json.loads((out / "manifest.json").read_text())["counts"]
    assert (plan["num_missing"], plan["num_stored"]) == (done["scored"], done["reused"])
    assert [prompt["num_missing"] for prompt in plan["prompts"]] == [20, 20]
    wanted = sample.slice(60)["text"].str.len_bytes().sum()
    assert plan["num_characters"] == 2 * wanted


def test_a_plan_says_why_scores_are_stale(
    demo_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What differs from the last run among that which makes a score another one; a rule does not."""
    out = tmp_path / "out"
    shutil.copytree(demo_run.out, out, symlinks=True)
    assert main(["run", "--plan", "--json", "--out", str(out), "--rule", "pmi"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["num_missing"], plan["stale_prompts"], plan["stale"]) == (0, [], [])
    assert main(["run", "--plan", "--json", "--out", str(out), "--rule", "pmi", "--max-text-tokens", "9"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_missing"] == 251
    assert plan["stale_prompts"] == ["answer"]
    assert plan["stale"] == [{"what": "texts cut at", "last": "none", "now": "9 tokens"}]


def test_damage_and_unfinished_plans_stay_as_they_are(
    demo_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that is damaged is named and not moved; the word that a run left of what it set out to score is kept."""
    out, begun = tmp_path / "out", tmp_path / "begun"
    shutil.copytree(demo_run.out, out, symlinks=True)
    (part,) = (out / "store").glob("*/*.parquet")
    part.write_bytes(part.read_bytes()[:-40])
    before = state_of(out)
    assert main(["run", "--plan", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "to score   251 " in printed.out
    assert f"{part.name}: " in printed.err
    assert "to be moved to store/set-aside/" in printed.err
    assert state_of(out) == before

    killed = Output(begun)  # one that a kill ended before its first part was stored: no lock's end withdraws it
    job = Job(load_config(None, None, {"out": str(begun)}), killed)
    job.plan(job.pull())
    (begun / LOCK).touch()
    shutil.rmtree(killed.work)
    before = state_of(begun)
    assert any(name.endswith("plan.json") for name in before)
    assert main(["run", "--plan", "--out", str(begun)]) == 0
    assert state_of(begun) == before


def test_a_plan_of_what_is_wrong_ends_as_the_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with exit code 2."""
    assert main(["run", "--plan", "--dataset", "nosuch.csv"]) == 2
    assert "nosuch.csv" in capsys.readouterr().err
