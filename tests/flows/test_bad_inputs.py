"""Whatever a user gets wrong ends in one line that says what, where and what to do, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError
from tests.conftest import ROOT
from tests.flows.bad_inputs import CASES
from tests.flows.conftest import Command
from tests.flows.runs import start_command


def names(folder: Path) -> set[str]:
    """Names of all files and folders below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_in_one_line(
    name: str, labelscore: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 (1 where the run itself failed), one line with the words, no traceback, no file made."""
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    case.lay_out(tmp_path)
    before = names(tmp_path)
    done = labelscore(*case.argv)
    assert done.code == case.code, done
    assert done.out == ""
    assert len(done.complaints) == 1, done.err
    (line,) = done.complaints
    assert line.startswith("labelscore")
    assert "error: " in line
    for word in case.words:
        assert word in line
    assert "Traceback" not in line
    assert names(tmp_path) == before


def test_there_are_a_hundred_of_them() -> None:
    """The table is worth its name."""
    assert len(CASES) >= 200


PROCESSES = ("options: limit 0", "TOML: unknown key", "files: text behind .parquet", "outputs: below a file")


@pytest.mark.parametrize("name", PROCESSES)
def test_it_is_told_by_the_command_as_a_process_too(name: str, server_env: dict[str, str], tmp_path: Path) -> None:
    """The same line and exit code from a new interpreter, and nothing else on either stream."""
    case, log, folder = CASES[name], tmp_path / "log", tmp_path / "here"
    folder.mkdir()
    case.lay_out(folder)
    before = names(folder)
    run = start_command(case.argv, log, server_env, cwd=folder)
    assert run.wait() == case.code
    (line,) = run.said().splitlines()
    assert line.startswith("labelscore: error: ")
    assert all(word in line for word in case.words)
    assert names(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "--dataset nope.csv", "--dataset folder/nope", "--model ./nope", "--out news.csv",
        "--dataset news.csv --split tset",
        "--dataset news.csv --text-column body", "--dataset news.csv --label-names a,b", "--dataset bad.csv",
        "--prompt anwser", "--label-names 1=a,b", "--dataset news.csv --num-shots 4 --shots-split nope.csv",
        "--num-shots 900", "--chat-template", "--model demoo", "--dataset sampel", "--model demo --revision main",
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_slow_is_imported(arguments: str, tmp_path: Path) -> None:
    """Neither Prefect's server nor torch is waited for, which took 13 to 32 seconds."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "news.csv").write_text("text,label\nx,0\n")
    (tmp_path / "bad.csv").write_text("text,label\n,0\n")
    code = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'prefect', 'polars', 'ray', 'datasets'} & set(sys.modules);"
        "sys.exit(f'{code}, imported {heavy}' if heavy or code != 2 else 0)"
    )
    command = [sys.executable, "-c", code, "run", *arguments.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "serve", "deploy --pool p"])
def test_a_prefect_server_that_is_not_there_is_told(server_env: dict[str, str], tmp_path: Path, command: str) -> None:
    """PREFECT_API_URL may name a server that has gone; each command says so, in the same line, and leaves nothing."""
    env = {**server_env, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    run = start_command([*command.split(), "--out", "out"], tmp_path / "log", env, cwd=tmp_path)
    assert run.wait() == 2
    (line,) = run.said().splitlines()
    assert "no Prefect server answers at http://127.0.0.1:9/api" in line
    assert "PREFECT_API_URL" in line
    assert not (tmp_path / "out").exists()


def test_a_schedule_without_a_server_is_told(server_env: dict[str, str], tmp_path: Path) -> None:
    """A run starts one of its own; a schedule would end with it."""
    env = {name: value for name, value in server_env.items() if name != "PREFECT_API_URL"}
    run = start_command(["serve", "--cron", "0 6 * * *"], tmp_path / "log", env, cwd=tmp_path)
    assert run.wait() == 2
    (line,) = run.said().splitlines()
    assert "schedules need a Prefect server" in line
    assert "prefect server start" in line


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_a_prefect_home_that_cannot_be_is_told(server_env: dict[str, str], tmp_path: Path, home: str) -> None:
    """The embedded server keeps its database there."""
    (tmp_path / "file").touch()
    env = {name: value for name, value in server_env.items() if name != "PREFECT_API_URL"}
    env["PREFECT_HOME"] = str(tmp_path / home)
    run = start_command(["run", "--out", "out"], tmp_path / "log", env, cwd=tmp_path)
    assert run.wait() == 2
    (line,) = run.said().splitlines()
    assert "PREFECT_HOME" in line
    assert not (tmp_path / "out").exists()


def test_arguments_that_are_no_text_are_refused(labelscore: Command) -> None:
    """Bytes that are not UTF-8 reach Python as lone surrogates; they could be neither tokenised nor shown."""
    for argument in ("a\udcffb", "--prompt=\ud800"):
        done = labelscore("run", argument)
        assert done.code == 2
        (line,) = done.complaints
        assert "not valid Unicode" in line


KEYS = sorted(RunConfig.model_fields)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=4))
LINES = st.lists(st.tuples(st.one_of(st.sampled_from(KEYS), st.text(max_size=6)), VALUES), max_size=4)


def load(path: Path) -> None:
    """Load a configuration, which must work or tell in one line what is wrong."""
    try:
        config = load_config(str(path), None, {})
    except InputError as error:
        told = str(error)
    else:
        told = "nothing"
        assert RunConfig.model_validate(config.model_dump()) == config
        json.dumps(config.model_dump(), allow_nan=False)  # as the manifest will have it
    assert told.strip()
    assert told.isprintable()


@given(LINES)
def test_any_values_under_any_keys_are_a_configuration_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, object]]
) -> None:
    """Keys of ours and others, with values of every type."""
    path = tmp_path_factory.getbasetemp() / "values.toml"
    path.write_text("\n".join(f"{json.dumps(key)} = {to_toml(value)}" for key, value in lines))
    load(path)


def to_toml(value: object) -> str:
    """A value as TOML spells it, which is JSON but for the floats that JSON has not."""
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass"))))
def test_any_bytes_are_a_configuration_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever the file holds."""
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    load(path)
