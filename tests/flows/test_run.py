"""The main job as a newcomer runs it: the embedded default, from nothing to a report."""

import json
import os
import re
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.job import remake_report
from pipeline.storing.files import Output
from pipeline.storing.layout import SCORES, nth_scores, score_files
from pipeline.storing.runs import open_run, publish
from pipeline.storing.tables import write_until
from pipeline.storing.upkeep import verify
from tests.conftest import FinishedRun
from tests.flows.runs import start_command


def test_the_default_run_ends_with_figures_and_files(demo_run: FinishedRun) -> None:
    """It prints accuracy with its interval, says that this is the demonstration model, and names what it wrote."""
    assert "demonstration model" in demo_run.stdout
    assert re.search(r"answer +\d\d\.\d % +\d\d\.\d\N{EN DASH}\d\d\.\d ", demo_run.stdout)
    assert re.search(r"\n\n\d\d\.\d.% right: with the prompt 'answer' 217 of 248 items ", demo_run.stdout)
    for name in ("scores/scores.parquet", "items.parquet", "report/report.html", "report/report.md", "manifest.json"):
        assert (demo_run.out / name).is_file()
        assert f"data/runs/sample-demo/{name}" in demo_run.stdout


def test_the_default_run_is_quiet_where_nobody_watches(demo_run: FinishedRun) -> None:
    """Without a terminal there is no progress bar, no colour and nothing of Prefect's own, just our few lines."""
    lines = demo_run.stderr.splitlines()
    assert "\x1b" not in demo_run.stderr + demo_run.stdout
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line).split()[0] for line in lines] == ["pulled", "251", "scored"], lines


def test_the_score_table_keeps_the_contract(demo_run: FinishedRun) -> None:
    """Columns, types, order, one row for each item and label, and the schema's version in the file."""
    scores = pl.read_parquet(demo_run.out / "scores" / "scores.parquet")
    assert scores.schema == {
        "item_id": pl.Int64, "text_hash": pl.String, "prompt": pl.String, "model": pl.String, "revision": pl.String,
        "label_id": pl.Int16, "label": pl.String, "label_words": pl.String, "gold_id": pl.Int16,
        "num_tokens": pl.Int16, "num_bytes": pl.Int16, "norm_chars": pl.Int32, "norm_bytes": pl.Int32,
        "logprob": pl.Float32, "logit": pl.Float32,
        "notebook_logit": pl.Float32, "prompt_tokens": pl.Int32, "truncated": pl.Boolean,
    }  # fmt: skip
    keys = scores.select("item_id", "prompt", "label_id")
    assert keys.equals(keys.unique().sort("item_id", "prompt", "label_id"))
    assert scores.height == 4 * 248
    assert scores["logprob"].is_finite().all()
    assert (scores["logprob"] < 0).all()
    assert scores["model"].unique().to_list() == ["demo"]
    assert scores["notebook_logit"].is_null().all()
    assert pl.read_parquet_metadata(demo_run.out / "scores" / "scores.parquet")["labelscore.schema_version"] == "2"


def test_the_manifest_records_what_was_run(demo_run: FinishedRun) -> None:
    """Configuration, fingerprints, revisions, library versions, device, timings and the hash of each file."""
    manifest = json.loads((demo_run.out / "manifest.json").read_text())
    assert manifest["model"]["demonstration"] is True
    assert manifest["model"]["revision"].startswith("sha256:")
    assert manifest["dataset"]["num_items"] == 248
    assert manifest["counts"]["scored"] == 251  # with the three content-free texts
    assert manifest["scoring"]["path"] == "tree"
    assert {"torch", "transformers", "polars", "prefect"} <= manifest["libraries"].keys()
    assert {"pull", "plan", "score", "publish", "report"} <= manifest["timings"].keys()
    assert "scores/scores.parquet" in manifest["files"]


def test_a_larger_slice_scores_what_is_new_and_a_rerun_nothing(tmp_path: Path) -> None:
    """50 items and then 120 score 70 more; the same again scores none and says so; no server is left behind."""
    config = tmp_path / "run.toml"
    config.write_text('out = "out"\n')
    for limit, line in (("50", "53 to score"), ("120", "70 to score"), ("120", "nothing to score: all 123")):
        run = start_command(["run", str(config), "--limit", limit], tmp_path / f"{line}.log", os.environ, cwd=tmp_path)
        assert run.wait() == 0, run.said()
        assert line in run.said()
        assert run.leftovers() == []
    history = pl.read_parquet(tmp_path / "out" / "history.parquet").filter(pl.col("headline")).sort("finished")
    assert history["num_scored"].to_list() == [53, 70, 0]
    assert history["num_changed"].to_list() == [None, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], ["published", "248 items of sample", "answer", "fingerprint"]),
        (["history"], ["past runs", "answer", "248"]),
        (["prune"], ["nothing to remove"]),
        (["report", "--rule", "pmi"], ["rule 'pmi'", "answer"]),
        (["report"], ["rule 'pmi'"]),
        (["report", "--rule", "sum"], ["rule 'sum'"]),
    ],
)
def test_commands_on_a_finished_run(
    demo_run: FinishedRun, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    """Each says what it should; a report under another rule keeps the output sound."""
    from flows.cli import main

    assert main([arguments[0], str(demo_run.out), *arguments[1:]]) == 0
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
    assert main(["verify", str(demo_run.out)]) == 0
    assert capsys.readouterr().out == "all files are sound\n"


def test_a_report_made_again_keeps_all_files(demo_run: FinishedRun, tmp_path: Path) -> None:
    """And says the same of a table in several files as of one."""
    out = Output(tmp_path / "out")
    shutil.copytree(demo_run.out, out.root, symlinks=True, dirs_exist_ok=True)
    folder, manifest = open_run(out)
    table = pq.read_table(folder.path(SCORES))
    half = table.num_rows // 8 * 4
    for number, part in enumerate((table.slice(0, half), table.slice(half)), start=1):
        write_until(folder.path(nth_scores(number)), table.schema, [part], 1)
    files = {name: digest for name, digest in manifest.files.items() if name != SCORES}
    publish(out, folder, manifest.model_copy(update={"files": files}))
    before = pl.read_parquet(folder.path("report/predictions.parquet"))
    remake_report(out)
    again, manifest = open_run(out)
    assert again.location != folder.location
    assert score_files(manifest.files) == [SCORES, nth_scores(2)]
    assert pl.read_parquet(again.path("report/predictions.parquet")).equals(before)
    assert verify(out) == []
