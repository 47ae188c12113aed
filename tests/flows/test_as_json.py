"""`--json`: what is printed is one JSON document that holds what the files hold, under their names."""

import json
import math
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.as_json import as_data
from flows.cli import main
from pipeline.one_text import classify, inspect_tokens, load
from pipeline.prompts import BUILT_IN
from tests.conftest import ROOT, FinishedRun
from tests.flows.conftest import Command

TWO = ("--prompt", "answer", "--prompt", "topic", "--limit", "40")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """What a command prints, which is JSON and nothing else."""
    assert main(arguments) == code
    out = capsys.readouterr().out
    assert out.isascii()
    return json.loads(out)


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table as JSON would have them."""
    found = pl.read_parquet(path).to_dicts()
    return [{name: plain(value) for name, value in row.items()} for row in found]


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def manifest(out: Path) -> dict[str, Any]:
    found = json.loads((out / "manifest.json").read_text())
    return {name: value for name, value in found.items() if name != "sha256"}


def test_a_run_prints_its_manifest_and_figures(labelscore: Command, tmp_path: Path) -> None:
    """As they are in the files; progress goes to standard error, and the report made again prints the same."""
    out = tmp_path / "out"
    ended = labelscore("run", *TWO, "--gap", "5", "--json", "--out", str(out))
    assert ended.code == 0
    found = json.loads(ended.out)
    assert "pulled 40 items" in ended.err
    assert found["manifest"] == manifest(out)
    assert found["metrics"] == rows(out / "report" / "metrics.parquet")
    again = labelscore("report", "--json", str(out))
    assert json.loads(again.out)["metrics"] == rows(out / "report" / "metrics.parquet")
    assert json.loads(again.out)["manifest"] == manifest(out)
    shown = labelscore("report", str(out)).out
    for row in found["ranking"]:
        accuracy = next(
            each["value"]
            for each in found["metrics"]
            if (each["prompt"], each["rule"], each["metric"]) == (row["prompt"], "sum", "accuracy")
        )
        assert row["accuracy"] == accuracy
        assert f"{100 * accuracy:.1f}" in shown
    assert all(line.replace("\N{NARROW NO-BREAK SPACE}", " ")[:40] in shown.replace("\N{NARROW NO-BREAK SPACE}", " ")
               for line in found["findings"])  # fmt: skip


def test_a_comparison_prints_what_the_predictions_say(
    labelscore: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flips and differences counted again from both runs' predictions."""
    a, b = tmp_path / "a", tmp_path / "b"
    assert labelscore("run", "--limit", "60", "--out", str(a)).code == 0
    assert labelscore("run", "--limit", "60", "--max-text-tokens", "4", "--out", str(b)).code == 0
    found = printed(capsys, "compare", str(a), str(b), "--json", "--gap", "3")
    own, other = (
        pl.read_parquet(out / "report" / "predictions.parquet").filter(rule="sum").sort("item_id") for out in (a, b)
    )
    assert found["num_common"] == own.height == other.height
    assert found["num_flips"] == len(found["flips"]) == sum(own["predicted"] != other["predicted"])
    (row,) = found["comparisons"]
    assert row["difference"] == pytest.approx((own["correct"].sum() - other["correct"].sum()) / own.height)
    assert {"what": "texts cut at", "a": "none", "b": "4 tokens"} in found["differences"]
    assert main(["compare", str(a), str(b), "--gap", "3"]) == 0
    words = capsys.readouterr().out.partition("by about ")[2].partition(" items")[0]
    unit = 10 ** max(0, len(str(found["num_needed"])) - 2)
    assert int(words.replace(",", "")) == math.ceil(found["num_needed"] / unit) * unit
    assert printed(capsys, "compare", str(a), str(b), "--json")["num_needed"] is None


