"""Schedules on a real Prefect server: what fires, what a run after a change or a kill does, what the server refuses.

Invariant of these tests: the server, its database and everything served live in a temporary folder on loopback.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import httpx
import polars as pl
import psutil
import pytest

from pipeline.bundled import sample_path
from tests.conftest import README, ROOT
from tests.flows.receiver import Receiver, receiver

pytestmark = pytest.mark.server
SECRET = "recognisable-webhook-secret"


class PatientClient(httpx.Client):
    """A server whose database is locked for a moment answers 503; it is asked again, as Prefect's own client does."""

    def request(self, *arguments: Any, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + 60
        while (answer := super().request(*arguments, **options)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.5)
        return answer


@dataclass
class Server:
    """A Prefect server and what was started beside it; `env` leads processes to it."""

    env: dict[str, str]
    api: httpx.Client
    folder: Path
    receiver: Receiver
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, log: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=self.env, stdout=output, stderr=output
            )
        self.started.append(process)
        return process

    def start_server(self) -> "subprocess.Popen[bytes]":
        port = self.env["PREFECT_API_URL"].split(":")[-1].partition("/")[0]
        process = self.start("server.log", "prefect", "server", "start", "--port", port)
        wait_for("the server", lambda: is_up(self.api))
        return process

    def run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=cwd or self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self.api.post(path, json=body or {})
        assert answer.status_code < 300, answer.text
        return answer.json()

    def deployment(self, name: str) -> dict[str, Any]:
        found = self.api.get(f"/deployments/name/labelscore/{name}").json()
        assert isinstance(found, dict)
        return found

    def runs(self, name: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.post("/flow_runs/filter", body))

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))


T = TypeVar("T")


