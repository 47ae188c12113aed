"""Schedules: a deployment of the flow on a Prefect server, served from this process or by a work pool.

Invariant: of one deployment never more than one run is at work (the others wait their turn), and a run whose processes
are gone does not stay `Running`: its heartbeats stop, and the server's automation marks it crashed.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL, get_current_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.options import Schedule
from flows.patience import server_explained
from flows.run import score_dataset
from flows.server import fit_prefect
from flows.serving import refused_deployment, serve_until_stopped
from flows.terminal import say
from pipeline.bundled import MODELS, SAMPLE, named_model
from pipeline.checks import refuse_forbidden
from pipeline.config import RunConfig
from pipeline.errors import InputError, RunError
from pipeline.reading.places import existing_path
from pipeline.reading.splits import SPLITS

AUTOMATION = "labelscore: end runs without heartbeat"
MISSED_HEARTBEATS = 3


def serve(config: RunConfig, when: Schedule) -> None:
    """Serve the flow from this process until it is stopped: runs start by the schedule, or from Prefect's UI.

    Raises InputError where the schedule is none, RunError where the server refuses the deployment, now or later.
    """
    named_model(config.model)  # out of a wheel here: the runs start in another folder
    deployment = make_deployment(config, when)
    _describe(deployment)
    serve_until_stopped(deployment, watch_heartbeats)


def deploy(config: RunConfig, pool: str, when: Schedule) -> None:
    """Register a deployment whose runs the workers of the work pool `pool` start, and return.

    Raises InputError where the pool does not exist or the schedule is none.
    """
    with server_explained():
        _need_pool(pool)
        deployment = make_deployment(config, when)
        watch_heartbeats()
        try:
            deployment.apply(work_pool_name=pool)
        except DeploymentApplyError as error:
            raise RunError(refused_deployment(error)) from None
    _describe(deployment)
    say(f"start a worker with: prefect worker start --pool {pool}")


def _need_pool(pool: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise InputError(
                f"no work pool '{pool}' on the Prefect server; make it with "
                f"'prefect work-pool create {pool} --type process'"
            ) from None


def make_deployment(config: RunConfig, when: Schedule) -> RunnerDeployment:
    """The deployment of a configuration: its parameters, its schedule, and one run at a time.

    Raises InputError for no schedule, and for what this environment forbids.
    """
    config = fit_prefect(from_anywhere(config))
    refuse_forbidden(config)
    try:
        deployment = score_dataset.to_deployment(
            name=when.name or config.output.rstrip("/").split("/")[-1],
            cron=when.cron,
            interval=when.interval,
            parameters={"config": config.model_dump(mode="json")},
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"no schedule that Prefect understands: {reason}; try --cron '0 6 * * *'") from None
    return cast(RunnerDeployment, deployment)


def from_anywhere(config: RunConfig) -> RunConfig:
    """The configuration with whole paths: the runs of a deployment start in a folder of Prefect's choice."""
    changes: dict[str, Any] = {}
    if "://" not in config.output:
        changes["out"] = str(Path(config.output).expanduser().absolute())
    for key, known in (("dataset", (SAMPLE,)), ("model", MODELS)):
        path = existing_path(getattr(config, key))
        if path is not None and getattr(config, key) not in known:
            changes[key] = str(path.absolute())
    if config.task_path is not None:
        changes["task_path"] = str(Path(config.task_path).expanduser().absolute())
    shots, cut, rest = config.shots_split.partition("[")
    path = existing_path(shots)
    if config.num_shots and path is not None and shots.lower() not in SPLITS:
        changes["shots_split"] = f"{path.absolute()}{cut}{rest}"
    return config.model_copy(update=changes)


def watch_heartbeats() -> dict[str, Any]:
    """Make the automation that marks a run crashed once its heartbeats stop, where there is none for their frequency.

    It is one for all deployments of the flow; also a step of prefect.yaml, which is why it returns a mapping.
    """
    seconds = MISSED_HEARTBEATS * (get_current_settings().flows.heartbeat_frequency or 180)
    heartbeat, begun = "prefect.flow-run.heartbeat", "prefect.flow-run.Running"
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "labelscore"},
        after={begun, heartbeat},  # one that is killed in its first second has sent none
        expect={heartbeat, *ends},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=seconds),
    )
    message = f"No heartbeat for {seconds} seconds: the processes of the run are gone."
    action = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    automation = AutomationCore(name=AUTOMATION, trigger=trigger, actions=[action])
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(AUTOMATION)
        terms = (trigger.after, trigger.within)
        if any(isinstance(k.trigger, EventTrigger) and (k.trigger.after, k.trigger.within) == terms for k in found):
            return {}  # a new one would forget the runs that the old one watches
        for known in found:
            client.delete_automation(known.id)
        client.create_automation(automation)
    return {}


def _describe(deployment: RunnerDeployment) -> None:
    full_name = f"{deployment.flow_name}/{deployment.name}"
    say(f"deployment '{full_name}'; to start a run now: prefect deployment run '{full_name}'")
    if PREFECT_UI_URL.value():
        say(f"the server's pages: {PREFECT_UI_URL.value()}")
