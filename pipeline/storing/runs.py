"""Run folders: how a finished run takes the place of the one before, and who finds it.

A run writes its files into a folder of its own, OUT/runs/ID/, and a manifest into it last; then OUT/manifest.json is
replaced by one that names the folder. Whoever resolves the folder once reads one run, whatever is published meanwhile.

Invariant: OUT/manifest.json is replaced by one rename or one PUT, once all that it names is there, and the folder of
the run before stays for a while after.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.storing.files import Finding, Output, hash_file
from pipeline.storing.history import read_history
from pipeline.storing.layout import (
    COPIED,
    CURRENT,
    FOLDER,
    HISTORY,
    HISTORY_SCHEMA,
    MANIFEST,
    PART_NAME,
    PLAN,
    PREDICTIONS,
    RUN_FILES,
    RUNS,
    SET_ASIDE,
    STORE,
)
from pipeline.storing.manifest import OWN_KEYS, Manifest, NewerSchema, need_manifest, read_manifest, write_manifest
from pipeline.storing.sealed import is_sealed

GRACE = timedelta(hours=1)  # how long a replaced run stays, for readers who have resolved its folder
ABANDONED = timedelta(days=1)  # from when on an unfinished folder on an object store is nobody's, as there is no lock
_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")  # of a run folder


# Finding a run


def open_run(out: Output) -> tuple[Output, Manifest]:
    """The folder of the last finished run, as an output of its own, and its manifest.

    Raises InputError where there is none, RunError where the manifest is damaged or newer.
    """
    manifest = need_manifest(out)
    return out.inside(manifest.folder), manifest


def need_whole(folder: Output, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises RunError where one of the run's files `names` is not the one that the manifest vouches for."""
    for finding in changed_files(folder, {name: manifest.files[name] for name in names if name in manifest.files}):
        raise RunError(
            f"{folder}: {finding.name} is not the one that {MANIFEST} names: the last publication was cut short, or "
            "the file was changed since; run again"
        )


def changed_files(folder: Output, files: Mapping[str, str]) -> Iterator[Finding]:
    """Those of `files` (hash by name, as in the manifest) that are missing or do not have their hash."""
    for name, digest in files.items():
        if not folder.exists(name):
            yield Finding(name, "it is missing", "run again to publish it")
        elif hash_file(folder.fetch(name)) != digest:
            yield Finding(name, "it is not what the manifest says (changed, or a run was cut short)", "run again")


def is_ours(out: Output) -> bool:
    """Whether a run of labelscore wrote here: a part of the store by its name, a plan or a manifest by its content."""
    for name in out.list(STORE):
        path = PurePosixPath(name)
        if len(path.parts) != 3 or not FOLDER.fullmatch(path.parts[1]):
            continue
        if PART_NAME.fullmatch(path.name) or (path.name == PLAN and is_sealed(out.read_bytes(name))):
            return True
    try:
        return out.exists(MANIFEST) and json.loads(out.read_bytes(MANIFEST)).keys() >= OWN_KEYS
    except (ValueError, AttributeError):
        return False


# Before a run


@dataclass(frozen=True, slots=True)
class LastRun:
    """What a new run takes over from the last one: manifest, history, predictions; and what was found wrong."""

    manifest: Manifest | None
    history: pa.Table
    predictions: Path | None
    findings: tuple[Finding, ...]


def begin_run(out: Output) -> LastRun:
    """Make sure that a new run can take the place of the last one.

    Raises InputError for a directory that is not ours, RunError for one of a newer labelscore.
    """
    refuse_foreign(out)
    findings = _set_damaged_manifest_aside(out)
    manifest = read_manifest(out)
    if manifest and not manifest.folder:
        manifest = _move_into_folder(out, manifest)
    if manifest:
        renew_links(out, manifest.folder)  # a run may have been killed between manifest and links
    folder = out.inside(manifest.folder if manifest else "")
    predictions = None
    if manifest and PREDICTIONS in manifest.files:
        problems = list(changed_files(folder, {PREDICTIONS: manifest.files[PREDICTIONS]}))
        findings += [Finding(f.name, f.problem, "what changed since that run is not counted") for f in problems]
        predictions = None if problems else folder.path(PREDICTIONS)
    try:
        history = read_history(folder)
    except ValueError:
        history, target = HISTORY_SCHEMA.empty_table(), f"{SET_ASIDE}/damaged-{folder.root.name}-{HISTORY}"
        out.copy(target, folder.path(HISTORY))
        findings.append(Finding(HISTORY, "it is damaged", f"copied to {target}, the run begins a new one"))
    return LastRun(manifest, history, predictions, tuple(findings))


