"""Telling somebody that a run failed or crashed: JSON, posted to an address from the environment.

Invariant: the address is a secret. It is read where it is used and stands in no configuration, log line or error.
"""

import json
import logging
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config import RunConfig

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

WEBHOOK = "LABELSCORE_FAILURE_WEBHOOK"
SECONDS_TO_ANSWER = 10

log = logging.getLogger("labelscore")


def report_failure(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Post what failed to the address in LABELSCORE_FAILURE_WEBHOOK, where one is set; a run never fails by this."""
    _post(describe_failure(flow_run, state))


def report_mistake(config: RunConfig, error: Exception) -> None:
    """The same for a run of the command that was refused before its flow began."""
    _post(_failure("failed", config.output, str(error), f"{config.dataset} with {config.model}"))


def _post(failure: dict[str, str]) -> None:
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    body = json.dumps(failure).encode()
    try:
        # Not httpx, which Prefect uses: it logs the addresses of its requests.
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
            pass
    except urllib.error.HTTPError as error:
        log.warning("the failure webhook answered with status %d", error.code)
    except Exception as error:  # the words of these errors may quote the address
        log.warning("the failure webhook could not be reached (%s); check %s", type(error).__name__, WEBHOOK)


def describe_failure(flow_run: "FlowRun", state: "State[Any]") -> dict[str, str]:
    """What is posted: `what` ("failed" or "crashed"), `output`, `error` (one line), `run` (its name), `time` (UTC)."""
    lines = (state.message or "").splitlines() or [""]
    what = "crashed" if state.is_crashed() else "failed"
    error = lines[0].removeprefix("Flow run encountered an exception: ")
    return _failure(what, _output(flow_run), error, flow_run.name)


def _failure(what: str, output: str, error: str, run: str) -> dict[str, str]:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"what": what, "output": output, "error": error, "run": run, "time": time}


def _output(flow_run: "FlowRun") -> str:
    try:
        return RunConfig.model_validate(flow_run.parameters.get("config", {})).output
    except ValidationError:  # parameters that the flow refuses are one reason to fail
        return ""
