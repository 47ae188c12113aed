"""`labelscore run` and `labelscore choose`: a flow in this process, beside a Prefect server of the user's or our own.

Invariant: a mistake that can be seen without Prefect and torch is told before they are imported.
"""

import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar, cast

import httpx

from flows.as_json import print_json, report_data
from flows.deadline import ASKED, stop_in_time
from flows.embedded import prefect_server
from flows.hooks import post_failure
from flows.patience import ServerLost, end_without_goodbye, kept_results, patient_client, server_explained
from flows.ray_cluster import check_cluster
from flows.server import QUIET_SETTINGS, Config, find_server, fit_prefect, make_settings
from flows.startup import imports
from flows.stopping import lose_no_ctrl_c
from flows.terminal import LineHandler, err, paste, print_report, say, warn
from pipeline.checks import check_choice, check_run
from pipeline.choice_config import ChoiceConfig
from pipeline.config import RunConfig
from pipeline.errors import LabelscoreError, RunError
from pipeline.storing.layout import MANIFEST

T = TypeVar("T")

# What a run will import, besides its flow, to find out what a model is, and to score with it.
PLANNING = ("torch", "transformers.models.auto.configuration_auto")
SCORING = ("transformers.models.auto.modeling_auto", "pipeline.shard")


def run_command(config: RunConfig, *, as_json: bool = False) -> int:
    """Score a data set and show the report. Raises what the flow raises, and at once what can be seen to be wrong."""
    with _prefect(config, check_run, "flows.run") as fitted:
        from flows.run import score_dataset

        report, files = _finish(score_dataset, fitted)
    if as_json:
        print_json(report_data(report))
        return 0
    print_report(report)
    say("")
    for name in files:
        say(f"  {config.output.rstrip('/')}/{name}")
    return 0


def choose_command(config: ChoiceConfig, *, as_json: bool) -> int:
    """Choose a prompt and a rule, and show what that came to. Raises as `run_command` does."""
    with _prefect(config, check_choice, "flows.choose") as fitted:
        from flows.choose import choose_prompt

        record = _finish(choose_prompt, fitted)
    from flows.choice_terminal import print_choice
    from pipeline.choosing.shown import choice_json

    if as_json:
        paste(choice_json(record))
    else:
        print_choice(record, config.output)
    return 0


@contextmanager
def _prefect(config: Config, check: Callable[[Config], None], flow: str) -> Iterator[Config]:
    """A Prefect server and all that a flow in this process needs, for what the flow uses of the configuration.

    `flow` is the flow's module: it is imported while an embedded server starts.
    """
    make_settings(QUIET_SETTINGS)
    signal.signal(signal.SIGTERM, _interrupt)
    lose_no_ctrl_c()
    with stop_in_time():
        try:
            fitted = fit_prefect(config)
            check_cluster()
            check(config)
        except LabelscoreError as error:
            # There is no flow run yet that would tell it.
            post_failure("failed", config.output, str(error), config.title)
            raise
        warnings.filterwarnings("ignore", message="Failed to create the Prefect home")  # we say it in a line of our own
        _log_to_terminal()
        with _server(partial(_get_ready, flow, fitted)):
            yield fitted


def _get_ready(flow: str, config: RunConfig | ChoiceConfig) -> None:
    """Import what will be needed. Where a run has finished before, what scores can mostly wait."""
    is_again = isinstance(config, RunConfig) and not config.force and (Path(config.output) / MANIFEST).is_file()
    for module in (flow, *PLANNING, *(() if is_again else SCORING)):
        importlib.import_module(module)
    if not is_again:
        from pipeline.reporting.page import chart_bundle

        chart_bundle()  # a second, the first time on a machine


def _finish(flow: Callable[[Config], T], config: Config) -> T:
    """What a flow comes to, also where its server has gone while it ran. Raises what the flow raises."""
    with kept_results() as results, patient_client():
        try:
            with server_explained():
                return flow(config)
        except ServerLost as error:
            own = _reason_before(error)
            end_without_goodbye(0 if results else (own or error).exit_code)
            if own is not None:
                warn(f"{error}: its pages do not show how this run ended")
                raise own from None
            if not results:
                advice = "what was scored is kept, run the same command to go on once it answers, or without a server"
                raise RunError(f"{error}; {advice} (unset PREFECT_API_URL)") from None
            warn(f"{error}: this run is finished, and its pages do not show it")
            return cast(T, results[0])


def _reason_before(error: ServerLost) -> LabelscoreError | None:
    """Why the run had ended before its server could not be told so."""
    before: BaseException | None = error
    while isinstance(before, ServerLost | httpx.HTTPError):
        before = before.__context__
    return before if isinstance(before, LabelscoreError) else None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _log_to_terminal() -> None:
    logger = logging.getLogger("labelscore")
    logger.setLevel(logging.INFO)
    if err.is_terminal:
        handler: logging.Handler = LineHandler()
        handler.addFilter(lambda record: record.name != "labelscore.shards")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]


@contextmanager
def _server(get_ready: Callable[[], None]) -> Iterator[None]:
    """The server that PREFECT_API_URL names, or an embedded one for as long as the block runs."""
    with ExitStack() as running:
        # Before Prefect is imported, which takes as long here as there. Its own files may name a server, too.
        wait_for_url = None if os.environ.get("PREFECT_API_URL") else running.enter_context(prefect_server())
        with imports():
            from prefect.settings import PREFECT_API_URL

            if PREFECT_API_URL.value():
                running.close()
                wait_for_url = None
                find_server()
            get_ready()
        with _settings_of_embedded(wait_for_url()) if wait_for_url else nullcontext():
            yield


@contextmanager
def _settings_of_embedded(url: str) -> Iterator[None]:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    settings = {
        PREFECT_API_URL: url,
        # They tell a server that lives on of crashes; a flow waits up to a second for the thread that sends them.
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,  # no page of a browser reaches it: it has none
    }
    with temporary_settings(settings):
        try:
            yield
        finally:
            # Both send in the background, and complain when their server has gone.
            seconds = 1 if ASKED.is_set() else 5
            EventsWorker.drain_all(timeout=seconds)
            APILogWorker.drain_all(timeout=seconds)
