"""The embedded Prefect server lives as long as the process that started it, and no longer."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.embedded import prefect_server

STARTER = """
import time
from flows.embedded import prefect_server
with prefect_server() as wait_for_url:
    print(wait_for_url(), flush=True)
    time.sleep(600)
"""


def servers(home: Path) -> list[psutil.Process]:
    """The server processes of a Prefect home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if "flows.embedded" in (process.info["cmdline"] or []) and process.environ()["PREFECT_HOME"] == str(home):
                found.append(process)
    return found


def test_it_answers_and_ends_with_its_block(prefect_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API is up inside the block; after it no process is left."""
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    with prefect_server() as wait_for_url, urllib.request.urlopen(f"{wait_for_url()}/health") as answer:
        assert answer.status == 200
        assert len(servers(prefect_home)) == 1
    assert servers(prefect_home) == []


def test_it_ends_when_its_run_is_killed(prefect_home: Path) -> None:
    """SIGKILL gives the run no chance to stop its server; the closed pipe does."""
    env = {**os.environ, "PREFECT_HOME": str(prefect_home)}
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, env=env)
    assert starter.stdout
    assert starter.stdout.readline().startswith("http://127.0.0.1:")
    assert len(servers(prefect_home)) == 1
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for _ in range(100):
        if not servers(prefect_home):
            break
        time.sleep(0.1)
    assert servers(prefect_home) == []