def wait_for(what: str, find: Callable[[], T], seconds: float = 240) -> T:
    """The first true result; the limit is for a machine under load and no claim."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the tests' own, with its usual waits cut short. All that was started beside it ends with it."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    with receiver() as listening:
        env = {
            **os.environ,
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "LABELSCORE_FAILURE_WEBHOOK": f"{listening.address}/{SECRET}",
            "HF_HUB_OFFLINE": "1",
        }
        with PatientClient(base_url=env["PREFECT_API_URL"], timeout=60) as api:
            found = Server(env, api, folder, listening)
            try:
                found.start_server()
                yield found
            finally:
                for process in reversed(found.started):
                    end(process)


def is_up(api: httpx.Client) -> bool:
    try:
        return api.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all below it."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for member in family:
            member.kill()
    process.wait()


def flow_process(served: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """The process of the run that a served deployment has at work."""
    children = psutil.Process(served.pid).children(recursive=True)
    return next((child for child in children if "prefect.engine" in child.cmdline()), None)


def write_rows(path: Path, num_rows: int) -> None:
    """The first rows of the sample, over and over with a number; in one rename, as whoever delivers data should."""
    sample = pl.read_ndjson(sample_path("test"))
    rows = pl.concat([sample.with_columns(pl.col("text") + f" {part}") for part in range(-(-num_rows // len(sample)))])
    rows.head(num_rows).write_parquet(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def configure(folder: Path, name: str, num_rows: int) -> Path:
    write_rows(folder / f"{name}.parquet", num_rows)
    config = folder / f"{name}.toml"
    config.write_text(f'dataset = "{name}.parquet"\nlabel_names = "ag_news"\nout = "{name}"\nshard_size = 100\n')
    return config


def history(out: Path) -> pl.DataFrame:
    """The finished runs of an output, oldest first."""
    path = out / "history.parquet"
    if not path.is_file():
        return pl.DataFrame({"num_items": [], "num_scored": []})
    return pl.read_parquet(path).filter("headline").sort("finished")


def parts(out: Path) -> int:
    return len(list(out.glob("store/*/*.parquet")))


@pytest.fixture(scope="module")
def zombie(server: Server) -> str:
    """The name of a deployment whose run was cut off by a power failure: run, runner and server were killed at once.

    The server is up again; nobody tells it what became of the run.
    """
    configure(server.folder, "zombie", 20_000)
    served = server.start("zombie.log", "flows.cli", "serve", "zombie.toml", "--interval", "3600")
    wait_for("the deployment", lambda: "id" in server.deployment("zombie"))
    server.post(f"/deployments/{server.deployment('zombie')['id']}/create_flow_run")
    wait_for("scores", lambda: parts(server.folder / "zombie") > 0)
    process = flow_process(served)
    assert process
    [database] = [started for started in server.started if "server" in str(started.args)]
    for killed in (served, process, database):
        killed.kill()
    database.wait()
    server.start_server()
    [_] = [run for run in server.runs("zombie") if run["state_type"] == "RUNNING"]
    return "zombie"


def test_a_schedule_scores_what_is_new_whatever_happens(server: Server, zombie: str) -> None:
    """Two runs fire by themselves and the second scores nothing; appended rows are scored and no others; after a
    SIGKILL of a run the next one completes the table, and the kill is told to the webhook."""
    folder, out = server.folder, server.folder / "news"
    config = configure(folder, "news", 60)
    served = server.start("serve.log", "flows.cli", "serve", str(config), "--interval", "8")
    wait_for("two runs", lambda: history(out).height >= 2)
    assert history(out)["num_scored"].head(2).to_list() == [63, 0]  # 3 content-free texts with the first

    write_rows(folder / "news.parquet", 100)
    wait_for("a run over the new rows", lambda: 100 in history(out)["num_items"])
    assert history(out)["num_scored"].sum() == 103

    before = parts(out)
    write_rows(folder / "news.parquet", 6_000)
    wait_for("scores of the new rows", lambda: parts(out) > before)
    process = flow_process(served)
    assert process
    process.send_signal(signal.SIGKILL)
    assert 6_000 not in history(out)["num_items"]
    wait_for("the next run", lambda: 6_000 in history(out)["num_items"])
    assert 0 < history(out)["num_scored"].max() < 5_900  # the killed run's parts were not scored again

    scores = pl.read_parquet(out / "scores" / "scores.parquet")
    assert scores.select("item_id", "prompt", "label_id").unique().height == scores.height == 4 * 6_000
    crashed = wait_for("the crash", lambda: [run for run in server.runs("news") if run["state_type"] == "CRASHED"])
    assert len(crashed) == 1
    told = wait_for("the webhook", lambda: [body for _, body in server.receiver.posted])
    assert [(body["what"], body["output"]) for body in told] == [("crashed", str(out))]
    end(served)


def test_the_five_commands_of_the_readme(server: Server) -> None:
    """As they stand there, but for the port: a server of this address, then a run of what the third one wrote."""
    _, address, write, serve, start = README.partition("## Every night")[2].partition("```sh\n")[2].splitlines()[:5]
    assert "PREFECT_API_URL=http://127.0.0.1:4200/api" in address
    subprocess.run(write, shell=True, cwd=server.folder, check=True)
    served = server.start("five.log", "flows.cli", *shlex.split(serve)[1:])
    wait_for("the line", lambda: "serving; stop with Ctrl-C" in (server.folder / "five.log").read_text())
    server.run(*shlex.split(start))
    wait_for("its run", lambda: history(server.folder / "nightly")["num_items"].to_list() == [100])
    end(served)


def test_no_two_runs_of_a_deployment_work_at_once(server: Server) -> None:
    """Its limit is one, and what comes too early waits its turn."""
    found = server.deployment("news")
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    runs = [run for run in server.runs("news") if run["start_time"] and run["end_time"]]
    for earlier, later in pairwise(sorted(runs, key=lambda run: str(run["start_time"]))):
        assert earlier["end_time"] <= later["start_time"]


def test_each_run_shows_its_artifacts_and_its_lines(server: Server) -> None:
    """Progress, table, report and link are in the UI, and so are our lines; the webhook's address is nowhere."""
    begun = [run for run in server.runs("news") if run["start_time"]]
    first = min(begun, key=lambda run: str(run["start_time"]))  # the one that scored, whichever was due first
    artifacts = server.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [first["id"]]}}})
    kinds = {artifact["key"].removeprefix("labelscore-").partition("-")[0]: artifact for artifact in artifacts}
    assert kinds.keys() == {"progress", "accuracy", "report", "page"}
    assert all("-news-" in artifact["key"] for artifact in artifacts)
    assert kinds["page"]["data"] == f"```\n{server.folder}/news/report/report.html\n```"  # no link: it opens nowhere
    lines = server.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [first["id"]]}}})
    assert "pulled 60 items" in {line["message"] for line in lines}
    assert SECRET not in server.logs() + str(server.post("/logs/filter"))
    assert SECRET not in str(server.runs("news")) + str(server.deployment("news"))


def test_a_deployment_that_the_server_lost_is_registered_again(server: Server) -> None:
    """Whoever removed it: with its schedule, its limit and the pause that was made on Prefect's pages. A run made at
    the instant at which it says that it serves is started."""
    configure(server.folder, "again", 20)
    served = server.start("again.log", "flows.cli", "serve", "again.toml", "--cron", "0 6 * * *")
    said = server.folder / "again.log"
    wait_for("the line", lambda: "serving; stop with Ctrl-C" in said.read_text())
    first = server.deployment("again")
    server.post(f"/deployments/{first['id']}/create_flow_run")
    wait_for("its run", lambda: history(server.folder / "again").height == 1)

    server.api.post(f"/deployments/{first['id']}/pause_deployment")
    time.sleep(20)  # it is looked at meanwhile
    assert server.deployment("again")["paused"]
    server.api.delete(f"/deployments/{first['id']}")
    wait_for("another one", lambda: server.deployment("again").get("id", first["id"]) != first["id"])
    again = server.deployment("again")
    assert again["paused"]
    assert again["schedules"][0]["schedule"]["cron"] == "0 6 * * *"
    assert again["global_concurrency_limit"]["limit"] == 1
    wait_for("the line", lambda: "no longer had the deployment 'labelscore/again': registered" in said.read_text())
    assert "Traceback" not in said.read_text()
    assert served.poll() is None