def test_an_output_is_looked_after_in_json(
    demo_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` counts what the store holds, `history` is the file, `verify` names what is damaged, with exit code 1."""
    out = tmp_path / "out"
    shutil.copytree(demo_run.out, out, symlinks=True)
    status = printed(capsys, "status", str(out), "--json")
    assert status["published"]["run_id"] == manifest(out)["run_id"]
    assert [(each["state"], each["num_texts"], each["num_pending"]) for each in status["stored"]] == [
        ("published", 251, 0)
    ]
    assert printed(capsys, "history", str(out), "--json")["history"] == rows(out / "history.parquet")
    assert printed(capsys, "verify", str(out), "--json") == {"findings": []}
    page = out.joinpath("report", "report.html").resolve()
    page.write_bytes(b"another")
    (finding,) = printed(capsys, "verify", str(out), "--json", code=1)["findings"]
    assert finding["name"].endswith("report/report.html")
    assert set(finding) == {"name", "problem", "action"}


def test_prune_removes_with_yes_alone(labelscore: Command, tmp_path: Path) -> None:
    """Without it the same files are named, and stay; nobody is asked."""
    out = tmp_path / "out"
    for prompt in ("answer", "topic"):
        assert labelscore("run", "--limit", "5", "--prompt", prompt, "--out", str(out)).code == 0
    before = {path for path in out.rglob("*.parquet") if "store" in path.parts}
    told = json.loads(labelscore("prune", str(out), "--json").out)
    assert told["is_removed"] is False
    assert {path for path in out.rglob("*.parquet") if "store" in path.parts} == before
    done = json.loads(labelscore("prune", str(out), "--json", "--yes").out)
    assert done == {**told, "is_removed": True}
    after = {path for path in out.rglob("*.parquet") if "store" in path.parts}
    assert {str(path.relative_to(out)) for path in before - after} == {
        file["name"] for file in done["files"] if file["name"].endswith(".parquet")
    }
    assert before - after


def test_one_text_is_printed_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure as the function returns it, and who wins under each rule."""
    model, text, labels, template = load("demo"), "Shares fell", (" Sports", " Business"), "Article: {text}\nTopic:"
    table = classify(model, text, labels=labels, template=template)
    found = printed(capsys, "classify", text, "--labels", ",".join(labels), "--template", template, "--json")
    assert found["labels"] == table.to_dicts()
    for rule, winner in found["winners"].items():
        assert winner == max(table.to_dicts(), key=lambda row: row[rule])["label"]
    assert printed(capsys, "tokens", text, "--json")["tokens"] == inspect_tokens(model, text).to_dicts()


def test_prompts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Their exact words."""
    found = {prompt["name"]: prompt for prompt in printed(capsys, "prompts", "--json")["prompts"]}
    for name, prompt in BUILT_IN.items():
        assert found[name]["template"] == prompt.template
        assert [label["words"] for label in found[name]["labels"]] == [label.words for label in prompt.labels]


def test_an_error_prints_nothing_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and the exit code as without --json."""
    assert main(["status", str(tmp_path / "none"), "--json"]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("labelscore: error: ")


def test_what_json_has_no_form_for_is_null_or_text() -> None:
    """No NaN, which is no JSON; digits in full; a moment with its zone."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
    table = pl.DataFrame({"a": [0.1 + 0.2, math.nan, -math.inf], "b": [moment, None, None]})
    assert as_data(table) == [
        {"a": 0.30000000000000004, "b": "2026-01-02T03:04:05.000678+00:00"},
        {"a": None, "b": None},
        {"a": None, "b": None},
    ]
    with pytest.raises(TypeError, match="no JSON for object"):
        as_data(object())


def test_every_key_is_documented(labelscore: Command, tmp_path: Path) -> None:
    """data/README.md has a row for each key that a command prints, in its order, and for no other."""
    part = (ROOT / "data" / "README.md").read_text().partition("## What `--json` prints")[2].partition("\n## ")[0]
    documented: dict[str, list[str]] = {}
    for commands, key in re.findall(r"^\| ([a-z, -]+) \| `(\w+)` \|", part, re.MULTILINE):
        for command in commands.split(", "):
            documented.setdefault(command, []).append(key)
    out = str(tmp_path / "out")
    text = ("classify", "Up", "--labels", " a, b", "--template", "{text}:")
    for line in (
        ("run --plan", "run", "--limit", "5", "--plan", "--out", out),
        ("run", "run", "--limit", "5", "--out", out),
        *((name, name, out) for name in ("report", "status", "history", "verify", "prune")),
        ("compare", "compare", out, out),
        ("classify", *text),
        ("tokens", "tokens", "Up"),
        ("prompts", "prompts"),
    ):
        ended = labelscore(*line[1:], "--json")
        assert ended.code == 0, ended.err
        assert list(json.loads(ended.out)) == documented.pop(line[0]), line[0]
    assert not documented
