"""What a Prefect server that cannot be used is told to be, in one line that says which setting to set."""

import asyncio
import json
import time
from typing import Any, cast

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flows.patience import Patience, ServerLost, bare, server_explained, without_passwords
from flows.server import find_server, make_settings
from pipeline.errors import InputError, RunError
from tests.flows.unresponsive import answering, silent

SECRET = "recognisable-secret"
REFUSED = '{"exception_message": "Unauthorized"}'


def complaint(url: str, *, auth: str | None = None, key: str | None = None) -> str:
    """The line of what is wrong there."""
    settings = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth, PREFECT_API_KEY: key}
    with temporary_settings(settings), pytest.raises(InputError) as refused:
        find_server()
    line = str(refused.value)
    assert SECRET not in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("auth", "key", "said"),
    [
        (None, None, "asks for PREFECT_API_AUTH_STRING; set it to what PREFECT_SERVER_API_AUTH_STRING is"),
        (f"admin:{SECRET}", None, "refuses what is in PREFECT_API_AUTH_STRING; set it to"),
        (None, SECRET, "asks for PREFECT_API_AUTH_STRING (PREFECT_API_KEY is for Prefect Cloud)"),
    ],
)
def test_a_server_that_asks_for_a_password_names_the_setting(auth: str | None, key: str | None, said: str) -> None:
    """Missing, wrong, or the one of another product; what was set is not printed."""
    with answering(401, REFUSED) as url:
        assert said in complaint(f"{url}/api", auth=auth, key=key)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "<!doctype html><title>pages</title>", "text/html"),
        (404, "<h1>not here</h1>", "text/html"),
        (404, '{"detail": "Not Found"}', "application/json"),
        (400, "The plain HTTP request was sent to HTTPS port", "text/html"),
        (200, '{"version": 3}', "application/json"),
        (200, '"none of ours"', "application/json"),
        (200, "3", "application/json"),
    ],
)
def test_a_server_of_another_kind_is_told_as_one(status: int, body: str, kind: str) -> None:
    """Pages, another API, or the address of Prefect's own pages: without /api in the address that is the hint."""
    with answering(status, body, kind) as url:
        assert f"what answers at {url} is no Prefect server: the address of one ends in /api" in complaint(url)
        assert f"what answers at {url}/api is no Prefect server;" in complaint(f"{url}/api").replace(" (status", ";")


def test_a_server_of_another_major_version_is_told() -> None:
    """Such as Prefect 2, which takes other requests."""
    with answering(200, '"2.20.1"') as url:
        assert "is of version 2.20.1 and Prefect here of 3." in complaint(f"{url}/api")


def test_a_server_in_trouble_is_no_wrong_address() -> None:
    """Its own log says more."""
    with answering(500, "Internal Server Error", "text/plain") as url:
        assert "answers with status 500; look at its log" in complaint(f"{url}/api")


def test_https_against_http_is_told() -> None:
    """The words of OpenSSL are known to few."""
    with answering(200, '"3.8.8"') as url:
        assert "where it speaks plain HTTP, write http://" in complaint(url.replace("http:", "https:") + "/api")


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "nonsense", "ftp://127.0.0.1/api", "http://"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    """Before anything is started for the run."""
    assert "no Prefect server answers at" in complaint(url)


def test_an_address_that_prefect_cannot_read_is_told_before_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would be a page about its settings."""
    monkeypatch.setenv("PREFECT_API_URL", "http://[broken/api")
    with pytest.raises(InputError, match="what PREFECT_API_URL says is no address"):
        make_settings({})


def test_an_address_is_shown_without_its_password() -> None:
    """Nor what a proxy was given behind the question mark."""
    with answering(401, REFUSED) as url:
        complaint(url.replace("://", f"://admin:{SECRET}@") + "/api")
    assert bare(f"https://a:{SECRET}@host/x/api/flows?token={SECRET}") == "https://host/x/api"


def test_a_refusal_is_told_without_the_password_in_the_address() -> None:
    """httpx quotes the whole address, and a password may hold an @."""
    with answering(500, "{}") as url, pytest.raises(ServerLost) as lost, server_explained():
        httpx.get(url.replace("://", f"://admin:p@{SECRET}@") + "/api/flows").raise_for_status()
    assert str(lost.value) == f"the Prefect server at {url}/api refused: 500 Internal Server Error"
    assert without_passwords(f"no: http://a:p@{SECRET}@host/api, s") == "no: http://host/api, s"


def test_patience_with_a_silent_server_ends_and_costs_little_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tries of a request together wait for so many seconds; a later request gets one try, and any answer resets."""
    monkeypatch.setattr("flows.patience.SECONDS_BETWEEN_TRIES", 0.0)
    monkeypatch.setattr("flows.patience.SECONDS_WHEN_LOST", 1.0)
    patience = Patience(1.0)

    def ask(url: str) -> float:
        from prefect import get_client

        start = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            client = get_client(sync_client=True, httpx_settings={"event_hooks": patience.hooks})
            with client:
                client.api_version()
        return time.monotonic() - start

    with silent() as url:
        with pytest.raises(ServerLost, match="does not answer any more") as first:
            ask(url)
        with pytest.raises(ServerLost) as second:
            ask(url)
    assert (first.value.is_known, second.value.is_known) == (False, True)
    with answering(200, '"3.8.8"') as url:
        ask(url)
    with (
        silent() as url,
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(httpx.ReadTimeout),  # the only try, which had all of the time again
    ):
        ask(url)


def test_serve_waits_for_what_passes_and_ends_with_what_is_refused() -> None:
    """Whichever way Prefect's client wraps it: a server in trouble, a proxy's page, a deployment that is not taken."""
    from prefect.deployments.runner import DeploymentApplyError

    from flows.serving import Served

    def refusal(status: int) -> DeploymentApplyError:
        request = httpx.Request("POST", f"http://admin:{SECRET}@host/api/deployments")
        cause = httpx.HTTPStatusError(f"for url '{request.url}'", request=request, response=httpx.Response(status))
        error = DeploymentApplyError(f"Error while applying deployment: for url 'http://admin:{SECRET}@host/api'")
        error.__cause__ = cause
        return error

    async def asked(error: Exception) -> bool:
        async def fails() -> None:
            raise error

        served = Served(*cast(Any, [None] * 4))
        await served._asked(fails)
        return served.is_silent

    for passing in (refusal(503), json.JSONDecodeError("Expecting value", "<html>", 0), httpx.ConnectError("lost")):
        assert asyncio.run(asked(passing))
    with pytest.raises(RunError, match=r"does not take the deployment: .*http://host/api") as refused:
        asyncio.run(asked(refusal(422)))
    assert SECRET not in str(refused.value)