def test_a_run_that_serve_takes_along_does_not_stay_running(server: Server) -> None:
    """Its heartbeats would be missed after minutes, and the next run would wait for it."""
    configure(server.folder, "taken", 6_000)
    served = server.start("taken.log", "flows.cli", "serve", "taken.toml", "--cron", "0 6 * * *")
    wait_for("the line", lambda: "serving; stop with Ctrl-C" in (server.folder / "taken.log").read_text())
    server.post(f"/deployments/{server.deployment('taken')['id']}/create_flow_run")
    wait_for("scores", lambda: parts(server.folder / "taken"))
    served.send_signal(signal.SIGTERM)
    assert served.wait(timeout=100) == 0
    (stopped,) = [run for run in server.runs("taken") if run["start_time"]]
    assert stopped["state_type"] == "CANCELLED"
    assert "Traceback" not in (server.folder / "taken.log").read_text()


def test_a_mistake_in_a_form_is_one_line_in_the_log_of_its_run(server: Server) -> None:
    """What the schema cannot refuse fails as `labelscore run` would, and no traceback says it again."""
    found = server.deployment("again")
    config = {**found["parameters"]["config"], "prompt": ["nosuch"]}
    made = server.post(f"/deployments/{found['id']}/create_flow_run", {"parameters": {"config": config}})
    query = {"logs": {"flow_run_id": {"any_": [made["id"]]}}, "sort": "TIMESTAMP_ASC"}

    def failed() -> dict[str, Any] | None:
        return next((r for r in server.runs("again") if r["id"] == made["id"] and r["state_type"] == "FAILED"), None)

    end_of_it = wait_for("its end", failed)
    assert end_of_it
    assert "InputError: unknown prompt 'nosuch'" in end_of_it["state"]["message"]
    logged = wait_for("its log", lambda: [line for line in server.post("/logs/filter", query) if line["level"] >= 40])
    assert logged[0]["message"].startswith("unknown prompt 'nosuch'; ")
    assert not any("Traceback" in line["message"] for line in server.post("/logs/filter", query))
    assert "Traceback" not in (server.folder / "again.log").read_text()
    end(server.started[-1])


@pytest.mark.parametrize(
    "bad",
    [{"limit": -1}, {"limit": "many"}, {"workers": 0}, {"no_such_key": 1}, {"device": "tpu"}, {"prompt": []}],
    ids=lambda bad: next(iter(bad)),
)
def test_the_server_refuses_nonsense(server: Server, bad: dict[str, Any]) -> None:
    """The configuration's model is the deployment's schema: a run with a bad parameter is never made."""
    found = server.deployment("news")
    config = {**found["parameters"]["config"], **bad}
    answer = server.api.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": {"config": config}})
    assert answer.status_code in (409, 422), answer.text


def test_the_form_explains_each_field(server: Server) -> None:
    """What the UI makes its form from carries the descriptions of `labelscore run --help`."""
    schema = server.deployment("news")["parameter_openapi_schema"]
    fields = schema["definitions"]["RunConfig"]["properties"]
    assert fields["limit"]["description"] == "score the first N rows only, or documents of each task"


def test_a_work_pool_runs_a_deployment(server: Server) -> None:
    """`labelscore deploy` and a worker of a process pool: a run started by hand ends with a report."""
    server.run("prefect", "work-pool", "create", "news-pool", "--type", "process")
    config = configure(server.folder, "pooled", 20)
    printed = server.run("flows.cli", "deploy", str(config), "--pool", "news-pool", "--cron", "0 6 * * *")
    assert "prefect worker start --pool news-pool" in printed
    assert server.deployment("pooled")["schedules"][0]["schedule"]["cron"] == "0 6 * * *"
    server.run("prefect", "deployment", "run", "labelscore/pooled")
    server.start("worker.log", "prefect", "worker", "start", "--pool", "news-pool")
    wait_for("the run", lambda: history(server.folder / "pooled").height == 1)


def test_the_tracked_deployment_can_be_deployed(server: Server) -> None:
    """prefect.yaml is complete: its deployment has the limit, the schedule and the parameters it says."""
    server.run("prefect", "work-pool", "create", "labelscore", "--type", "process")
    server.run("prefect", "--no-prompt", "deploy", "--all", cwd=ROOT)
    found = server.deployment("nightly")
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert found["work_pool_name"] == "labelscore"
    assert found["parameters"]["config"]["dataset"] == "sample"
    assert found["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]


def test_a_run_without_processes_is_marked_crashed(server: Server, zombie: str) -> None:
    """Its heartbeats stop, the automation ends it, and the deployment's slot is free again."""
    found = wait_for("the automation", lambda: [run for run in server.runs(zombie) if run["state_type"] == "CRASHED"])
    assert "No heartbeat" in found[0]["state"]["message"]
    limit = server.deployment(zombie)["global_concurrency_limit"]
    assert limit["active_slots"] == 0
