"""How long a run waits for its Prefect server: a run needs it to begin, and to show itself; its scores are in files.

Invariant: a server that answers nothing holds up a run for `SECONDS_SILENT` once, and for a few seconds of each half
minute after that; what then fails is a ServerLost of one line, whatever hangs.
"""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import httpx

from pipeline.errors import RunError

SECONDS_SILENT = 45.0  # over all tries of a request; a server of ours that starts again answers sooner
SECONDS_A_TRY = 20.0
SECONDS_TO_CONNECT = 5.0  # httpcore tries four times
SECONDS_WHEN_LOST = 4.0  # for the one try of a later request: the server may be back
SECONDS_BETWEEN_TRIES = 30.0  # of those
_TRIED = "labelscore.tried"

_results: ContextVar[list[Any] | None] = ContextVar("labelscore_results", default=None)


class ServerLost(RunError):
    """A Prefect server that does not answer any more; `is_known` where that has been told before."""

    is_known = False


class Patience:
    """The clock of one server, as hooks of an httpx client: time passes from the first try that is not answered."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = SECONDS_SILENT if seconds is None else seconds
        self._since: float | None = None
        self._next_try = 0.0
        self._is_known = False

    @property
    def hooks(self) -> dict[str, list[Callable[..., None]]]:
        """For the `event_hooks` of a client."""
        return {"request": [self.before_try], "response": [self.after_answer]}

    def before_try(self, request: httpx.Request) -> None:
        """Bound a try of a request. Raises ServerLost where there were enough."""
        now = time.monotonic()
        self._since = self._since or now
        left = self._seconds - (now - self._since)
        if left <= 0 and (request.extensions.get(_TRIED) or now < self._next_try):
            raise self._lost(request)
        limit = min(left, SECONDS_A_TRY)
        if left <= 0:
            limit, self._next_try = SECONDS_WHEN_LOST, now + SECONDS_BETWEEN_TRIES
        connect = min(limit, SECONDS_TO_CONNECT)
        request.extensions["timeout"] = {"connect": connect, "read": limit, "write": limit, "pool": limit}
        request.extensions[_TRIED] = True

    def _lost(self, request: httpx.Request) -> ServerLost:
        lost = ServerLost(f"the Prefect server at {bare(request.url)} does not answer any more")
        lost.is_known, self._is_known = self._is_known, True
        if not lost.is_known and os.environ.get("PREFECT__FLOW_RUN_ID"):
            # A run that Prefect's runner has started: nobody else sees to its end.
            end_without_goodbye(RunError.exit_code, lambda: self._is_known)
        return lost

    def after_answer(self, response: httpx.Response) -> None:
        """Any answer counts."""
        self._since, self._is_known = None, False


@contextmanager
def patient_client() -> Iterator[None]:
    """In the block Prefect's engine, tasks and artifacts ask the server through one client, which has patience."""
    from prefect.context import SyncClientContext

    with SyncClientContext.get_or_create():
        be_patient()
        yield


def be_patient() -> None:
    """The same for a run that Prefect itself started, from here to its end."""
    from prefect.context import SyncClientContext

    logging.raiseExceptions = False  # or Prefect's thread for log lines complains of each that it could not send
    context = SyncClientContext.get()
    if context is None:
        return
    # A context with settings of its own for httpx would be passed over by all that asks for a client without any.
    client = context.client._client
    if not client.event_hooks["request"]:
        client.event_hooks = Patience().hooks


@contextmanager
def server_explained() -> Iterator[None]:
    """Turn what Prefect's client raises where its server is gone or refuses into one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        said = f"{error.response.status_code} {error.response.reason_phrase}"
        raise ServerLost(f"the Prefect server at {bare(error.request.url)} refused: {said}") from None
    except httpx.HTTPError as error:
        reason = str(error).strip() or type(error).__name__
        raise ServerLost(f"the Prefect server does not answer any more ({reason})") from None


@contextmanager
def kept_results() -> Iterator[list[Any]]:
    """Yield a list that has what a flow of this block came to, also where its server never heard of it."""
    results: list[Any] = []
    token = _results.set(results)
    try:
        yield results
    finally:
        _results.reset(token)


def keep_result(result: Any) -> None:
    """Called by a flow that is done but for telling the server."""
    results = _results.get()
    if results is not None:
        results.append(result)


def end_without_goodbye(code: int, is_lost: Callable[[], bool] = lambda: True) -> None:
    """Have this process end at once when it ends: Prefect's threads would wait at exit, for ever, to send what is left.

    Called where the server is lost, which may have come back by then.
    """

    def end() -> None:
        if not is_lost():
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    # As Prefect's threads do, which are asked in the opposite order; `atexit` would come after them.
    threading._register_atexit(end)  # type: ignore[attr-defined]


def without_passwords(text: str) -> str:
    """The text, its addresses without their users and passwords."""
    return re.sub(r"(?<=://)[^\s/?#]*@", "", text)


def bare(url: "str | httpx.URL") -> str:
    """An address as it may be shown: without a user, a password or what follows a question mark, up to `/api`."""
    text = without_passwords(str(url)).partition("?")[0]
    found = re.match(r".*?/api(?=/|$)", text)
    return found[0] if found else text
