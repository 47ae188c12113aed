"""Looking after an output: what it holds, whether all of it is sound, what of it is stale.

Invariant: nothing here changes an output but `prune`, which takes away only what no finished or unfinished run uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LabelscoreError, RunError
from pipeline.storing.files import Finding, Output
from pipeline.storing.history import read_history
from pipeline.storing.layout import (
    COPIED,
    FOLDER,
    ITEMS,
    MANIFEST,
    RUN_FILES,
    RUN_FOLDER,
    RUNS,
    SCORES,
    SCORES_SCHEMA,
    SET_ASIDE,
    STORE,
)
from pipeline.storing.manifest import Manifest, read_manifest
from pipeline.storing.parts import BadPart, Part, read_stored
from pipeline.storing.runs import changed_files, files_of_run, old_folders, run_folders
from pipeline.storing.tables import read_batches

State = Literal["published", "unfinished", "stale"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds under one fingerprint. A text scored again by --force counts twice in `num_texts`."""

    folder: str
    state: State
    model: str
    revision: str
    prompt: str
    notebook: bool
    num_texts: int
    num_pending: int
    num_parts: int
    num_bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """An output at a glance; `published` is the manifest of the last finished run."""

    published: Manifest | None
    stored: list[Stored]
    set_aside: dict[str, int]
    num_bytes: int
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Pruned:
    """A file that is, or would be, removed."""

    name: str
    num_bytes: int
    reason: str


def status(out: Output) -> Status:
    """What is stored, published, pending and stale. Reads footers only: `verify` is what proves the bytes."""
    files = {n: size for n, size in out.list().items() if not n.startswith(f"{RUNS}/") or RUN_FOLDER.match(n)}
    manifest = read_manifest(out)
    findings: list[Finding] = []
    stored = []
    for folder, names in groupby((n for n in files if _folder(n)), key=_folder):
        plan, parts, found = _peek(out, {name: files[name] for name in names})
        findings += found
        if parts or plan:
            stored.append(_stored(folder, manifest, plan, parts))
    return Status(
        manifest,
        sorted(stored, key=lambda s: (s.state, s.model, s.prompt, s.folder)),
        {name: size for name, size in files.items() if name.startswith(f"{SET_ASIDE}/")},
        sum(files.values()),
        findings,
    )


def _folder(name: str) -> str:
    """The fingerprint folder a file of the store lies in, or nothing."""
    parts = PurePosixPath(name).parts
    return parts[1] if len(parts) == 3 and parts[0] == STORE and FOLDER.fullmatch(parts[1]) else ""


def _peek(out: Output, files: dict[str, int]) -> tuple[dict[str, Any] | None, list[Part], list[Finding]]:
    plan, parts, findings = None, [], []
    for name, size in files.items():
        try:
            found = read_stored(out, name, size, verify=False)
        except (BadPart, RunError) as error:
            findings.append(Finding(name, str(error), "the next run that needs it sets it aside"))
            continue
        if isinstance(found, Part):
            parts.append(found)
        else:
            plan = found
    return plan, parts, findings


def _stored(folder: str, manifest: Manifest | None, plan: dict[str, Any] | None, parts: list[Part]) -> Stored:
    newest = max(parts, key=lambda part: part.generation) if parts else None
    pending = 0
    if plan:
        written = sum(part.num_texts for part in parts if part.generation >= plan["generation"])
        pending = max(0, plan["num_missing"] - written)
    used = {prompt.fingerprint[:16] for prompt in manifest.prompts} if manifest else set()
    state: State = "stale"
    if folder in used:
        state = "published"
    elif manifest is None or (plan and pending and plan["started"] > manifest.finished):
        state = "unfinished"
    names = (newest.model, newest.revision, newest.prompt) if newest else ("", "", "")
    if plan:
        names = (plan["model"], plan["revision"], plan["prompt"])
    return Stored(
        folder,
        state,
        *names,
        notebook=any(part.notebook for part in parts),
        num_texts=sum(part.num_texts for part in parts),
        num_pending=pending,
        num_parts=len(parts),
        num_bytes=sum(part.num_bytes for part in parts),
        files=tuple(part.name for part in parts),
    )


def prune(out: Output, *, dry_run: bool) -> list[Pruned]:
    """Remove what was set aside, parts of fingerprints that the last finished run does not use, and replaced runs.

    What an unfinished newer run has stored is kept. With `dry_run` nothing is removed. The caller holds the lock.
    Raises RunError when no run has finished (everything would be stale) or the manifest is damaged.
    """
    now = status(out)
    if now.published is None:
        raise RunError(
            f"{out}: no finished run, so nothing is known to be stale; finish one with `labelscore run` first"
        )
    stale = {s.folder: s for s in now.stored if s.state == "stale"}
    pruned = [Pruned(name, size, "set aside as unusable") for name, size in now.set_aside.items()]
    for name, size in out.list(STORE).items():
        if belongs := stale.get(_folder(name)):
            pruned.append(Pruned(name, size, f"prompt '{belongs.prompt}' of {belongs.model} is in no finished run"))
    for folder in old_folders(out, now.published):
        files = out.list(folder)
        pruned += [Pruned(n, files[n], "its run was replaced, or cut short") for n in files_of_run(out, folder)]
    if not dry_run:
        for file in pruned:
            out.delete(file.name)
    return pruned


