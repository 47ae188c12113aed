"""The command line itself: options are made from the configuration, mean what was typed, and are explained."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import _mark_values, app, main
from flows.terminal import print_prunable, say
from pipeline.choice_loading import NO_KEYS, ChoiceKeys
from pipeline.config import RunConfig
from pipeline.storing.upkeep import Pruned
from tests.conftest import ROOT
from tests.pipeline.reporting import tables

OPTIONS = {name: field for name, field in RunConfig.model_fields.items() if name not in ("prompts", "published")}
COMMANDS = [name for name in app if not name.startswith("-")]


def given(*arguments: str) -> dict[str, Any]:
    """The keys of the configuration that a command line gives."""
    keys: dict[str, Any] = app.parse_args(["run", *arguments])[1].arguments.get("keys", {})
    return keys


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` prints where a line holds 80 characters."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "serve", "deploy"])
def test_help_explains_each_key_of_the_configuration(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each but the tables is an option with its description and its default."""
    page = " ".join(help_of(command, monkeypatch, capsys).split())
    for name, field in OPTIONS.items():
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default is None or default is False or default == {} else rf" \[default: {default}\]"
        option, told = f" --{name.replace('_', '-')} ", re.escape(str(field.description))
        assert re.search(rf"{option}([A-Z.,=]+ )?{told}( \([\w, ]+\))?{shown} (--|when)", f"{page} --"), name


def test_help_explains_each_key_of_a_choice_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each but the tables is an option with its description; those that only say why they have no use are not shown."""
    page = " ".join(help_of("choose", monkeypatch, capsys).split())
    for name, field in ChoiceKeys.model_fields.items():
        option = rf" --{name.replace('_', '-')} ([A-Za-z.,=|]+ )?{re.escape(str(field.description))}"
        assert (re.search(option, page) is None) == (name in ("prompts", "words")), name
    assert not [name for name in NO_KEYS if f" --{name.replace('_', '-')} " in page]
    assert "[default: no]" in page


@pytest.mark.parametrize("command", ["", *(command for command in COMMANDS if command != "lm-eval")])
def test_help_is_plain_and_fits_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is meant for pipes and pagers, too: no boxes, no colours, no long lines. That of lm-eval is the harness'."""
    page = help_of(command, monkeypatch, capsys)
    assert page.startswith(f"Usage: labelscore {command}")
    assert page.isascii()
    assert "\x1b" not in page
    assert max(map(len, page.splitlines())) <= 80


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it does."""
    page = help_of("", monkeypatch, capsys)
    assert all(re.search(rf"^ {command} +[A-Z]\w+ ", page, re.MULTILINE) for command in COMMANDS)


def test_only_what_was_typed_is_given() -> None:
    """A default would win over the file's key."""
    assert given() == {}
    assert given("run.toml", "--limit", "5", "--force") == {"limit": "5", "force": True}


def test_what_is_offered_may_be_typed_several_times() -> None:
    """Each option of an axis stands for one value more; of the others the last one counts, as everywhere."""
    line = "--prompt a --prompt b --num-shots 0 --num-shots 4 --model m --chat x=1 --chat x=2 --rule sum --rule pmi"
    typed = app.parse_args(["choose", *line.split(), "--within", "1", "--within", "3", "--these-alone", "--json"])[1]
    assert typed.arguments["json"] is True
    assert typed.arguments["keys"] == {
        "prompt": ["a", "b"], "num_shots": ["0", "4"], "model": ["m"], "chat": ["x=1", "x=2"], "rule": ["sum", "pmi"],
        "within": "3", "these_alone": True,
    }  # fmt: skip


def test_values_are_taken_as_they_were_typed() -> None:
    """No word stands for nothing, no bracket for JSON, and of an option given twice the last one counts."""
    typed = {"dataset": "none", "model": "null", "split": "test[:3]", "out": "[bold]{x}", "encoding": ""}
    line = [part for name, value in typed.items() for part in (f"--{name}", value)]
    assert given(*line, "--prompt", '["a"]', "--prompt", "none", "--limit", "4", "--limit=-5") == {
        **typed, "prompt": ['["a"]', "none"], "limit": "-5",
    }  # fmt: skip


