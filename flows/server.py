"""What we ask of Prefect: its settings, a server that answers, and parameters that it takes.

Invariant: settings are made before Prefect is imported, and only where the user has not made them.
"""

import json
import os
from typing import TypeVar

from flows.embedded import SECONDS_TO_START
from pipeline.choice_config import ChoiceConfig
from pipeline.config import RunConfig
from pipeline.errors import InputError

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(SECONDS_TO_START),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "labelscore",  # our lines reach the server and its UI
    "TOKENIZERS_PARALLELISM": "true",
}
# For a run in the terminal, which has our lines from us and an error in one.
QUIET_SETTINGS = {**SETTINGS, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
ADVICE = (
    "start one with 'prefect server start' and point to it with "
    "'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api' (or the address it prints)"
)

MAX_BYTES = 512 * 1024 - 1024  # Prefect's own limit by default, less what it wraps around the configuration


def make_settings(settings: dict[str, str]) -> None:
    """Put the settings that the user has not made into the environment."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def find_server() -> str | None:
    """The address in PREFECT_API_URL, where one is set. Raises InputError where no Prefect server answers there."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    if not url:
        return None
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise InputError(
            f"no Prefect server answers at {url} ({problem or type(problem).__name__}); {ADVICE}; 'labelscore run' "
            "needs none: 'prefect config unset PREFECT_API_URL'"
        )
    return url


Config = TypeVar("Config", RunConfig, ChoiceConfig)


def fit_prefect(config: Config) -> Config:
    """What is used of the configuration. Raises InputError where that is more than Prefect takes."""
    config = config.used
    num_bytes = len(json.dumps(config.model_dump(mode="json")).encode())
    if num_bytes > MAX_BYTES:
        raise InputError(
            f"the configuration of this run has {num_bytes:,} bytes and Prefect takes {MAX_BYTES:,}; shorten its "
            "prompts, or split them over several runs"
        )
    return config
