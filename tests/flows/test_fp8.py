"""`--dtype fp8` by the command, in a notebook and for one text: scores of its own, under a name of its own."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import InputError
from pipeline.notebook import run
from tests.flows.conftest import Command
from tests.pipeline.reading.tiny import save_llama

NOTE = "fp8 is emulated on a CPU, which is slow"


def test_scores_in_fp8_are_kept_apart(
    labelscore: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From those in bfloat16 of the same output; near these, the same in a notebook, and told as fp8 everywhere."""
    monkeypatch.chdir(tmp_path)
    plain = scores_of(run(dtype="bfloat16", limit=12, out="out").folder)
    done = labelscore("run", "--dtype", "fp8", "--limit", "12", "--out", "out")
    assert done.code == 0, done.err
    assert f"demo: {NOTE}" in done.err
    assert "15 to score (texts x prompts), 0 stored already" in done.err
    assert "12 items of sample (test) with demo (fp8 on cpu)" in done.out
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["model"]["dtype"] == manifest["config"]["dtype"] == "fp8"
    assert manifest["scoring"]["path"] == "tree"
    assert "fp8 on cpu" in Path("out/report/report.md").read_text()
    found = scores_of(Path("out"))
    apart = (found - plain).abs()
    assert 0.001 < apart.mean() < 0.2
    capsys.readouterr()
    for dtype, expected in (("bfloat16", plain), ("fp8", found)):
        again = run(dtype=dtype, limit=12, out="out")
        assert "nothing to score: all 15" in capsys.readouterr().err
        assert scores_of(again.folder).equals(expected)
    assert scores_of(run(dtype="fp8", limit=12, out="other").folder).equals(found)


def scores_of(out: Path) -> pl.Series:
    return pl.read_parquet(out / "scores" / "scores.parquet").sort("item_id", "label_id")["logprob"]


def test_one_text_gets_the_scores_of_a_run(labelscore: Command, tmp_path: Path) -> None:
    """`classify` turns the layers as a run does."""
    text = "The striker scored twice."
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text, "label": "World"}) + "\n")
    (tmp_path / "run.toml").write_text(
        'prompt = ["mine"]\n[prompts.mine]\ntemplate = "{text}\\nTopic:"\n'
        'labels = { World = " World", Sports = " Sports" }\n'
    )
    out = tmp_path / "out"
    given = ("--dataset", str(tmp_path / "one.jsonl"), "--dtype", "fp8", "--out", str(out))
    assert labelscore("run", str(tmp_path / "run.toml"), *given).code == 0
    done = labelscore(
        "classify", text, "--labels", " World, Sports", "--template", r"{text}\nTopic:", "--dtype", "fp8", "--json"
    )
    assert done.code == 0, done.err
    found = [row["sum"] for row in json.loads(done.out)["labels"]]
    assert found == pytest.approx(scores_of(out).to_list(), abs=1e-5)


def test_what_has_no_layer_to_turn_is_one_line(tmp_path: Path) -> None:
    """Before anything is scored."""
    model = save_llama(tmp_path / "odd", hidden_size=40, intermediate_size=56, head_dim=10)
    with pytest.raises(
        InputError, match=r"odd: none of its layers can be turned to fp8 \(a layer is 40 x 40"
    ) as caught:
        run(model=model, dtype="fp8", limit=2, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
