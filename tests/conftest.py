"""Fixtures shared by all tests: the real data, when it is there, and one real run of the embedded default."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is slow: no property fails for the time it took.
settings.register_profile("labelscore", deadline=None)
settings.load_profile("labelscore")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
WALK = README.partition("## Several columns")[2].partition("\n## ")[0]  # from nothing to reports, in files of its own


def pytest_configure(config: pytest.Config) -> None:
    """Each command that a test starts has a Prefect home of this process' own: nothing is written to the user's."""
    home = tempfile.TemporaryDirectory(prefix="labelscore-prefect-", ignore_cleanup_errors=True)
    os.environ["PREFECT_HOME"] = home.name  # before any test module is read, which may import Prefect
    config.add_cleanup(home.cleanup)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real test split and a model with signal; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("LABELSCORE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "ag_news_test.parquet").is_file():
        pytest.skip(f"no shared data at {folder} (set LABELSCORE_SHARED)")
    return folder


@dataclass(frozen=True)
class FinishedRun:
    """A run of the real command in a process of its own."""

    out: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`labelscore run` as a newcomer runs it: no server, no network, no token, no configuration."""
    return run_as_a_newcomer("labelscore run", tmp_path_factory.mktemp("demo"))


def run_as_a_newcomer(command: str, folder: Path) -> FinishedRun:
    """A `labelscore run` in a folder, as the shell would start it."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for name in ("PREFECT_API_URL", "HF_TOKEN"):
        env.pop(name, None)
    started = [sys.executable, "-m", "flows.cli", *shlex.split(command)[1:]]
    done = subprocess.run(started, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (out,) = (folder / "data" / "runs").iterdir()
    return FinishedRun(out, done.stdout, done.stderr)


@dataclass(frozen=True)
class Walk:
    """The README's walk from nothing, done in a folder: of each shell block what is shown below it, and its output."""

    folder: Path
    printed: list[tuple[str, str]]


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Its shell blocks in an empty folder, one after another, beside one Prefect server."""
    from tests.flows.runs import quiet_server

    place = tmp_path_factory.mktemp("walk")
    command, folder = place / "bin" / "labelscore", place / "folder"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli "$@"\n')
    command.chmod(0o755)
    folder.mkdir()
    blocks = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
    printed = []
    with quiet_server(place / "prefect") as env:
        env["PATH"] = f"{command.parent}:{env['PATH']}"
        for script, shown in blocks.findall(WALK):
            shell = ["bash", "-e", "-c", script]
            done = subprocess.run(shell, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, done.stderr
            printed.append((shown, done.stdout))
    return Walk(folder, printed)
