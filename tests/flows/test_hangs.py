"""What hangs and does not die: stopped processes, servers that never answer, addresses where no Ray is."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from flows.ray_address import check_address
from flows.ray_cluster import import_ray
from pipeline.errors import InputError
from tests.flows.ray_runs import MAIN, NUM_ROWS, SLOWLY, Run, actors_of

# The limit of a run that was asked to stop is 10 seconds; a test machine under load may take longer to end processes.
SECONDS_TO_STOP = 25
TOKEN = "0123456789abcdef" * 4
IMPATIENT = "import flows.pulse; flows.pulse.LOOKS_TO_ANSWER = 8; " + MAIN


@pytest.fixture
def silent() -> Iterator[str]:
    """HOST:PORT of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.ray
def test_a_stop_does_not_wait_for_what_hangs(start: Callable[..., Run]) -> None:
    """Not for actors, Ray's own processes or the Prefect server; nothing of them is left."""
    run = start("hung", "--workers", "2", *SLOWLY)
    run.wait_for("scores", lambda: run.parts() > 0)
    family = run.family()
    for process in family:
        process.send_signal(signal.SIGSTOP)
    asked = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 1, run.lines()
    assert time.monotonic() - asked < SECONDS_TO_STOP
    assert run.lines().splitlines()[-1].startswith("labelscore: error: stopped on request"), run.lines()
    assert "Traceback" not in run.lines()
    assert not psutil.wait_procs(family, timeout=30)[1]


def test_a_stop_does_not_wait_for_an_object_store(silent: str, tmp_path: Path) -> None:
    """It took the connection and never answered, before anything was scored."""
    keys = {"AWS_ENDPOINT_URL": f"http://{silent}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    env = {**os.environ, **keys, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows.cli", "run", "--out", "s3://bucket/run"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as run:
        while not psutil.Process(run.pid).net_connections() or not _is_waiting_for(run.pid, silent):
            assert run.poll() is None
            time.sleep(0.1)
        asked = time.monotonic()
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=100)
    assert time.monotonic() - asked < SECONDS_TO_STOP
    assert run.returncode == 1
    assert said.splitlines()[-1].startswith("labelscore: error: stopped on request"), said


def _is_waiting_for(pid: int, address: str) -> bool:
    port = int(address.partition(":")[2])
    return any(each.raddr and each.raddr.port == port for each in psutil.Process(pid).net_connections())


@pytest.mark.ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:port", "ray://", "no-such-host.invalid:6379"])
def test_an_address_where_no_ray_is_is_one_line(address: str) -> None:
    """Ray is not asked, as it would try for minutes."""
    with pytest.raises(InputError, match=r"no Ray cluster answers at RAY_ADDRESS=.* unset RAY_ADDRESS"):
        check_address(address, import_ray)


@pytest.mark.ray
def test_an_address_where_something_else_is_is_one_line(silent: str) -> None:
    """What takes the connection and does not speak as Ray does is no cluster."""
    with pytest.raises(InputError, match="no Ray that answers"):
        check_address(silent, import_ray)


CHECK = """
import sys
from flows.ray_address import check_address
from flows.ray_cluster import import_ray
try:
    check_address(sys.argv[1], import_ray)
except Exception as error:
    print(error)
"""


@pytest.fixture
def guarded() -> Iterator[str]:
    """HOST:PORT of a server that answers as a Ray does that asks for a token, which is TOKEN."""
    import_ray()
    grpc = import_module("grpc")

    def answer(request: bytes, context: Any) -> bytes:
        if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "asks for a token that we lack; set RAY_AUTH_MODE=token here"),
        ({"RAY_AUTH_MODE": "token"}, ""),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere"},
            "RAY_AUTH_MODE asks for a token that we lack; set RAY_AUTH_MODE=token here and give this machine the token",
        ),
    ],
)
def test_a_cluster_that_asks_for_a_token_is_told_as_one(guarded: str, env: dict[str, str], said: str) -> None:
    """As one that 'ray start' starts does; Ray itself sends none to an address unless told to, and tries for long."""
    unset = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"}
    command = [sys.executable, "-c", CHECK, guarded]
    done = subprocess.run(
        command, env={**unset, "RAY_AUTH_TOKEN": TOKEN, **env}, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == bool(said)
    assert said in done.stdout
    assert TOKEN not in done.stdout + done.stderr


@pytest.fixture
def three_nodes() -> Iterator[Any]:
    """A cluster of three nodes with a processor each, all on this machine."""
    import_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    for process in psutil.Process().children(recursive=True):  # which takes a second, where a shutdown takes many
        if "ray" in process.name() or "/ray/" in " ".join(process.cmdline()) or process.name() == "gcs_server":
            process.kill()


@pytest.mark.ray
def test_on_three_nodes_a_stopped_actor_is_replaced(start: Callable[..., Run], three_nodes: Any) -> None:
    """RAY_ADDRESS names the cluster, whose nodes have a worker each. The one that hangs is told once, with why, and
    ended; every item has its scores. The limit is shortened to seconds.
    """
    run = start("cluster", *SLOWLY, main=IMPATIENT, RAY_ADDRESS=three_nodes.address)
    run.wait_for("three models", lambda: run.lines().count("has loaded the model") == 3)
    actor = actors_of(psutil.Process())[0]
    actor.send_signal(signal.SIGSTOP)
    assert run.finish() == 0, run.lines()
    assert "hangs (it has not answered for about" in run.lines()
    assert not psutil.wait_procs([actor], timeout=30)[1]
    assert pl.read_parquet(run.out / "scores" / "scores.parquet")["item_id"].n_unique() == NUM_ROWS


def test_a_signal_to_a_forked_child_is_none_to_its_parent() -> None:
    """A child inherits the pipe of the deadline: without more its signals would end the run that forked it."""
    forking = textwrap.dedent("""
        import os, signal, time
        from flows import deadline
        signal.signal(signal.SIGTERM, lambda *_: None)
        with deadline.stop_in_time():
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                os.write(writing, b"up")
                time.sleep(600)
            os.read(reading, 2)
            os.kill(child, signal.SIGTERM)
            time.sleep(1)
            print(deadline.ASKED.is_set(), flush=True)
            os.kill(child, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
            print(deadline.ASKED.is_set(), flush=True)
            os._exit(0)
    """)
    done = subprocess.run([sys.executable, "-c", forking], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_second_stop_of_serve_leaves_no_run_behind() -> None:
    """Whatever serve and the runs that it has started are doing: they are ended two seconds later."""
    serving = "import asyncio, subprocess, flows.serving as s\n" + textwrap.dedent("""
        async def serve():
            with s._stop_event() as stop:
                print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
                await stop.wait()
                print("asked", flush=True)
                await asyncio.sleep(600)
        asyncio.run(serve())
    """)
    with subprocess.Popen([sys.executable, "-c", serving], stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout
        at_work = psutil.Process(int(served.stdout.readline()))
        served.terminate()
        assert served.stdout.readline() == "asked\n"
        served.terminate()
        assert served.wait(timeout=100) == 0
    assert not psutil.wait_procs([at_work], timeout=30)[1]
