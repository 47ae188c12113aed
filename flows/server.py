"""What we ask of Prefect: its settings, a server that answers, and parameters that it takes.

Invariant: settings are made before Prefect is imported, and only where the user has not made them.
"""

import json
import os
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from flows.embedded import SECONDS_TO_START
from flows.patience import Patience, ServerLost, bare
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
QUIET_SETTINGS = {
    **SETTINGS,
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # pages about what its threads could not send
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",  # `find_server` does it, and waits for no server in vain
}
ADVICE = (
    "start one with 'prefect server start' and point to it with "
    "'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api' (or the address it prints)"
)

SECONDS_TO_ANSWER = 20
MAX_BYTES = 512 * 1024 - 1024  # Prefect's own limit by default, less what it wraps around the configuration


def make_settings(settings: dict[str, str]) -> None:
    """Put the settings that the user has not made into the environment.

    Raises InputError for an address of a server with which Prefect could not even be imported.
    """
    try:
        urlsplit(os.environ.get("PREFECT_API_URL", ""))
    except ValueError as error:
        raise InputError(f"what PREFECT_API_URL says is no address ({error}); {ADVICE}") from None
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def find_server() -> str | None:
    """The address in PREFECT_API_URL, where one is set.

    Raises InputError where no Prefect server answers there, or one that does not let us in.
    """
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    if not url:
        return None
    if problem := _problem_at(url):
        raise InputError(f"{problem}; 'labelscore run' needs no server: 'prefect config unset PREFECT_API_URL'")
    return url


def _problem_at(url: str) -> str | None:
    """What keeps us from using the Prefect server at this address, and what to do; None where nothing does."""
    from prefect import get_client
    from prefect.client.base import ServerType
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    no_answer = f"no Prefect server answers at {bare(url)}"
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 3}):
            client = get_client(sync_client=True, httpx_settings={"event_hooks": Patience(SECONDS_TO_ANSWER).hooks})
            with client:
                if client.server_type == ServerType.CLOUD:
                    client.read_flows(limit=1)
                    return None
                version = client.api_version()
    except httpx.HTTPStatusError as error:
        return explain_refusal(url, error.response.status_code)
    except ServerLost:
        return f"{no_answer} within {SECONDS_TO_ANSWER} seconds; {ADVICE}"
    except httpx.ConnectError as error:
        return f"{no_answer} ({error or type(error).__name__}); {_tls_advice(url, str(error))}"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"{no_answer} ({error or type(error).__name__}); {ADVICE}"
    except ValueError:
        return f"{_other_kind(url)}; {ADVICE}"
    return _wrong_version(url, version)


def is_passing(status: int) -> bool:
    """Whether a server that answers so may answer otherwise later: it starts, or is busy."""
    return status in (408, 425, 429) or status >= 500


def explain_refusal(url: str, status: int) -> str:
    """What a status that is an error means for an address."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_CLOUD_API_URL

    is_cloud = url.startswith(PREFECT_CLOUD_API_URL.value())
    has_string, has_key = bool(PREFECT_API_AUTH_STRING.value()), bool(PREFECT_API_KEY.value())
    where = f"the Prefect server at {bare(url)}"
    if status in (401, 403) and is_cloud:
        what = "refuses the key in PREFECT_API_KEY" if has_key else "asks for a key, and PREFECT_API_KEY has none"
        return f"{where} {what}; make one on its pages and 'prefect config set PREFECT_API_KEY=...'"
    if status in (401, 403):
        what = "refuses what is in PREFECT_API_AUTH_STRING" if has_string else "asks for PREFECT_API_AUTH_STRING"
        key = " (PREFECT_API_KEY is for Prefect Cloud)" if has_key and not has_string else ""
        return f"{where} {what}{key}; set it to what PREFECT_SERVER_API_AUTH_STRING is on the server"
    if is_passing(status):
        return f"{where} answers with status {status}; look at its log, or try again later"
    return f"{_other_kind(url)} (status {status}); {ADVICE}"


def _other_kind(url: str) -> str:
    hint = "" if bare(url).rstrip("/").endswith("/api") else ": the address of one ends in /api"
    return f"what answers at {bare(url)} is no Prefect server{hint}"


def _tls_advice(url: str, said: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "name the file of its certificate in PREFECT_API_SSL_CERT_FILE"
    if url.lower().startswith("https://") and "SSL" in said.upper():
        return "where it speaks plain HTTP, write http:// in PREFECT_API_URL"
    return ADVICE


def _wrong_version(url: str, version: object) -> str | None:
    """What a server of another kind or a major version that is not ours calls itself, where it is one."""
    from prefect import __version__

    major = str(version).partition(".")[0]
    if not isinstance(version, str) or not major.isdecimal():
        return f"{_other_kind(url)}; {ADVICE}"
    if major == __version__.partition(".")[0]:
        return None
    return (
        f"the Prefect server at {bare(url)} is of version {version:.20} and Prefect here of {__version__}; install the "
        "same major version in both places"
    )


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