@pytest.mark.parametrize(
    "option", ["--lim=4", "--no-force", "--empty-prompt", "--Limit=4", "-l", "--prompts.a.template=b", "--version"]
)
def test_no_option_is_there_that_help_does_not_show(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No abbreviation, no negative form, no key of a table."""
    assert main(["run", option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_no_variable_of_the_environment_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run scores stands in its command line and its file."""
    for name in ("LIMIT", "LABELSCORE_LIMIT", "LABELSCORE_RUN_LIMIT", "CYCLOPTS_LIMIT"):
        monkeypatch.setenv(name, "5")
    assert given() == {}


def test_a_text_with_a_hyphen_stands_behind_two(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a blank it is taken for an option, and the help says what to write; a template is what it is."""
    assert main(["tokens", "-x"]) == 2
    assert "'labelscore tokens --help'" in capsys.readouterr().err
    bound = app.parse_args(["tokens", "--", "- 5 % on Monday"])[1]
    assert bound.arguments["text"] == "- 5 % on Monday"
    bound = app.parse_args(["classify", "x", "--template", "- {text}:", "--labels", "- a,- b"])[1]
    assert (bound.arguments["template"], bound.arguments["labels"]) == ("- {text}:", ("- a", "- b"))


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["tokens", "- item"], ["tokens", "--", "- item"]),
        (["tokens", "- item", "--model", "demo"], ["tokens", "--model", "demo", "--", "- item"]),
        (["tokens", "--notebook", "-5 degrees"], ["tokens", "--notebook", "--", "-5 degrees"]),
        (["compare", "- a", "b"], ["compare", "--", "- a", "b"]),
        (["run", "--label-names", "-1=neg, 1=pos"], ["run", "--label-names=-1=neg, 1=pos"]),
        (["run", "--limit=5", "--force"], ["run", "--limit=5", "--force"]),
        (["run", "--no such"], ["run", "--", "--no such"]),
        (["tokens", "--", "- item"], ["tokens", "--", "- item"]),
    ],
)
def test_what_no_option_looks_like_is_a_value(typed: list[str], read: list[str]) -> None:
    """A text, a path or a list that begins with a hyphen and holds a blank, wherever it stands."""
    assert _mark_values(typed) == read


@pytest.mark.parametrize(("encoding", "minus"), [("ascii", "-"), ("latin-1", "-"), ("utf-8", "\N{MINUS SIGN}")])
def test_a_difference_keeps_its_sign_on_a_terminal_that_lacks_the_minus(
    encoding: str, minus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question mark in its place would leave `?1.9 to 4.2` to be guessed at."""
    out = tables.write_run(tmp_path)
    tables.write_report(out)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, errors="strict"))
    assert main(["compare", str(out), str(out)]) == 0
    say("\N{MINUS SIGN}1.2 to 3.4, 20\N{EN DASH}40")
    sys.stdout.flush()
    text = shown.getvalue().decode(encoding)
    assert f" A {minus} B, points" in text
    assert re.search(rf"{minus}\d\.\d to \d\.\d \|", text)
    assert "?" not in text.partition("## Flipped")[0]
    assert f"{minus}1.2 to 3.4" in text


def test_many_files_of_one_folder_are_one_line_of_prune(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten million items have five thousand parts; what is removed of a folder, and why, is still said."""
    parts = [Pruned(f"store/{'a' * 16}/{number}.parquet", 1000, "stale") for number in range(2000)]
    few = [Pruned(f"runs/x/{name}", 10, "replaced") for name in ("items.parquet", "manifest.json")]
    print_prunable([*parts, *few])
    assert capsys.readouterr().out.splitlines() == [
        f"store/{'a' * 16}/ (2,000 files)  2.0 MB  stale",
        "runs/x/items.parquet  10 bytes  replaced",
        "runs/x/manifest.json  10 bytes  replaced",
        "2,002 files, 2.0 MB",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_what_could_not_be_printed_is_no_success() -> None:
    """As with any command whose output goes to a full disk; a reader that has gone is no fault."""
    command = [sys.executable, "-m", "flows.cli", "prompts"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "No space left on device" in line
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
