"""Telling somebody that a run failed or crashed: JSON, posted to an address from the environment.

Invariant: the address is a secret. It is read where it is used and stands in no configuration, log line or error.
"""

import json
import logging
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from pipeline.choice_config import ChoiceConfig
from pipeline.config import RunConfig
from pipeline.errors import RunError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

WEBHOOK = "LABELSCORE_FAILURE_WEBHOOK"
SECONDS_TO_ANSWER = 10

log = logging.getLogger("labelscore")
Hook = TypeVar("Hook")


def hooks_of(report: Hook) -> list[Hook]:
    """The hook where there is an address to post to: Prefect says of each that it runs, and that it succeeded."""
    return [report] if os.environ.get(WEBHOOK) else []


def report_failure(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Post why a run of the flow that scores failed or crashed."""
    _report(RunConfig, flow_run, state)


def report_failed_choice(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """The same of the flow that chooses."""
    _report(ChoiceConfig, flow_run, state)


def _report(kind: type[RunConfig] | type[ChoiceConfig], flow_run: "FlowRun", state: "State[Any]") -> None:
    try:
        output = kind.model_validate(flow_run.parameters.get("config", {})).output
    except ValidationError:  # parameters that the flow refuses are one reason to fail
        output = ""
    lines = (state.message or "").splitlines() or [""]
    error = lines[0].removeprefix("Flow run encountered an exception: ")
    if not post_failure("crashed" if state.is_crashed() else "failed", output, error, flow_run.name):
        raise RunError("nobody was told of this failure")  # else Prefect says that the hook succeeded


def post_failure(what: str, output: str, error: str, run: str) -> bool:
    """Post to the address in LABELSCORE_FAILURE_WEBHOOK, where one is set; whether somebody took it.

    `what` is "failed" or "crashed", `error` one line, `run` the run's name; the time, in UTC, is added. Raises nothing:
    a run never fails by this.
    """
    address = os.environ.get(WEBHOOK)
    if not address:
        return False
    time = datetime.now(UTC).isoformat(timespec="seconds")
    body = json.dumps({"what": what, "output": output, "error": error, "run": run, "time": time}).encode()
    try:
        # Not httpx, which Prefect uses: it logs the addresses of its requests.
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
        urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as refusal:
        log.warning("the failure webhook answered with status %d", refusal.code)
        return False
    except Exception as problem:  # the words of these errors may quote the address
        log.warning("the failure webhook could not be reached (%s); check %s", type(problem).__name__, WEBHOOK)
        return False
    return True
