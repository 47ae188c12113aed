"""Code that comes with a model or with a task's file: the owner of an environment may forbid it."""

from pathlib import Path

import pytest

from pipeline.bundled import demo_model_path
from pipeline.checks import check_run
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.reading.foreign_code import ALLOW, refuse_foreign_code
from pipeline.reading.model import resolve_model


@pytest.mark.parametrize("no", ["0", "false", " No ", "OFF"])
def test_a_model_is_refused_its_code_where_it_is_resolved(monkeypatch: pytest.MonkeyPatch, no: str) -> None:
    """That is where every run, choice and task gets its model; without the option the model is what it was."""
    monkeypatch.setenv(ALLOW, no)
    with pytest.raises(InputError, match=f"trust_remote_code runs code of its own, which {ALLOW}"):
        resolve_model(demo_model_path(), trust_remote_code=True)
    assert not resolve_model(demo_model_path()).trust_remote_code


@pytest.mark.parametrize("yes", ["1", "true", "YES", ""])
def test_it_is_allowed_where_nobody_forbids_it(monkeypatch: pytest.MonkeyPatch, yes: str) -> None:
    """It is off by default all the same: the configuration has to ask for it."""
    monkeypatch.setenv(ALLOW, yes)
    assert resolve_model(demo_model_path(), trust_remote_code=True).trust_remote_code


def test_a_value_that_is_not_understood_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody meant to say something by it."""
    monkeypatch.setenv(ALLOW, "never")
    with pytest.raises(InputError, match="neither 1 nor 0"):
        refuse_foreign_code("x")


def test_files_of_tasks_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A task's YAML file calls Python functions, and its templates are not sandboxed."""
    pytest.importorskip("lm_eval")
    marker = tmp_path / "ran"
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: json\ndoc_to_text: !function own.text\n")
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.setenv(ALLOW, "0")
    config = RunConfig(task=("mine",), task_path=str(tmp_path), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=f"task_path runs code of its own, which {ALLOW}=0 forbids"):
        check_run(config)
    assert not marker.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tasks", "piqa", "--include_path", "x"],
        ["--tasks", "x/mine.yaml"],
        ["--tasks", "piqa", "--trust_remote_code"],
        ["--tasks", "piqa,mine"],
        ["--tasks", "piqa", "--model_args", "pretrained=x,trust_remote_code=True"],
        ["--tasks", "piqa", "--model_args", "pretrained=x,trust_remote_code=yes"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_the_harness_own_command_line_is_refused_it_too(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], tmp_path: Path
) -> None:
    """Whichever of its arguments would bring it in."""
    pytest.importorskip("lm_eval")
    from pipeline.harness.command import run_harness

    monkeypatch.setenv(ALLOW, "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=f"runs code of its own, which {ALLOW}=0 forbids"):
        run_harness(["run", *arguments])
