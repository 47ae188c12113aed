"""What a run shows of itself on Prefect's pages: its progress, its figures, and where its page lies.

Invariant: no run fails or waits long for what it shows; and a key or title is of one output alone.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from prefect import artifacts

from flows.patience import ServerLost, server_explained
from pipeline.reporting.markdown import escape
from pipeline.storing.files import Output

REPORTS_URL = "LABELSCORE_REPORTS_URL"
SECONDS_BETWEEN_UPDATES = 10  # of the progress artifact: each is a request that the scoring waits for
SECONDS_AFTER_SILENCE = 120  # until a server that did not answer is asked again

log = logging.getLogger("labelscore")
T = TypeVar("T")


class ShownProgress:
    """How far a run is, on Prefect's pages."""

    def __init__(self, output: Output, what: str, title: str) -> None:
        key, description = artifact_key(output, what), artifact_title(output, title)
        self._artifact = cast(
            "UUID | None", tell(lambda: artifacts.create_progress_artifact(0.0, key=key, description=description))
        )
        self._title = description
        self._next = time.monotonic() + SECONDS_BETWEEN_UPDATES

    def update(self, percent: float, state: str = "", *, is_last: bool = False) -> None:
        """Show it now and then, and at the end."""
        artifact = self._artifact
        if artifact is None or (time.monotonic() < self._next and not is_last):
            return
        description = f"{self._title}: {state}" if state else self._title
        told = tell(lambda: artifacts.update_progress_artifact(artifact, percent, description) or True)
        self._next = time.monotonic() + (SECONDS_BETWEEN_UPDATES if told else SECONDS_AFTER_SILENCE)


def show_markdown(output: Output, what: str, title: str, markdown: str) -> None:
    """A text of an output."""
    key, description = artifact_key(output, what), artifact_title(output, title)
    tell(lambda: artifacts.create_markdown_artifact(markdown=markdown, key=key, description=description))


def show_table(output: Output, what: str, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of an output."""
    key, description = artifact_key(output, what), artifact_title(output, title)
    tell(lambda: artifacts.create_table_artifact(table=list(rows), key=key, description=description))


def show_page(output: Output, name: str, what: str) -> None:
    """Where a page of an output lies: a link that a browser opens, or else what can be copied."""
    link = page_link(output, name)
    if link is None:
        place = f"{place_of(output)}/{name}"
        fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", place)), default=0))
        show_markdown(
            output, what, "the page, to be copied into a browser beside the files", f"{fence}\n{place}\n{fence}"
        )
        return
    key, description = artifact_key(output, what), artifact_title(output, "the page")
    text = name.rpartition("/")[2]
    tell(lambda: artifacts.create_link_artifact(link=link, link_text=text, key=key, description=description))


def page_link(output: Output, name: str) -> str | None:
    """LABELSCORE_REPORTS_URL, the output's own name, which is the last of its path or URL, and the file's in it.

    None where no such address is set, or none that a page may link to.
    """
    address = os.environ.get(REPORTS_URL, "").strip()
    if not address:
        return None
    if not re.match(r"https?://[^\s\"'<>()\\]+$", address, re.IGNORECASE):
        log.warning("%s is no address that begins with http:// or https://; no link is shown", REPORTS_URL)
        return None
    return f"{address.rstrip('/')}/{quote(_name_of(output), safe='')}/{quote(name)}"


def artifact_key(output: Output, what: str) -> str:
    """Such as labelscore-report-nightly-1f0c2d3e4b: lower-case letters, digits and dashes, one key an output."""
    slug = re.sub("[^a-z0-9]+", "-", _name_of(output).lower())[:40].strip("-")
    digits = hashlib.sha256(place_of(output).encode(errors="surrogateescape")).hexdigest()[:10]
    return "-".join(filter(None, ("labelscore", what, slug, digits)))


def artifact_title(output: Output, title: str) -> str:
    """What stands above an artifact, as Markdown."""
    return f"{title} · {escape(place_of(output))}"


def place_of(output: Output) -> str:
    """The output's URL or whole path."""
    return str(output) if output.remote else str(output.root.absolute())


def _name_of(output: Output) -> str:
    return str(output).rstrip("/").rpartition("/")[2] if output.remote else Path(place_of(output)).resolve().name


def tell(send: Callable[[], T]) -> T | None:
    """What the server says; None, and a line in the log, where it does not answer."""
    try:
        with server_explained():
            return send()
    except ServerLost as error:
        if not error.is_known:
            log.warning("%s; Prefect's pages lack what this run would show there, and the run goes on", error)
        return None
