"""One Prefect server and one nursery of runs for all tests of the command, and the command in this process."""

import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows import ray_runs
from tests.flows.runs import Nursery, quiet_server

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines on standard error that are no progress lines, which begin with the time."""
        return [line for line in self.err.splitlines() if line[:2].isdecimal() is False or line[2:3] != ":"]


Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def server_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a run that uses the session's Prefect server, which has a home of its own."""
    with quiet_server(tmp_path_factory.mktemp("server")) as env:
        yield env


@pytest.fixture(scope="session")
def nursery(server_env: dict[str, str]) -> Iterator[Nursery]:
    """Forks runs that share the session's Prefect server."""
    with closing(Nursery(server_env)) as nursery:
        yield nursery


@pytest.fixture
def labelscore(server_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`labelscore(*arguments)` in this process, with its flow on the session's Prefect server."""
    for name, value in server_env.items():
        monkeypatch.setenv(name, value)
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    # Imported once Prefect's settings are in the environment, as the command does it.
    from flows.cli import main

    def call(*arguments: str) -> Ended:
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        out, err = io.StringIO(), io.StringIO()
        environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
        settings = {PREFECT_API_URL: server_env["PREFECT_API_URL"], PREFECT_HOME: server_env["PREFECT_HOME"]}
        try:
            with temporary_settings(settings), redirect_stdout(out), redirect_stderr(err):
                code = main(arguments)
        finally:
            # What the command sets for its process ends with it; this process goes on.
            signal.signal(signal.SIGTERM, handler)
            logging.getLogger("labelscore").handlers = []
            os.environ.clear()
            os.environ.update(environment)
        return Ended(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the items of runs on Ray lie: more than the sample's."""
    return ray_runs.write_rows(tmp_path_factory.mktemp("rows") / "rows.parquet")


@pytest.fixture
def start(rows: Path, tmp_path: Path) -> Iterator[Callable[..., ray_runs.Run]]:
    """Starts such runs into tmp_path/NAME; what is left of them at the end of the test is killed."""
    runs: list[ray_runs.Run] = []

    def begin(name: str, *options: str, **more: str) -> ray_runs.Run:
        runs.append(ray_runs.Run(rows, tmp_path / name, *options, **more))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()
