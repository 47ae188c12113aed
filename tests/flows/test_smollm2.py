"""The name `smollm2` where a model is named: in a configuration, for one text, in a schedule."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from flows.cli import main
from flows.options import Schedule
from flows.schedule import from_anywhere, serve
from pipeline.bundled import MODELS
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.smollm2 import INSTALL, PACKAGE
from tests.conftest import run_as_a_newcomer
from tests.real_model import real_file


@pytest.mark.parametrize("name", MODELS)
def test_a_schedule_keeps_a_name_of_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs start elsewhere: a path becomes a whole one, a name stays, though something here is called so."""
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    assert from_anywhere(load_config(None, None, {"model": name})).model == name
    assert from_anywhere(load_config(None, None, {"model": f"./{name}"})).model == str(tmp_path / name)


def test_a_schedule_without_it_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a server is asked. A wheel in the current folder is unpacked then: the runs start elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(InputError, match=INSTALL):
        serve(load_config(None, None, {"model": "smollm2"}), Schedule())


@pytest.mark.real
def test_a_configuration_names_it_and_its_file_is_the_same_model(tmp_path: Path) -> None:
    """The manifest and the output have the name; scores of the file by its path are those of the name."""
    file = real_file()
    (tmp_path / "run.toml").write_text('model = "smollm2"\nlimit = 4\nchat_template = true\n')
    done = run_as_a_newcomer("labelscore run run.toml", tmp_path)
    assert done.out.name == "sample-smollm2"
    model = json.loads((done.out / "manifest.json").read_text())["model"]
    assert (model["name"], model["demonstration"]) == ("smollm2", False)
    again = f"labelscore run run.toml --model {shlex.quote(str(file))} --out {done.out}"
    assert "nothing to score" in run_as_a_newcomer(again, tmp_path).stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('classify "Well done!" --labels " good, bad" --template "Review: {text}\\nMood:"', ["winner: good"]),
        ('tokens "What is your name?"', ["Ġyour", "469"]),
        ('generate "The capital of France is" --max-new-tokens 1', ["The capital of France is Paris"]),
    ],
)
def test_one_text_at_a_time(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three commands takes the name, and what it says is sense."""
    real_file()
    assert main([*shlex.split(command), "--model", "smollm2"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in words), told
