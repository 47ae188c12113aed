"""Kills where a server has a part: outputs in a bucket, the S3 server, the embedded Prefect server, `serve`.

Invariant: the servers are real ones on loopback. A run whose server was killed ends by itself: well, or in one line.
"""

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.flows.buckets import client
from tests.flows.kill_bucket import BucketServer, serve_bucket_apart
from tests.flows.kill_checks import check_readable, compare
from tests.flows.kill_lab import Lab, Seen, local_files, survivors, wait_until
from tests.flows.kill_local import (
    PUBLISHING,
    RUN,
    SAMPLE,
    SCORING,
    Chain,
    readable,
    run_command,
    undisturbed_run,
    wanted,
    writing,
)
from tests.flows.runs import Run, embedded_servers, wait_for

BUCKET = "kills"

# Outputs in a bucket


def bucket(lab: Lab) -> BucketServer:
    """The lab's S3 server."""
    if lab.bucket is None:
        recording = lab.folder / f"requests-{secrets.token_hex(4)}"
        lab.bucket = lab.running.enter_context(serve_bucket_apart(BUCKET, recording))
    return lab.bucket


def _prefix(folder: Path) -> str:
    return f"{folder.name}/out/"


def _listed(lab: Lab, folder: Path) -> dict[str, object]:
    """What tells each object from any other, by its name under the folder."""
    found = client(bucket(lab).env).list_objects_v2(Bucket=BUCKET, Prefix=_prefix(folder)).get("Contents", [])
    prefix = len(folder.name) + 1
    return {each["Key"][prefix:]: (each["ETag"], each["LastModified"].isoformat()) for each in found}


def _download(lab: Lab, folder: Path) -> None:
    """The bucket as a local output, to be read as one."""
    s3 = client(bucket(lab).env)
    for name in _listed(lab, folder):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(BUCKET, f"{folder.name}/{name}", str(target))


def _machine(lab: Lab, folder: Path, number: int) -> Mapping[str, str | None]:
    """The environment of every other run is that of another machine, as far as its mirror goes."""
    return {**bucket(lab).env, "XDG_CACHE_HOME": str(folder / f"machine-{number % 2}")}


def _readable_bucket(lab: Lab, folder: Path) -> list[str]:
    _download(lab, folder)
    wrong = check_readable(folder / "out")
    torn = [name for name in _listed(lab, folder) if ".tmp-" in name or ".labelscore" in name]
    return [*wrong, *(f"{name} is in the bucket" for name in torn)]


def _same_scores_in_bucket(lab: Lab, folder: Path, number: int) -> list[str]:
    with _environment(_machine(lab, folder, number)):
        return compare(f"s3://{BUCKET}/{_prefix(folder)}", undisturbed_run(lab), wanted(number))


