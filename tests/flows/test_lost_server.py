"""A Prefect server that hangs or dies while a run is at work: the run goes on to its end, or says in one line why not.

The waits are cut short in the run's own process; nothing else about it is different.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Cancelling

from flows.command import _reason_before
from flows.patience import ServerLost, server_explained
from flows.serving import looking_until_answered
from pipeline.analysis import load_run
from pipeline.errors import RunError
from tests.conftest import ROOT
from tests.flows.runs import embedded_servers
from tests.flows.test_schedule import write_rows
from tests.flows.unresponsive import answering

COMMAND = """
import sys
from flows import patience
patience.SECONDS_SILENT, patience.SECONDS_A_TRY = 6.0, 3.0
from flows.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def start(folder: Path, log: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A run over 1,000 rows, in a process of its own."""
    write_rows(folder / "rows.parquet", 1_000)
    options = ["--dataset", "rows.parquet", "--label-names", "ag_news", "--out", "out", "--shard-size", "100"]
    with (folder / log).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "run", *options], cwd=folder, env=env, stdout=file, stderr=file
        )


@pytest.fixture
def env() -> dict[str, str]:
    """Of a run with an embedded server."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("PREFECT_API_URL", None)
    return env


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_whose_server_is_gone_goes_on_to_its_report(
    number: signal.Signals, env: dict[str, str], tmp_path: Path
) -> None:
    """What is scored and published needs no server; the report is printed, with a line about what Prefect missed."""
    run = start(tmp_path, "log", env)
    while run.poll() is None and not list(tmp_path.glob("out/store/*/*.parquet")):
        time.sleep(0.02)
    (server,) = embedded_servers(run.pid)
    os.kill(server, number)
    assert run.wait(240) == 0
    said = (tmp_path / "log").read_text()
    assert load_run(tmp_path / "out").manifest.dataset.num_items == 1_000
    assert "this run is finished, and its pages do not show it" in said
    assert said.count("and the run goes on") == 1
    assert "out/report/report.html" in said
    assert "Traceback" not in said
    assert "Error logging" not in said


def test_a_run_that_cannot_begin_ends_in_one_line(env: dict[str, str], tmp_path: Path) -> None:
    """A server that hangs once it has said its version: nothing is scored, and the line says what to do."""
    with answering(200, '"3.8.8"', only="/admin/version") as url:
        run = start(tmp_path, "log", {**env, "PREFECT_API_URL": f"{url}/api"})
        assert run.wait(240) == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"labelscore: error: the Prefect server at {url}/api does not answer any more; what was")
    assert not (tmp_path / "out").exists()


def test_why_a_run_failed_is_told_though_its_server_is_gone() -> None:
    """That the server could not be told so comes second, however often it was tried."""

    def tell_server() -> None:
        try:
            raise httpx.ReadTimeout("timed out")
        except httpx.ReadTimeout:
            raise ServerLost("the server does not answer") from None

    def fail(error: Exception) -> None:
        try:
            raise error
        except Exception:
            with server_explained():
                tell_server()

    for error, told in ((RunError("no finite number"), "no finite number"), (KeyError("a bug"), "None")):
        with pytest.raises(ServerLost) as lost:
            fail(error)
        assert str(_reason_before(lost.value)) == told


def test_serve_prints_no_traceback_of_what_waited_for_a_lost_server() -> None:
    """Whichever of Prefect's loggers tells it; what else goes wrong is printed."""
    logging_errors = """
import logging, httpx
from flows import serving
serving.keep_lost_connections_quiet()
errors = {"prefect.runner.state_proposer": httpx.ConnectError("lost"), "prefect.runner": ValueError("other")}
for name, error in errors.items():
    try:
        raise error
    except Exception:
        logging.getLogger(name).exception("what failed")
"""
    done = subprocess.run([sys.executable, "-c", logging_errors], capture_output=True, text=True, check=True)
    assert "ValueError: other" in done.stderr
    assert "ConnectError" not in done.stderr


@pytest.mark.parametrize("patient", [True, False])
def test_serve_looks_for_cancelled_runs_however_long_nobody_answers(patient: bool) -> None:
    """And finds them when the server is back. Prefect's own look is over for good after three answers that fail."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    cancelled = uuid4()
    run = FlowRun(id=cancelled, flow_id=uuid4(), state=Cancelling())

    class Handler(BaseHTTPRequestHandler):
        """One that starts: it answers nothing to the first questions, and then has no tokens to give, but answers."""

        num_asked = 0

        def do_GET(self) -> None:
            Handler.num_asked += 1
            self.send_error(501 if Handler.num_asked <= 4 else 404)

        def do_POST(self) -> None:
            body = f"[{run.model_dump_json()}]".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    async def found_or_over() -> str:
        said: asyncio.Queue[str] = asyncio.Queue()
        told = {
            "on_cancelling": lambda id: said.put_nowait(f"found {id}"),
            "on_failure": lambda ids: said.put_nowait("over"),
        }
        async with FlowRunCancellingObserver(polling_interval=0.1, **told) as observer:
            observer.add_in_flight_flow_run_id(cancelled)
            await asyncio.sleep(3)
            with ThreadingHTTPServer(address, Handler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                try:
                    return await asyncio.wait_for(said.get(), 60)
                finally:
                    server.shutdown()

    settings = {
        PREFECT_API_URL: f"http://127.0.0.1:{address[1]}/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
    }
    with temporary_settings(settings), looking_until_answered() if patient else nullcontext():
        assert asyncio.run(found_or_over()) == (f"found {cancelled}" if patient else "over")
