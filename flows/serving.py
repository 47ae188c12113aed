"""Serving a deployment from this process: Prefect's runner, which a lost server does not end, nor a lost database.

Invariant: while this process lives its deployment is on the server that answers, or its last line says why not. What
was changed on Prefect's pages stays: a deployment that is there is only looked at.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from json import JSONDecodeError
from uuid import UUID

import anyio
import httpx
from prefect import get_client
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled

from flows.deadline import SECONDS_AFTER_SECOND
from flows.patience import bare, server_explained, without_passwords
from flows.processes import descendants, kill
from flows.server import explain_refusal, is_passing
from flows.stopping import SIGNALS
from flows.terminal import say, warn
from pipeline.errors import RunError

SECONDS_BETWEEN_CHECKS = 15.0  # of whether the deployment is still there
SECONDS_TO_ANSWER = 20.0
SECONDS_TO_END, SECONDS_TO_END_RUNS = 8.0, 9.0  # the second where runs are at work, which are ended first


def serve_until_stopped(deployment: RunnerDeployment, watch: Callable[[], object]) -> None:
    """Start the deployment's runs from this process until Ctrl-C or SIGTERM.

    `watch` makes what else the server needs, where it is not there. Raises RunError where the server refuses us.
    """
    keep_lost_connections_quiet()
    with suppress(KeyboardInterrupt), server_explained(), looking_until_answered():
        failure = asyncio.run(_serve(deployment, watch))
        if failure is not None:
            raise failure


def keep_lost_connections_quiet() -> None:
    """That the server is silent is told in a line of ours: what waited for it says no more, with a traceback."""
    for handler in logging.getLogger().handlers:  # Prefect's; a logger's own filter would not see those below it
        handler.addFilter(_without_lost_connections)


async def _serve(deployment: RunnerDeployment, watch: Callable[[], object]) -> RunError | None:
    """What ended it, None where it was asked to end. It is not raised here, where it would go through task groups."""
    failure: RunError | None = None
    runner = Runner(pause_on_shutdown=False)  # it would go through deployments that are gone
    async with get_client() as client, runner:
        served = Served(runner, client, deployment, watch)
        with _stop_event() as stop:
            try:
                async with anyio.create_task_group() as loops:
                    loops.start_soon(partial(served.every, SECONDS_BETWEEN_CHECKS, served.check))
                    loops.start_soon(partial(served.every, runner.query_seconds, served.start_runs))
                    await stop.wait()
                    loops.cancel_scope.cancel()
            except* RunError as group:
                failure = RunError(str(group.exceptions[0]))
        seconds = SECONDS_TO_END_RUNS if served.at_work else SECONDS_TO_END
        end_at_the_latest(seconds, RunError.exit_code if failure or served.is_silent else 0)
        await served.stop(seconds / 2)
    return failure


def end_at_the_latest(seconds: float, code: int) -> None:
    """A server that hangs must not keep what waits for its goodbye; no run is left behind."""
    seen = descendants()  # those whose parent ends first are nobody's children at the end

    def end() -> None:
        kill(seen | descendants())
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


@contextmanager
def looking_until_answered() -> Iterator[None]:
    """A look for runs that were cancelled, in pages, lasts until the server answers.

    Without this, three answers that do not come end for good what looks. The look is the class's, not one observer's:
    a runner makes its own, and hands its look on, while it starts.
    """
    look = FlowRunCancellingObserver._check_for_cancelled_flow_runs  # without types

    async def look_until_answered(observer: FlowRunCancellingObserver) -> None:
        while True:
            try:
                await look(observer)  # type: ignore[no-untyped-call]
                return
            except (httpx.HTTPError, JSONDecodeError):
                await anyio.sleep(observer.polling_interval)

    FlowRunCancellingObserver._check_for_cancelled_flow_runs = look_until_answered  # type: ignore[method-assign]
    try:
        yield
    finally:
        FlowRunCancellingObserver._check_for_cancelled_flow_runs = look  # type: ignore[method-assign]


@contextmanager
def _stop_event() -> Iterator[asyncio.Event]:
    """Set by the first signal; after the next one what is left of the runs and of this process ends hard.

    So it does where the first one is not got to, because what is under way cannot be given up.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask() -> None:
        # The first is a last resort: `_serve` sets a shorter limit, with its exit code, as soon as it can.
        end_at_the_latest(SECONDS_AFTER_SECOND if stop.is_set() else SECONDS_TO_END_RUNS + 0.5, 0)
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, ask)
    yield stop


