"""`labelscore run`: the flow in this process, beside a Prefect server of the user's or an embedded one.

Invariant: a mistake that can be seen without Prefect and torch is told before they are imported.
"""

import importlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.embedded import prefect_server
from flows.hooks import post_failure
from flows.server import QUIET_SETTINGS, find_server, fit_prefect, make_settings
from flows.stopping import lose_no_ctrl_c
from flows.terminal import LineHandler, err, print_report, say
from pipeline.checks import check_run
from pipeline.config import RunConfig
from pipeline.errors import LabelscoreError


def run_command(config: RunConfig) -> int:
    """Run the flow and show its result. Raises what the flow raises, and at once what can be seen to be wrong."""
    make_settings(QUIET_SETTINGS)
    signal.signal(signal.SIGTERM, _interrupt)
    lose_no_ctrl_c()
    try:
        fitted = fit_prefect(config)
        check_run(config)
    except LabelscoreError as error:
        # There is no flow run yet that would tell it.
        post_failure("failed", config.output, str(error), f"{config.source} with {config.model}")
        raise
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")  # we say it in a line of our own
    _log_to_terminal()
    with _server():
        from flows.run import score_dataset

        report, files = score_dataset(fitted)
    print_report(report)
    say("")
    for name in files:
        say(f"  {config.output.rstrip('/')}/{name}")
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

    if find_server():
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
