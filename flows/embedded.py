"""The embedded Prefect server: a process of ours that lives exactly as long as the run that started it.

It starts before the run has loaded its own libraries, and takes Prefect's settings from where the run takes them.

Invariant: the server cannot outlive its run. It reads from a pipe whose other end only the run holds, and exits
when the pipe closes, however the run ended; Prefect's own temporary server stays for good after a SIGKILL.
"""

import fcntl
import os
import socket
import subprocess
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from flows.startup import imports
from pipeline.children import PYTHON, own_path
from pipeline.errors import InputError, RunError

SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
LOCK = "labelscore-embedded.lock"
SECONDS_TO_START = 120  # a cold machine compiles and migrates first


@contextmanager
def prefect_server() -> Iterator[Callable[[], str]]:
    """Start a server on a free port of the loopback address, and end it after the block.

    Yields what waits until the server answers and returns its API URL, so that a run can load its libraries meanwhile;
    that raises RunError where the server does not answer in time, InputError where its folder cannot be made.
    """
    with subprocess.Popen(
        [*PYTHON, "flows.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **own_path(), **SETTINGS},
        start_new_session=True,  # Ctrl-C is for the run: it still reports its state to the server
    ) as process:
        try:
            yield partial(_wait_until_healthy, process)
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=2)  # which closes its standard input
            process.kill()


def make_home() -> Path:
    """Prefect's folder, made where there is none. Raises InputError where it cannot be made, or written into."""
    from prefect.settings import PREFECT_HOME

    home: Path = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / LOCK).open("a").close()
    except OSError as error:
        raise InputError(
            f"Prefect cannot keep its files in {home}: {error.strerror}; set PREFECT_HOME to a folder that can be "
            "written"
        ) from None
    return home


def _wait_until_healthy(process: "subprocess.Popen[bytes]") -> str:
    make_home()  # why the process may have ended
    port = process.stdout.readline().strip().decode() if process.stdout else ""
    url = f"http://127.0.0.1:{port}/api"
    deadline = time.monotonic() + SECONDS_TO_START
    while port and process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return url
        time.sleep(0.05)
    raise RunError(
        "the embedded Prefect server did not start (exit code "
        f"{process.poll()}); start one with 'prefect server start' and set PREFECT_API_URL to it"
    )


def serve() -> None:
    """Run the server in this process until standard input closes."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")  # the run says it
    with imports():
        try:
            home = make_home()
        except InputError:
            return
        import uvicorn
        from prefect.server.api.server import create_app
    with (home / LOCK).open("w") as lock:
        # Two servers that create or migrate the same database at once trip over each other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on"))
        threading.Thread(target=_unlock_once_started, args=(server, lock.fileno()), daemon=True).start()
        server.run(sockets=[listener])


def _exit_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def _unlock_once_started(server: object, lock: int) -> None:
    while not getattr(server, "started", False):
        time.sleep(0.02)
    fcntl.flock(lock, fcntl.LOCK_UN)


if __name__ == "__main__":
    serve()
