"""What a failure of the hub means: whether it passes by itself, and what to tell the user.

Invariant: every message is one line with what to do, and none holds a token.
"""

import os
import re
from collections.abc import Iterator
from typing import Literal, TypeVar

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.reading.formats import one_line

Kind = Literal["model", "dataset"]
E = TypeVar("E", bound=BaseException)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: the library wraps most failures in "not found in the cache"."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def find_cause(error: BaseException, kind: type[E]) -> E | None:
    return next((e for e in _chain(error) if isinstance(e, kind)), None)


def response_of(error: BaseException) -> httpx2.Response | None:
    found = find_cause(error, HfHubHTTPError)
    return None if found is None else found.response


def is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    response = response_of(error)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    torn = any(isinstance(e, OSError) and "Consistency check failed" in str(e) for e in _chain(error))
    return torn or find_cause(error, httpx2.TransportError) is not None


def asked_wait(response: httpx2.Response) -> float | None:
    """Seconds that an answer asks to wait: Retry-After, or what is left of the window where it allows no more."""
    if response.status_code not in (429, 503):
        return None
    after = response.headers.get("Retry-After", "").strip()
    window = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("RateLimit", ""))
    seconds = after if after.isascii() and after.isdecimal() else window[1] if window else None
    return None if seconds is None else float(seconds)


class AskedTooLong(Exception):
    """The hub wants a longer wait than anybody would sit through."""


def symptom(error: BaseException) -> str:
    """What the hub did, for a line that says so and that there will be another try."""
    response = response_of(error)
    if response is not None:
        return f"answered {response.status_code}"
    return "cannot be reached" if find_cause(error, httpx2.ConnectError) else "cut the connection"


# Messages


def explain(error: Exception, repo_id: str, kind: Kind, revision: str | None) -> LabelscoreError:
    what = f"{'data set' if kind == 'dataset' else 'model'} {repo_id}"
    response = response_of(error)
    status = None if response is None else response.status_code
    code = "" if response is None else response.headers.get("X-Error-Code", "")
    if isinstance(error, HFValidationError):
        return InputError(f"{what}: neither a path that exists nor a name the hub could know; check the spelling")
    if code == "GatedRepo" or find_cause(error, GatedRepoError):
        return InputError(_licence_steps(what, repo_id, kind, status))
    option = "--dataset-revision" if kind == "dataset" else "--revision"
    if code == "RevisionNotFound" or find_cause(error, RevisionNotFoundError):
        return InputError(f"{what}: the hub has no revision '{revision}' of it; check {option}")
    if status == 401 and get_token() and "credentials" in redact(str(error)):
        return InputError(
            f"{what}: the hub refused the token in HF_TOKEN (401); make a new one at {_page('settings/tokens')}"
        )
    if status in (401, 404) or find_cause(error, RepositoryNotFoundError):
        return InputError(
            f"{what}: the hub does not know it, or it is private ({status}); check the spelling, "
            f"or put a token that may read it into HF_TOKEN ({_page('settings/tokens')})"
        )
    if status == 403:
        return InputError(_licence_steps(what, repo_id, kind, status))
    if status == 429:
        return RunError(
            f"{what}: the hub asks for fewer requests (429) and did not relent; wait some minutes and run again"
        )
    if too_long := find_cause(error, AskedTooLong):
        return RunError(f"{what}: the hub asks for fewer requests (429) and to wait {too_long}; run again after that")
    if status is not None:
        return RunError(f"{what}: the hub answered {status} again and again; run again later")
    return _without_an_answer(error, what, revision)


def _without_an_answer(error: Exception, what: str, revision: str | None) -> LabelscoreError:
    if constants.is_offline_mode():
        at = f" at revision {revision}" if revision else ""
        return InputError(
            f"{what}: not (or not completely) in the cache{at}, and HF_HUB_OFFLINE forbids asking the hub; "
            "unset it and run once with a connection, or give a local path"
        )
    if find_cause(error, httpx2.ConnectError):
        return RunError(
            f"{what}: no connection to {constants.ENDPOINT}, and no complete copy in the cache; check the network "
            "(behind a proxy: HTTPS_PROXY), or give a local path; what is cached can be used with HF_HUB_OFFLINE=1"
        )
    if is_passing(error):
        return RunError(f"{what}: the connection was cut again and again; run again (files that came whole are kept)")
    return RunError(f"{what}: cannot be fetched ({describe(error)})")


def _licence_steps(what: str, repo_id: str, kind: Kind, status: int | None) -> str:
    page = _page(f"datasets/{repo_id}" if kind == "dataset" else repo_id)
    known = (
        "its licence is not accepted for this token" if status == 403 else "it needs an accepted licence and a token"
    )
    return (
        f"{what}: {known} ({status or 'gated'}): (1) make an account at {_page('join')}, (2) accept the licence "
        f"at {page}, (3) make a read token at {_page('settings/tokens')}, (4) export HF_TOKEN=<the token> and run again"
    )


def _page(path: str) -> str:
    return f"{constants.ENDPOINT}/{path}"


def describe(error: Exception, limit: int = 200) -> str:
    """The beginning of an error's message in one line, without any token."""
    return one_line(redact(str(error)) or type(error).__name__, limit)


def redact(text: str) -> str:
    """The text without any token: those of this process and whatever has a token's form."""
    for secret in (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), get_token()):
        if secret:
            text = text.replace(secret, "***")
    return re.sub(r"hf_\w{8,}", "***", text)