class Served:
    """One deployment, the server it is on, and the runner that starts its runs."""

    def __init__(
        self, runner: Runner, client: PrefectClient, deployment: RunnerDeployment, watch: Callable[[], object]
    ) -> None:
        self._runner, self._client, self._deployment, self._watch = runner, client, deployment, watch
        self._id: UUID | None = None
        self._seen: DeploymentResponse | None = None
        self._is_told = False
        self.is_silent = False
        self._one_by_one = anyio.Lock()

    async def every(self, seconds: float, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask the server again and again. Raises RunError where it refuses for good."""
        while True:
            async with self._one_by_one:
                await self._asked(ask)
            await anyio.sleep(min(seconds, SECONDS_BETWEEN_CHECKS) if self.is_silent else seconds)

    async def _asked(self, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.fail_after(SECONDS_TO_ANSWER):
                await ask()
        except (httpx.TransportError, TimeoutError):
            self._fell_silent()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if not is_passing(status):
                raise RunError(explain_refusal(PREFECT_API_URL.value() or "", status)) from None
            self._fell_silent()
        except DeploymentApplyError as error:
            cause = error.__cause__
            is_passing_status = isinstance(cause, httpx.HTTPStatusError) and is_passing(cause.response.status_code)
            if not (is_passing_status or isinstance(cause, httpx.TransportError)):
                raise RunError(refused_deployment(error)) from None
            self._fell_silent()
        except (JSONDecodeError, ObjectNotFound):  # a page of a proxy's; gone again before it was looked at
            self._fell_silent()
        else:
            self._answered()

    def _fell_silent(self) -> None:
        if not self.is_silent:
            warn(f"the Prefect server at {bare(PREFECT_API_URL.value() or '')} does not answer; waiting for it")
        self.is_silent = True

    def _answered(self) -> None:
        if self.is_silent:
            warn("the Prefect server answers again")
        self.is_silent = False

    async def check(self) -> None:
        """See to it that the server has the deployment; register it where it is gone."""
        if self._id is None:
            await self._register()
            return
        try:
            self._seen = await self._client.read_deployment(self._id)
        except ObjectNotFound:
            self._answered()
            await self._register()
            paused = " (paused, as it was)" if self._deployment.paused else ""
            name = self._deployment.full_name
            warn(f"the Prefect server no longer had the deployment '{name}': registered again{paused}")

    async def _register(self) -> None:
        if (seen := self._seen) is not None:
            self._deployment.paused = seen.paused or (
                bool(seen.schedules) and not any(s.active for s in seen.schedules)
            )
        await anyio.to_thread.run_sync(self._watch, abandon_on_cancel=True)
        known = self._runner._deployment_registry
        new = await self._runner.aadd_deployment(self._deployment)
        if self._id is not None and self._id != new:
            known._deployment_ids.discard(self._id)
        self._id, self._seen = new, await self._client.read_deployment(new)

    async def start_runs(self) -> None:
        """Start the runs that are due; say once that this is done."""
        if self._id is None:
            return
        await self._runner._scheduled_run_poller._get_and_submit_flow_runs()
        if not self._is_told:
            self._is_told = True
            say("serving; stop with Ctrl-C")

    @property
    def at_work(self) -> list[UUID]:
        """The runs that are."""
        return list(self._runner._scheduled_run_poller._submitting_flow_run_ids)

    async def _say_stopped(self, run_id: UUID) -> None:
        """Or a run that was ended would be Running for the server until its heartbeats are missed."""
        state = (await self._client.read_flow_run(run_id)).state
        if state is None or not state.is_final():
            stopped: State[None] = Cancelled(
                message="'labelscore serve' was stopped; the next run goes on with what is stored"
            )
            await self._client.set_flow_run_state(run_id, stopped, force=True)

    async def stop(self, seconds: float) -> None:
        """End the runs at work, and pause the schedule, which nobody would serve; for so long at most."""
        at_work = self.at_work
        with anyio.move_on_after(seconds / 2), suppress(httpx.HTTPError, ObjectNotFound):
            if self._id is not None and not self.is_silent:
                await self._client.pause_deployment(self._id)
        with anyio.move_on_after(seconds / 2):
            await self._runner.astop()
        with anyio.move_on_after(seconds / 2), suppress(httpx.HTTPError, ObjectNotFound):
            for run_id in at_work:  # Prefect's runner would look for their end longer than this lasts
                await self._say_stopped(run_id)
        # As an interrupt would: what is still at work is ended on the way out, and not waited for.
        self._runner._runs_task_group.cancel_scope.cancel()


def refused_deployment(error: DeploymentApplyError) -> str:
    """That the server refuses a deployment, in one line."""
    said = without_passwords(" ".join(str(error).split()))
    return f"the Prefect server does not take the deployment: {said}"


def _without_lost_connections(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, httpx.TransportError | OSError) or type(error).__module__.startswith("websockets"))