@contextmanager
def _environment(env: Mapping[str, str | None]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({name: value for name, value in env.items() if value is not None})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


S3 = Chain(
    "s3",
    lambda lab, folder: None,
    lambda folder, number: run_command(f"s3://{BUCKET}/{_prefix(folder)}", wanted(number)),
    {
        "at the start": (lambda seen: True, 1.0),
        "while planning": (partial(Seen.says, words="pulled"), 0.2),
        "at the very first write": (writing("out/store/*"), 0.05),
        "while scoring": (partial(Seen.says, words="scored 4 of"), 0.3),
        "while the tables are written": (writing("out/runs/*"), 0.3),
        "while the report is written": (writing("out/runs/*/report/*"), 0.1),
        "before the switch": (writing("out/runs/*/manifest.json"), 0.02),
        "after the switch": (writing("out/manifest.json"), 0.1),
        "at the end": (writing("out/report/*"), 0.3),
    },
    _readable_bucket,
    _same_scores_in_bucket,
    env=_machine,
    files=_listed,
)


def _new_bucket(lab: Lab, folder: Path) -> None:
    """A server that has been asked for nothing: it has to be asked for all of it again after each kill."""
    if lab.bucket is not None:
        lab.bucket.close()
        lab.bucket = None


def _restart_bucket(lab: Lab, run: Run) -> bool:
    if not run.alive():
        return False
    bucket(lab).kill()
    bucket(lab).start()
    return True


S3_SERVER = replace(S3, kind="s3 server", prepare=_new_bucket, victim=_restart_bucket)


# The embedded Prefect server


def _own_server(lab: Lab, folder: Path, number: int) -> Mapping[str, str | None]:
    return {"PREFECT_API_URL": None, "PREFECT_HOME": str(lab.folder / "embedded")}


def _kill_embedded(lab: Lab, run: Run) -> bool:
    servers = embedded_servers(run.pid)
    for server in servers:
        psutil.Process(server).kill()
    return bool(servers)


EMBEDDED_RUN = replace(RUN, kind="run with its server", env=_own_server)
EMBEDDED_SERVER = replace(
    EMBEDDED_RUN,
    kind="embedded server",
    instants={**SCORING, **PUBLISHING, "at the start": (lambda seen: True, 5.0)},
    victim=_kill_embedded,
    waits={"flows.patience.SECONDS_SILENT": 6.0, "flows.patience.SECONDS_A_TRY": 3.0},  # else most of a minute a kill
)


# Schedules

FREQUENT = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
WITHOUT_OR_WITH = {"without a run": 4, "with a run at work": 4, "together with its run": 1}  # the last takes minutes
LONGEST_STATE = 200  # seconds: three heartbeats and the automation's own rounds
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def kill_serve(lab: Lab, draws: random.Random, folder: Path, num_kills: int) -> None:
    """Kill `serve` without a run, with one at work, or together with that: no process stays, no run is `Running` for
    ever, and a new `serve` goes on.
    """
    folder.mkdir()
    for number in range(num_kills):
        _kill_serve(lab, draws, folder, number)
    name = folder.name
    served = _start_serve(lab, folder, "last.log")
    with httpx.Client(base_url=lab.env["PREFECT_API_URL"], timeout=60) as api:
        run_id = _create_run(api, name)
        state = _wait_for_end(api, run_id)
    served.send(signal.SIGTERM)
    code = served.wait()
    lab.outcome.undisturbed += 1
    wrong = [] if state == "COMPLETED" else [f"a run of the new serve is {state}: {served.said()[-500:]}"]
    wrong += [] if code == 0 else [f"exit code {code} when it was stopped: {served.said()[-500:]}"]
    wrong += compare(folder / "out", undisturbed_run(lab), wanted(0)) if not wrong else []
    wrong += survivors(served)
    lab.outcome.wrong += [f"serve, undisturbed at last ({name}): {what}" for what in wrong]


def _start_serve(lab: Lab, folder: Path, log: str) -> Run:
    options = ["--out", str(folder / "out"), "--limit", str(wanted(0)), *SAMPLE]
    served = lab.nursery.start(
        ["serve", "--name", folder.name, "--interval", "86400", *options], folder / log, env=FREQUENT
    )
    wait_for(served, "serving")
    return served


def _kill_serve(lab: Lab, draws: random.Random, folder: Path, number: int) -> None:
    where = draws.choices(list(WITHOUT_OR_WITH), list(WITHOUT_OR_WITH.values()))[0]
    seconds = draws.uniform(0, 1.0)
    served = _start_serve(lab, folder, f"{number}.log")
    run_id = None
    with httpx.Client(base_url=lab.env["PREFECT_API_URL"], timeout=60) as api:
        if where != "without a run":
            run_id = _create_run(api, folder.name)
            seen = Seen(served, partial(local_files, folder), local_files(folder))
            wait_until(seen, writing("out/*"), seconds)
        else:
            time.sleep(seconds)
        children = psutil.Process(served.pid).children(recursive=True) if where == "together with its run" else []
        served.send(signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        killed = served.wait() == -signal.SIGKILL
        lab.count("serve", where, killed, f"+ {seconds:.3f} s")
        state = _wait_for_end(api, run_id) if run_id else "COMPLETED"
    wrong = [] if state in OVER else [f"its run is still {state} after {LONGEST_STATE} s"]
    lab.note("serve", where, served, [*wrong, *survivors(served, 60), *readable(lab, folder)])


def _create_run(api: httpx.Client, name: str) -> str:
    deadline = time.monotonic() + 60
    while (found := _ask(api, "GET", f"/deployments/name/labelscore/{name}")).is_error and time.monotonic() < deadline:
        time.sleep(0.1)
    deployment = _checked(found)["id"]
    return str(_checked(_ask(api, "POST", f"/deployments/{deployment}/create_flow_run", json={}))["id"])


def _wait_for_end(api: httpx.Client, run_id: str) -> str:
    """The type of a run's last state, or of the one that it is in for too long."""
    deadline = time.monotonic() + LONGEST_STATE
    while (state := str(_checked(_ask(api, "GET", f"/flow_runs/{run_id}"))["state_type"])) not in OVER:
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    return state


def _ask(api: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    """What the server answers; asked again while its database is busy, as Prefect's own client does."""
    deadline = time.monotonic() + 60
    while (answer := api.request(method, path, **more)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def _checked(answer: httpx.Response) -> Any:
    answer.raise_for_status()
    return answer.json()
