"""Run folders: how a finished run takes the place of the one before, and who finds it.

A run writes its files into a folder of its own, OUT/runs/ID/, and a manifest into it last; then OUT/manifest.json is
replaced by one that names the folder. Whoever resolves the folder once reads one run, whatever is published meanwhile.

Invariant: OUT/manifest.json is replaced by one rename or one PUT, once all that it names is there, and the folder of
the run before stays for a while after.
"""

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError, RunError
from pipeline.storing.files import Finding, Output, hash_file
from pipeline.storing.history import read_history
from pipeline.storing.layout import (
    COPIED,
    CURRENT,
    FOLDER,
    HISTORY,
    HISTORY_SCHEMA,
    MANIFEST,
    PART,
    PLAN,
    PREDICTIONS,
    RUN_FILES,
    RUN_FOLDER,
    RUNS,
    SCORES_FOLDER,
    SET_ASIDE,
    STORE,
    is_run_file,
    score_files,
)
from pipeline.storing.manifest import OWN_KEYS, Manifest, is_damaged, need_manifest, read_manifest, write_manifest
from pipeline.storing.sealed import is_sealed

GRACE = timedelta(hours=1)  # how long a replaced run stays, for readers who have resolved its folder
ABANDONED = timedelta(days=1)  # from when on an unfinished folder on an object store is nobody's, as there is no lock


# Finding a run


def open_run(out: Output) -> tuple[Output, Manifest]:
    """The folder of the last finished run, as an output of its own, and its manifest.

    Raises InputError where there is none, RunError where the manifest is damaged or newer.
    """
    manifest = need_manifest(out)
    if out.remote:
        _drop_mirrors(out, manifest)
    return out.inside(manifest.folder), manifest


def _drop_mirrors(out: Output, manifest: Manifest) -> None:
    """Remove this machine's copies of runs that are gone from the object store."""
    for path in out.path(RUNS).glob("*"):
        folder = f"{RUNS}/{path.name}"
        is_known = not RUN_FOLDER.fullmatch(folder) or folder in (manifest.folder, *manifest.replaced)
        if not is_known and datetime.now(UTC) - begun(folder) > ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


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
    stored = out.list(STORE)
    plans = [name for name in stored if name.endswith(f"/{PLAN}") and FOLDER.fullmatch(name.split("/")[1])]
    has_store = any(map(PART.fullmatch, stored)) or any(is_sealed(out.read_bytes(plan)) for plan in plans)
    return has_store or bool(_own_manifest(out))


def _own_manifest(folder: Output) -> dict[str, Any]:
    """The manifest in a folder as it stands there, sound or not; empty where there is none of ours."""
    try:
        found = json.loads(folder.read_bytes(MANIFEST)) if folder.exists(MANIFEST) else {}
        return found if found.keys() >= OWN_KEYS else {}
    except (ValueError, AttributeError):
        return {}


# Before a run


@dataclass(frozen=True, slots=True)
class LastRun:
    """What a new run takes over from the last one: manifest, history, predictions; and what was found wrong."""

    manifest: Manifest | None
    history: pa.Table
    predictions: Path | None
    findings: tuple[Finding, ...]


def begin_run(out: Output) -> LastRun:
    """Make sure that a new run can take the place of the last one, and remove the folders of runs long replaced.

    Raises InputError for a directory that is not ours, RunError for one of a newer labelscore.
    """
    refuse_foreign(out)
    findings = _set_damaged_manifest_aside(out)
    manifest = read_manifest(out)
    if manifest and not manifest.folder:
        manifest = _move_into_folder(out, manifest)
    if manifest:
        renew_links(out)  # a run may have been killed between manifest and links
    remove_old_folders(out)
    folder = out.inside(manifest.folder if manifest else "")
    predictions = None
    if manifest and PREDICTIONS in manifest.files:
        problems = list(changed_files(folder, {PREDICTIONS: manifest.files[PREDICTIONS]}))
        findings += [Finding(f.name, f.problem, "what changed since that run is not counted") for f in problems]
        predictions = None if problems else folder.path(PREDICTIONS)
    try:
        history = read_history(folder)
    except ValueError:
        history = HISTORY_SCHEMA.empty_table()
        target = f"{SET_ASIDE}/damaged-{folder.root.name}-{HISTORY}"
        out.copy(target, folder.path(HISTORY))
        findings.append(Finding(HISTORY, "it is damaged", f"copied to {target}, the run begins a new one"))
    return LastRun(manifest, history, predictions, tuple(findings))


def look_at_last(out: Output) -> LastRun:
    """What `begin_run` finds but for predictions, in an output that stays as it is. Raises what that raises."""
    refuse_foreign(out)
    if is_damaged(out):
        damage = Finding(MANIFEST, "it is damaged or was edited", "the run moves it aside and writes a new one")
        return LastRun(None, HISTORY_SCHEMA.empty_table(), None, (damage,))
    return LastRun(read_manifest(out), HISTORY_SCHEMA.empty_table(), None, ())