def history(out: Output) -> list[dict[str, Any]]:
    """The lines of all past runs, oldest first. Raises RunError where they are damaged."""
    manifest = read_manifest(out)
    try:
        return list(read_history(out.inside(manifest.folder if manifest else "")).sort_by("finished").to_pylist())
    except ValueError as error:
        raise RunError(f"{out}: {error}; the next run begins a new history and keeps this file aside") from error


def verify(out: Output) -> list[Finding]:
    """Read every byte of an output and tell what is wrong with it; an empty list means that all is sound."""
    return [*_verify_published(out), *_verify_store(out)]


def _verify_store(out: Output) -> Iterator[Finding]:
    again = "the next run that needs it sets it aside and scores its texts again"
    for name, size in out.list(STORE).items():
        if name.startswith(f"{SET_ASIDE}/"):
            continue
        try:
            if not _folder(name):
                raise BadPart("stray", "it is no file of the store")
            if out.remote:
                out.fetch(name)  # what is there now, in place of a mirrored copy
            read_stored(out, name, size)
        except BadPart as bad:
            yield Finding(name, str(bad), again if _folder(name) else "move it elsewhere")
        except LabelscoreError as error:
            yield Finding(name, str(error), "see there")


def _verify_published(out: Output) -> Iterator[Finding]:
    files = {name for name in out.list() if not name.startswith((f"{STORE}/", f"{RUNS}/"))}
    try:
        manifest = read_manifest(out)
    except LabelscoreError as error:
        yield Finding(MANIFEST, str(error), "nothing published can be checked without it")
        return
    if manifest is None:
        if files:
            yield Finding(MANIFEST, "it is missing: no run has finished", "run again to publish")
        return
    yield from _verify_run(out, manifest.folder, manifest)
    if not manifest.folder:
        return
    yield from _verify_names(out, manifest)
    for name in sorted(files - manifest.files.keys() - {MANIFEST}):
        yield Finding(name, "the last finished run did not write it", "run again, or move it elsewhere if it is yours")
    for folder, is_finished in run_folders(out).items():
        if not is_finished:
            yield Finding(folder, "its run is at work, or was cut short", "the next run removes it")
        try:
            read_manifest(out.inside(folder))
        except LabelscoreError as error:
            yield Finding(f"{folder}/{MANIFEST}", str(error), "run again")


def _verify_names(out: Output, manifest: Manifest) -> Iterator[Finding]:
    """What stands in OUT/ itself is of the last run: links, or copies."""
    run = out.inside(manifest.folder)
    names = set(COPIED) if out.remote else {n for n in filter(out.exists, RUN_FILES) if not _is_same(out, run, n)}
    yield from changed_files(out, {name: digest for name, digest in manifest.files.items() if name in names})


def _is_same(out: Output, run: Output, name: str) -> bool:
    return run.exists(name) and out.path(name).samefile(run.path(name))


def _verify_run(out: Output, folder: str, manifest: Manifest) -> Iterator[Finding]:
    """Every file in the folder of a run; `manifest` may be the output's own, which the folder has, too."""
    run, prefix = out.inside(folder), f"{folder}/" if folder else ""
    problems = list(changed_files(run, manifest.files))
    others = {name for name in run.list() if not name.startswith((f"{STORE}/", f"{RUNS}/"))}
    for name in sorted(others - manifest.files.keys() - {MANIFEST}):
        problems.append(Finding(name, "its run did not write it", "run again, or move it elsewhere if it is yours"))
    yield from (replace(problem, name=f"{prefix}{problem.name}") for problem in problems)
    if not problems:
        yield from _verify_scores(run, manifest)


def _verify_scores(out: Output, manifest: Manifest) -> Iterator[Finding]:
    """The published table has exactly one row for each item, prompt and label, in order."""
    rows = sum(len(prompt.labels) for prompt in manifest.prompts)
    num_items = pq.read_metadata(out.fetch(ITEMS)).num_rows
    file = out.fetch(SCORES)
    if pq.read_schema(file) != SCORES_SCHEMA:
        yield Finding(SCORES, "its columns are not those of this version", "run again")
        return
    num_rows, in_order = 0, True
    last: tuple[Any, ...] = (-1, "", -1)
    for batch in read_batches(file, ["item_id", "prompt", "label_id"]):
        num_rows += batch.num_rows
        in_order &= _rises(batch, last)
        last = tuple(column[-1].as_py() for column in batch.columns)
    if not in_order:
        yield Finding(SCORES, "an item, prompt and label is there twice or out of order", "run again")
    if num_rows != num_items * rows or num_items != manifest.dataset.num_items:
        yield Finding(SCORES, f"{num_rows} rows, not {rows} for each of {num_items} items", "run again")


def _rises(batch: pa.RecordBatch, last: tuple[Any, ...]) -> bool:
    """Whether (item_id, prompt, label_id) rises from row to row, beginning above `last`."""
    item, label = (batch.column(i).to_numpy() for i in (0, 2))
    names = batch.column(1).dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(names.dictionary.to_pylist(), object)))
    prompt = ranks[names.indices.to_numpy()]
    above = (np.diff(prompt) > 0) | ((np.diff(prompt) == 0) & (np.diff(label) > 0))
    rises = (np.diff(item) > 0) | ((np.diff(item) == 0) & above)
    return bool(rises.all()) and tuple(column[0].as_py() for column in batch.columns) > last
