"""The hub: find a repository at a pinned commit, fetch chosen files of it, and say in one line what went wrong.

Invariant: a commit is resolved once and everything fetched belongs to it; with HF_HUB_OFFLINE=1 no request is made;
no message ever holds a token.
"""

import glob
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, get_session, snapshot_download
from huggingface_hub import logging as hub_logging
from huggingface_hub.errors import CachedRepoTreeNotFoundError, RevisionResolutionError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # listed there lazily
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from pipeline.errors import InputError, LabelscoreError
from pipeline.reading.hub_errors import (
    AskedTooLong,
    Kind,
    asked_wait,
    explain,
    find_cause,
    is_passing,
    response_of,
    symptom,
)

T = TypeVar("T")

NUM_TRIES = 6
NUM_TRIES_UNCONNECTED = 3  # no network at all: say so soon
REQUEST_SECONDS = 30.0
FIRST_WAIT_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # of trying again where the server does not say how long to wait
LONGEST_WAIT_SECONDS = 300.0  # the hub counts requests in windows of five minutes; who asks for more is not waited for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository at one commit, the names of its files, and the folder where those that were fetched lie."""

    id: str
    kind: Kind
    commit: str
    files: tuple[str, ...]
    folder: Path


def find_repo(repo_id: str, kind: Kind, revision: str | None, *, probe: str) -> Repo:
    """Pin `revision` (a branch, tag or commit; the main branch if None) to a commit and list its files.

    `probe` is a small file that is fetched along with the listing, so that a licence that is not accepted shows now
    and not after gigabytes. Where the hub cannot be reached, what is cached is used, and a log line says so.
    Raises InputError for what the hub does not know or will not give, RunError where it fails.
    """
    with _explained(repo_id, kind, revision):
        commit = _resolve(repo_id, kind, revision)
        folder = _snapshot(repo_id, kind, commit, [probe])
        return Repo(repo_id, kind, commit, _list_files(repo_id, kind, commit, folder), folder)


def fetch(repo: Repo, files: list[str]) -> Path:
    """The folder of the repository's snapshot, with at least these of its files; whatever is cached is not asked for.

    Raises InputError where the hub will not give them, RunError where it or the network fails; files that came
    whole stay in the cache, one that did not leaves nothing.
    """

    def absent() -> list[str]:  # a file takes its name when it is whole
        return [name for name in files if not (repo.folder / name).is_file()]

    if absent():
        with _explained(repo.id, repo.kind, repo.commit, show_bars=sys.stderr.isatty()):
            _snapshot(repo.id, repo.kind, repo.commit, absent())
    if missing := absent():
        raise InputError(
            f"{repo.id}: the cached copy is incomplete ({', '.join(missing[:3])} missing); "
            "run once with a connection and without HF_HUB_OFFLINE"
        )
    return repo.folder


def _resolve(repo_id: str, kind: Kind, revision: str | None) -> str:
    api = HfApi()
    from_cache = constants.is_offline_mode() or re.fullmatch("[0-9a-f]{40}", revision or "") is not None
    if not from_cache:
        # Asked for by itself and patiently: resolve_revision takes the first hiccup for a reason to use an old commit.
        try:
            _patiently(lambda: api.repo_info(repo_id, repo_type=kind, revision=revision, timeout=REQUEST_SECONDS))
        except Exception as error:
            if not is_passing(error):
                raise
            logger.warning("%s: the hub cannot be reached; using the copy in the cache, if there is one", repo_id)
            try:
                return api.resolve_revision(repo_id, repo_type=kind, revision=revision, local_files_only=True).resolved
            except RevisionResolutionError:
                raise error from None
    return api.resolve_revision(repo_id, repo_type=kind, revision=revision, local_files_only=from_cache).resolved


def _snapshot(repo_id: str, kind: Kind, commit: str, files: list[str]) -> Path:
    patterns, offline = [glob.escape(name) for name in files], constants.is_offline_mode()
    download = partial(snapshot_download, repo_id, repo_type=kind, revision=commit, allow_patterns=patterns)
    return Path(_patiently(partial(download, local_files_only=offline)))


def _list_files(repo_id: str, kind: Kind, commit: str, folder: Path) -> tuple[str, ...]:
    try:
        return tuple(file.path for file in get_cached_repo_tree(repo_id, repo_type=kind, revision=commit))
    except CachedRepoTreeNotFoundError:  # another program filled the cache, without a listing
        return tuple(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


# Patience


def _patiently(call: Callable[[], T]) -> T:
    """The call's result, trying again with growing waits while its failures look passing.

    The library tries again by itself while it fetches a file, but not when it asks about a repository, and never
    after an answer of 500 in the middle of a download.
    """
    begin = time.monotonic()
    num_tries = 0
    while True:
        num_tries += 1
        try:
            return call()
        except Exception as error:
            seconds = _seconds_to_wait(error, num_tries, time.monotonic() - begin)
            if seconds is None:
                raise
            logger.warning("the hub %s; trying again in %g s", symptom(error), seconds)
        time.sleep(seconds)


def _seconds_to_wait(error: Exception, num_tries: int, elapsed: float) -> float | None:
    """How long to wait before trying again; None: do not."""
    unconnected = response_of(error) is None and find_cause(error, httpx2.ConnectError) is not None
    if not is_passing(error) or num_tries >= (NUM_TRIES_UNCONNECTED if unconnected else NUM_TRIES):
        return None
    response = response_of(error)
    asked = None if response is None else asked_wait(response)
    if asked is not None:
        return asked if asked <= LONGEST_WAIT_SECONDS else None
    return None if elapsed > PATIENCE_SECONDS else FIRST_WAIT_SECONDS * 2.0 ** (num_tries - 1)


def _refuse_long_waits(response: httpx2.Response) -> None:
    """Stop the library's own tries, which wait for as long as the server says."""
    if (asked_wait(response) or 0) > LONGEST_WAIT_SECONDS:
        raise AskedTooLong(f"{asked_wait(response):g} s")


@contextmanager
def _explained(repo_id: str, kind: Kind, revision: str | None, show_bars: bool = False) -> Iterator[None]:
    """Turn what the library raises into one line.

    Meanwhile the library's own warnings, which say the same at length, are off, and so are its progress bars unless
    asked for.
    """
    hide_bars = not show_bars and not are_progress_bars_disabled()
    if hide_bars:
        disable_progress_bars()
    session = get_session()
    session.event_hooks = {"request": session.event_hooks["request"], "response": [_refuse_long_waits]}
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    except LabelscoreError:
        raise
    except Exception as error:
        raise explain(error, repo_id, kind, revision) from None
    finally:
        hub_logging.set_verbosity(verbosity)
        if hide_bars:
            enable_progress_bars()
