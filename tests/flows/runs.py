"""Runs of the command in processes of their own, to be killed, started side by side, or given little disk.

Invariant: nothing is simulated. A run is the command's own `main` in a process with its own session; most are forked
from a `Nursery` that has made the imports already, because those are most of the work of a run this small.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LONGEST_RUN = 300  # seconds; only a run that hangs meets it
IMPORTS = (  # of a run with the bundled model, some of which it would make late
    "flows.run",
    "flows.command",
    "pandas",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pipeline.reporting.compare_sections",
    "pipeline.storing.upkeep",
    "sentencepiece",
    "transformers.generation.utils",
    "transformers.models.gemma.modeling_gemma",
    "transformers.models.gemma.tokenization_gemma",
)


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a dead one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Run:
    """A run of the command in a process of its own; what it prints goes to the file `log`."""

    def __init__(self, pid: int, log: Path, wait: Callable[[], int]) -> None:
        self.pid = pid
        self.log = log
        self._wait = wait

    def said(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def alive(self) -> bool:
        """Whether it still runs."""
        return is_alive(self.pid)

    def send(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end: the exit code, or minus the signal that ended it. Raises TimeoutError where it hangs."""
        deadline = time.monotonic() + LONGEST_RUN
        while self.alive():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"a run hung: {self.said()[-2000:]}")
            time.sleep(0.01)
        return self._wait()

    def leftovers(self) -> list[str]:
        """Command lines of processes that it left behind (those of its session, and servers started for it)."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error, ProcessLookupError):
                ours = os.getsid(process.pid) == self.pid or process.environ().get("LABELSCORE_RUN") == str(self.log)
                if ours and process.pid != self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.info["cmdline"] or []))
        return found


def embedded_servers(run: int) -> set[int]:
    """The processes of the Prefect servers that a process has started; a run has one, a process of tests several."""
    found = set()
    for child in psutil.Process(run).children():
        with suppress(psutil.Error):  # it may just end
            if "flows.embedded" in child.cmdline():
                found.add(child.pid)
    return found


def start_command(argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path = ROOT) -> Run:
    """Start the command as a user does: a new interpreter."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *argv],
            cwd=cwd,
            env={**env, "PYTHONPATH": str(ROOT), "LABELSCORE_RUN": str(log)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Run(process.pid, log, process.wait)


def wait_for(run: Run, words: str) -> None:
    """Wait until the run has printed `words`."""
    while run.alive() and words not in run.said():
        time.sleep(0.002)


class Nursery:
    """A process that has imported all a run needs, and forks runs of the command; several may be alive at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.runs"],
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        max_file_bytes: int | None = None,
        env: Mapping[str, str | None] | None = None,
        waits: Mapping[str, float] | None = None,
    ) -> Run:
        """Fork a run; with `max_file_bytes` no file that it writes may be larger (RLIMIT_FSIZE).

        `env`: what its environment has besides the nursery's, or in its place; None takes a variable away. `waits`:
        seconds to wait that are cut short in this run, by module and name.
        """
        options = {"max_file_bytes": max_file_bytes, "env": dict(env or {}), "waits": dict(waits or {})}
        pid = self._ask({"argv": list(argv), "log": str(log), **options})
        return Run(pid, log, lambda: os.waitstatus_to_exitcode(self._ask({"wait": pid})))

    def _ask(self, request: Mapping[str, object]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it; runs that are alive go on."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve_nursery() -> None:
    """Fork a run for each request on standard input, until it closes."""
    for name in IMPORTS:
        import_module(name)
    from flows.cli import main

    sys.argv[:] = ["labelscore"]
    gc.freeze()  # a fork that ends would look through all that was imported, and copy it in doing so
    # A line at a time and unbuffered: a fork must not inherit requests that are read but not served.
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            print(os.waitpid(request["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become_run(request)
            sys.exit(main(request["argv"]))
        print(pid, flush=True)


def _become_run(request: Mapping[str, object]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if isinstance(limit := request["max_file_bytes"], int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.environ["LABELSCORE_RUN"] = str(request["log"])
    if isinstance(env := request["env"], dict) and env:
        _change_environment(env)
    if isinstance(waits := request["waits"], dict):
        for name, seconds in waits.items():
            module, _, wait = name.rpartition(".")
            setattr(import_module(module), wait, seconds)


def _change_environment(env: Mapping[str, str | None]) -> None:
    """Change the environment of this process, and let Prefect, which has read it, read it again."""
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import Settings

    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    SettingsContext(profile=get_settings_context().profile, settings=Settings()).__enter__()


@contextmanager
def quiet_server(home: Path) -> Iterator[dict[str, str]]:
    """One Prefect server for many runs; yields the environment that names it."""
    from flows.embedded import prefect_server
    from flows.server import QUIET_SETTINGS

    env = {**os.environ, **QUIET_SETTINGS, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in ("PREFECT_API_URL", "HF_TOKEN"):
        env.pop(name, None)
    with ExitStack() as running:
        with _environment(env):
            url = running.enter_context(prefect_server())()
        yield {**env, "PREFECT_API_URL": url}


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    serve_nursery()
