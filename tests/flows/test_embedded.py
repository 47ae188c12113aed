"""The embedded Prefect server lives as long as the process that started it, and no longer."""

import os
import signal
import subprocess
import sys
import time
import urllib.request

from flows.embedded import prefect_server
from tests.flows.runs import embedded_servers, is_alive

STARTER = """
import time
from flows.embedded import prefect_server
with prefect_server() as wait_for_url:
    print(wait_for_url(), flush=True)
    time.sleep(600)
"""


def test_it_answers_and_ends_with_its_block() -> None:
    """The API is up inside the block; after it no process is left."""
    before = embedded_servers(os.getpid())  # other tests' of this process
    with prefect_server() as wait_for_url, urllib.request.urlopen(f"{wait_for_url()}/health") as answer:
        assert answer.status == 200
        (server,) = embedded_servers(os.getpid()) - before
        assert is_alive(server)
    assert not is_alive(server)


def test_it_ends_when_its_run_is_killed() -> None:
    """SIGKILL gives the run no chance to stop its server; the closed pipe does."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    assert starter.stdout.readline().startswith("http://127.0.0.1:")
    (server,) = embedded_servers(starter.pid)
    assert is_alive(server)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for _ in range(100):
        if not is_alive(server):
            break
        time.sleep(0.1)
    assert not is_alive(server)
