"""`labelscore run`: the flow in this process, beside a Prefect server of the user's or an embedded one.

Invariant: Prefect's settings are made before it is imported, and only where the user has not made them.
"""

import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.embedded import SECONDS_TO_START, prefect_server
from flows.hooks import report_mistake
from flows.parameters import fit_prefect
from flows.stopping import lose_no_ctrl_c
from flows.terminal import LineHandler, err, print_result
from pipeline.checks import check_run
from pipeline.config import RunConfig
from pipeline.errors import LabelscoreError, RunError

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(SECONDS_TO_START),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "labelscore",  # our lines reach the server and its UI
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # and the terminal has them from us, errors in one line
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "true",
}


def run_command(config: RunConfig) -> int:
    """Run the flow and show its result. Raises what the flow raises, and at once what can be seen to be wrong."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _interrupt)
    lose_no_ctrl_c()
    try:
        config = fit_prefect(config)
        check_run(config)
    except LabelscoreError as error:
        report_mistake(config, error)  # there is no flow run yet that would
        raise
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")  # we say it in a line of our own
    _log_to_terminal()
    with _server():
        from flows.run import score_dataset

        report, files = score_dataset(config)
    print_result(report, config.output, files)
    return 0


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
def _server() -> Iterator[None]:
    """The server that PREFECT_API_URL names, or an embedded one for as long as the block runs."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if url := PREFECT_API_URL.value():
        _check_answers(url)
        yield
        return
    with prefect_server(PREFECT_HOME.value()) as wait_for_url:
        importlib.import_module("flows.run")  # the heavy libraries load while the server starts
        with temporary_settings({PREFECT_API_URL: wait_for_url()}):
            try:
                yield
            finally:
                # Both send in the background, and complain when their server has gone.
                EventsWorker.drain_all(timeout=5)
                APILogWorker.drain_all(timeout=5)


def _check_answers(url: str) -> None:
    """Find out before the work begins, in one line. Raises RunError where no Prefect server answers."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise RunError(
            f"no Prefect server answers at {url} ({problem or type(problem).__name__}); start it, or unset "
            "PREFECT_API_URL ('prefect config unset PREFECT_API_URL') to run with an embedded one"
        )