def refuse_foreign(out: Output) -> None:
    """Leave a directory alone that has files of our names and is not ours. Raises InputError for one."""
    foreign = sorted({*RUN_FILES, MANIFEST} & out.list().keys())
    if foreign and not is_ours(out):
        raise InputError(f"{out} holds {foreign[0]}, which no run of labelscore wrote there; choose another --out")


def _set_damaged_manifest_aside(out: Output) -> list[Finding]:
    try:
        read_manifest(out)
    except NewerSchema:
        raise
    except LabelscoreError:
        target = out.move(MANIFEST, f"{SET_ASIDE}/damaged-{MANIFEST}")
        return [Finding(MANIFEST, "it is damaged or was edited", f"moved to {target}, the run writes a new one")]
    return []


def _move_into_folder(out: Output, manifest: Manifest) -> Manifest:
    """Give the run of an output of before there were run folders one, for readers who resolve it from now on."""
    folder = out.inside(new_folder())
    for name in filter(out.exists, manifest.files):
        out.link(name, folder, name)
    return _switch(out, folder, manifest)


# Publishing a run


def new_folder() -> str:
    """The name of a run folder: when it was begun, and something of its own."""
    return f"{RUNS}/{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def publish(out: Output, folder: Output, manifest: Manifest) -> Manifest:
    """Let the run whose files lie in `folder` be the output's; returns the manifest as it was written.

    manifest.files: hashes that are known already. The folders of runs that were replaced a while ago go.
    """
    known = manifest.files
    files = {name: known.get(name) or hash_file(folder.path(name)) for name in RUN_FILES if folder.exists(name)}
    manifest = _switch(out, folder, manifest.model_copy(update={"files": files}))
    renew_links(out, manifest.folder)
    for name in old_folders(out, manifest.folder):
        for file in out.list(name):
            out.delete(file)
    return manifest


def _switch(out: Output, folder: Output, manifest: Manifest) -> Manifest:
    """Write the manifest into the run's folder, which is complete then, and put it in place of the output's."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    manifest = manifest.model_copy(update={"published": now, "folder": ""})
    write_manifest(folder, manifest)
    manifest = manifest.model_copy(update={"folder": folder.location.removeprefix(f"{out.location}/")})
    write_manifest(out, manifest)
    return manifest


def renew_links(out: Output, folder: str) -> None:
    """Let the names in OUT/ lead to the files of this run: all at one instant, where there are links.

    On an object store those that are read alone are copied. Where a file system has no links there are none.
    """
    run = out.inside(folder)
    if out.remote:
        for name in filter(run.exists, COPIED):
            run.link(name, out, name)
        return
    with suppress(RunError):
        out.point(CURRENT, folder)
        for name in RUN_FILES:
            target = f"{'../' * name.count('/')}{CURRENT}/{name}"
            path = out.path(name)
            if not run.exists(name):
                path.unlink(missing_ok=True)
            elif not (path.is_symlink() and str(path.readlink()) == target):
                out.point(name, target)


def old_folders(out: Output, current: str) -> list[str]:
    """The run folders that may go: those replaced longer ago than GRACE, and those that were never finished."""
    now = datetime.now(UTC)
    finished: dict[str, datetime] = {}
    old = []
    for name, begun in run_folders(out):
        published = _published(out, name)
        if published:
            finished[name] = published
        elif not out.remote or now - begun > ABANDONED:
            old.append(name)
    rising = sorted(finished, key=lambda name: (finished[name], name))
    old += [name for name, after in pairwise(rising) if now - finished[after] > GRACE]
    return sorted(name for name in old if name != current)


def run_folders(out: Output) -> list[tuple[str, datetime]]:
    """The names of all run folders, and when each was begun."""
    parts = {PurePosixPath(name).parts[1] for name in out.list(RUNS) if len(PurePosixPath(name).parts) > 2}
    return [
        (f"{RUNS}/{name}", datetime.strptime(name[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC))
        for name in sorted(parts)
        if _NAME.fullmatch(name)
    ]


def _published(out: Output, folder: str) -> datetime | None:
    """When the run in a folder was published; None for one that never was."""
    try:
        manifest = read_manifest(out.inside(folder))
        return datetime.fromisoformat(manifest.published) if manifest else None
    except (LabelscoreError, ValueError):
        return None