def refuse_foreign(out: Output) -> None:
    """Refuse to write into a directory that has files of our names and is not ours, or into the folder of a run.

    Raises InputError for one.
    """
    foreign = sorted(filter(is_run_file, out.list()))
    if foreign and not is_ours(out):
        raise InputError(f"{out} holds {foreign[0]}, which no run of labelscore wrote there; choose another --out")
    manifest = _own_manifest(out)
    if manifest.get("published") and not manifest.get("folder"):
        raise InputError(f"{out} is the folder of a finished run, which stays as it is; give the output that holds it")
    link = out.path(CURRENT)
    if link.is_symlink():
        is_ours_too = bool(RUN_FOLDER.fullmatch(str(link.readlink())))
    else:  # as a folder it is ours in a copy of an output for which links were followed
        is_ours_too = not link.exists() or bool(_own_manifest(out.inside(CURRENT)))
    if not is_ours_too and not out.remote:
        raise InputError(
            f"{link} is the name of our link to the last run; move yours elsewhere, or choose another --out"
        )


def _set_damaged_manifest_aside(out: Output) -> list[Finding]:
    if not is_damaged(out):
        return []
    target = out.move(MANIFEST, f"{SET_ASIDE}/damaged-{MANIFEST}")
    return [Finding(MANIFEST, "it is damaged or was edited", f"moved to {target}, the run writes a new one")]


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

    manifest.files: hashes that are known already.
    """
    known = manifest.files
    files = {
        name: known.get(name) or hash_file(folder.path(name)) for name in _file_names(folder) if folder.exists(name)
    }
    manifest = _switch(out, folder, manifest.model_copy(update={"files": files}))
    renew_links(out)
    return manifest


def _switch(out: Output, folder: Output, manifest: Manifest) -> Manifest:
    """Write the manifest into the run's folder, which is complete then, and put it in place of the output's."""
    now, name = datetime.now(UTC), folder.location.removeprefix(f"{out.location}/")
    before = read_manifest(out)
    known = before.replaced if before else {}
    then = datetime.fromisoformat(before.published) if before and before.published else now
    replaced = {  # no run was replaced before it was published, even if clocks say so
        other: known.get(other, max(now, then))
        for other, is_finished in run_folders(out).items()
        if is_finished and other != name
    }
    manifest = manifest.model_copy(
        update={"published": now.isoformat(timespec="microseconds"), "folder": "", "replaced": {}}
    )
    write_manifest(folder, manifest)
    manifest = manifest.model_copy(update={"folder": name, "replaced": replaced})
    write_manifest(out, manifest)
    return manifest


def renew_links(out: Output) -> None:
    """Let the names in OUT/ lead to the files of the last run: all at one instant, where there are links.

    Without links (on an object store, on some file systems) those that are read alone are copied.
    """
    folder = need_manifest(out).folder
    run = out.inside(folder)
    names = list(dict.fromkeys([*_file_names(run), *_file_names(out)]))
    if not out.remote:  # further files of a score table have their links before they are there: no reader misses one
        for name in names[len(RUN_FILES) :]:
            if run.exists(name):
                _link(out, name)
    if out.remote or not _point_to_current(out, folder):
        for name in names:
            if name in COPIED and run.exists(name):
                run.link(name, out, name)
            elif out.exists(name):
                out.delete(name)
        if need_manifest(out).folder != folder:  # another machine has published meanwhile
            renew_links(out)
        return
    for name in names:
        if run.exists(name):
            _link(out, name)
        else:
            out.path(name).unlink(missing_ok=True)


def _link(out: Output, name: str) -> None:
    """Let a name in OUT/ lead through the link to the last run's folder."""
    path, target = out.path(name), f"{'../' * name.count('/')}{CURRENT}/{name}"
    if not (path.is_symlink() and str(path.readlink()) == target):
        out.point(name, target)


def _file_names(folder: Output) -> list[str]:
    """RUN_FILES, and the further files of a score table that are there."""
    return list(dict.fromkeys([*RUN_FILES, *score_files(folder.list(SCORES_FOLDER))]))


def _point_to_current(out: Output, folder: str) -> bool:
    """Turn the link that all others lead through; False where there are no links."""
    if not out.path(CURRENT).is_symlink():
        for name in files_of_run(out, CURRENT):  # a copy of a run, see `refuse_foreign`
            out.delete(name)
    return out.point(CURRENT, folder)


# Replaced runs


def remove_old_folders(out: Output) -> None:
    """Remove the files of runs that were replaced a while ago, or never finished; the caller holds the lock."""
    for folder in old_folders(out, read_manifest(out)):
        out.delete_all(files_of_run(out, folder))


def files_of_run(out: Output, folder: str) -> list[str]:
    """Those files in a folder that a run has written: a user may have put others there."""
    return [f"{folder}/{name}" for name in out.inside(folder).list() if is_run_file(name)]


def old_folders(out: Output, manifest: Manifest | None) -> list[str]:
    """The run folders that may go: those replaced longer ago than GRACE, and those that were never finished."""
    now = datetime.now(UTC)
    replaced = manifest.replaced if manifest else {}
    old = []
    for name, is_finished in run_folders(out).items():
        if name in replaced:
            is_old = now - replaced[name] > GRACE
        else:
            is_old = not is_finished and (not out.remote or now - begun(name) > ABANDONED)
        if is_old:
            old.append(name)
    return old


def run_folders(out: Output) -> dict[str, bool]:
    """The names of all run folders, the oldest first, and whether their runs were finished."""
    files = out.list(RUNS)
    ours = [
        name[: found.end()]
        for name in files
        if (found := RUN_FOLDER.match(name)) and is_run_file(name[found.end() + 1 :])
    ]
    return {folder: f"{folder}/{MANIFEST}" in files for folder in ours}


def begun(folder: str) -> datetime:
    """When a run folder was begun."""
    return datetime.strptime(folder[len(RUNS) + 1 :][:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
