"""Looking after an output: what it holds, whether all of it is sound, what of it is stale.

Invariant: nothing here changes an output but `prune`, which takes away only what no finished or unfinished run uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import LabelscoreError, RunError
from pipeline.storing.choices import BadPlan, offered_folders, read_choice, verify_choice
from pipeline.storing.files import Finding, Output, is_gone
from pipeline.storing.history import read_history
from pipeline.storing.layout import (
    CHOICE,
    CHOICE_PLAN,
    COPIED,
    CURRENT,
    FOLDER,
    ITEM_CHOICES,
    ITEMS,
    MANIFEST,
    NORMS,
    PLAN,
    RUN_FILES,
    RUN_FOLDER,
    RUNS,
    SCORES,
    SCORES_SCHEMA,
    SET_ASIDE,
    STORE,
    score_files,
)
from pipeline.storing.manifest import Manifest, NewerSchema, read_manifest
from pipeline.storing.parts import BadPart, Part, facts_in, load_keys, num_pending, read_stored
from pipeline.storing.runs import changed_files, files_of_run, old_folders, run_folders
from pipeline.storing.tables import read_batches

State = Literal["published", "offered", "unfinished", "stale"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds under one fingerprint. A text scored again by --force counts twice in `num_texts`.

    `is_known`: whether what was to be scored could be read; where it could not, the scores count as unfinished.
    """

    folder: str
    state: State
    model: str
    revision: str
    prompt: str
    num_texts: int
    num_pending: int
    num_bytes: int
    is_known: bool


@dataclass(frozen=True, slots=True)
class Status:
    """An output at a glance. `published` is the manifest of the last finished run, the replaced ones came before it.

    `choice`: the record of the last choice.
    """

    published: Manifest | None
    choice: dict[str, Any] | None
    num_replaced_bytes: int
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
    """What is stored, published, pending and stale, by footers: `verify` is what proves the bytes.

    On an object store names tell it: a listing, and a request or two for each fingerprint.
    """
    files = {n: size for n, size in out.list().items() if not n.startswith(f"{RUNS}/") or RUN_FOLDER.match(n)}
    manifest = read_manifest(out)
    offered, findings = _offered(out, manifest)
    stored = []
    for folder, names in groupby((n for n in files if _folder(n)), key=_folder):
        held = _peek(out, {name: files[name] for name in names})
        findings += held.findings
        if held.parts or held.plan or not held.is_known:
            stored.append(_stored(out, folder, held, manifest, offered))
    current = manifest.folder if manifest else ""
    replaced = [size for name, size in files.items() if (run := RUN_FOLDER.match(name)) and run[0] != current]
    return Status(
        manifest,
        read_choice(out),
        sum(replaced),
        sorted(stored, key=lambda s: (s.state, s.model, s.prompt, s.folder)),
        {name: size for name, size in files.items() if name.startswith(f"{SET_ASIDE}/")},
        sum(files.values()),
        findings,
    )


def _folder(name: str) -> str:
    """The fingerprint folder a file of the store lies in, or nothing."""
    parts = PurePosixPath(name).parts
    return parts[1] if len(parts) == 3 and parts[0] == STORE and FOLDER.fullmatch(parts[1]) else ""


def _offered(out: Output, manifest: Manifest | None) -> tuple[set[str] | None, list[Finding]]:
    """The folders that belong to a choice; None where that cannot be told."""
    try:
        return offered_folders(out, manifest), []
    except BadPlan as error:
        return None, [Finding(CHOICE_PLAN, str(error), "all scores are kept: choose again, or prune --unfinished")]


@dataclass(slots=True)
class _Held:
    """What lies in a fingerprint's folder; `is_known`: whether all that tells what is pending could be read."""

    plan: dict[str, Any] | None = None
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)  # generation, number of texts
    num_bytes: int = 0  # of them
    whose: tuple[str, str, str] = ("", "", "")  # model, revision and prompt
    findings: list[Finding] = field(default_factory=list)
    is_known: bool = True


def _peek(out: Output, files: dict[str, int]) -> _Held:
    held, newest = _Held(), -1
    for name, size in sorted(files.items(), reverse=True):  # the plan comes first
        facts = facts_in(name) if out.remote and any(held.whose) else None
        if not facts:
            try:
                found = read_stored(out, name, size, verify=False)
            except (BadPart, NewerSchema) as error:
                held.findings.append(Finding(name, str(error), "the next run that needs it sets it aside"))
                held.is_known &= isinstance(error, BadPart) and PurePosixPath(name).name != PLAN
                continue
            except RunError as error:
                if is_gone(error):
                    continue
                raise
            if not isinstance(found, Part):
                held.plan, held.whose = found, (found["model"], found["revision"], found["prompt"])
                continue
            facts = found.generation, found.num_texts
            if not held.plan and found.generation > newest:
                newest, held.whose = found.generation, (found.model, found.revision, found.prompt)
        held.parts[name] = facts
        held.num_bytes += size
    return held


def _stored(out: Output, folder: str, held: _Held, manifest: Manifest | None, offered: set[str] | None) -> Stored:
    plan, parts = held.plan, held.parts.values()
    pending = num_pending(plan, parts) if plan else 0
    is_known = held.is_known and offered is not None
    state: State = "stale"
    if manifest and folder in {prompt.fingerprint[:16] for prompt in manifest.prompts}:
        state = "published"
    elif offered and folder in offered:
        state = "offered"
    elif manifest is None or plan or not is_known:
        state = "unfinished"  # a plan ends when its run is published, whatever has finished since
        pending = pending or _num_hidden(out, held)
    return Stored(
        folder,
        state,
        *held.whose,
        num_texts=sum(num_texts for _, num_texts in parts),
        num_pending=pending,
        num_bytes=held.num_bytes,
        is_known=is_known,
    )


def _num_hidden(out: Output, held: _Held) -> int:
    """How many texts are pending though as many were written: some twice, by --force or two workers, others never."""
    if not held.plan:
        return 0
    own = {name: facts for name, facts in held.parts.items() if facts[0] >= held.plan["generation"]}
    num_texts, missing = sum(n for _, n in own.values()), int(held.plan["num_missing"])
    if num_texts == missing and len({generation for generation, _ in own.values()}) < 2:  # nothing twice
        return 0
    try:
        parts = [read_stored(out, name, 0, verify=False) for name in own]
        keys = [load_keys(out, part) for part in parts if isinstance(part, Part)]
    except (BadPart, RunError):  # it will be found by whoever needs it
        return missing
    return max(0, missing - len(np.unique(np.concatenate(keys).astype("<u8"), axis=0))) if keys else missing


def prune(out: Output, *, dry_run: bool, unfinished: bool = False) -> list[Pruned]:
    """Remove what was set aside, parts of fingerprints that the last finished run does not use, and replaced runs.

    What an unfinished run or choice has stored is kept, and what the last choice has where no run came after it; with
    `unfinished` what was not finished is given up, too. With `dry_run` nothing is removed. The caller holds the lock.
    Raises RunError when no run has finished (everything would be stale) or the manifest is damaged.
    """
    listed = out.list(STORE)  # before it is judged: what another machine stores meanwhile is not of what was judged
    now = status(out)
    if now.published is None:
        raise RunError(
            f"{out}: no finished run, so nothing is known to be stale; finish one with `labelscore run` first"
        )
    chosen = offered_folders(out, now.published, unfinished=False)
    reasons = {s.folder: reason for s in now.stored if (reason := _why_removed(s, chosen, unfinished=unfinished))}
    pruned = [Pruned(name, size, "set aside as unusable") for name, size in now.set_aside.items()]
    if unfinished:  # of scores that are in use only the word goes that some are pending
        reasons |= {f"{STORE}/{s.folder}/{PLAN}": "it tells of pending texts" for s in now.stored if _is_open(s)}
        pruned += [
            Pruned(n, size, "its choice is not finished") for n, size in out.list(CHOICE).items() if n == CHOICE_PLAN
        ]
    for name, size in listed.items():
        if reason := reasons.get(_folder(name), reasons.get(name, "")):
            pruned.append(Pruned(name, size, reason))
    for folder in old_folders(out, now.published):
        files = out.list(folder)
        pruned += [Pruned(n, files[n], "its run was replaced, or cut short") for n in files_of_run(out, folder)]
    if not dry_run:
        # Plans first: cut short, they would tell of the parts that are gone as pending, and what is left would be kept.
        out.delete_all(sorted((file.name for file in pruned), key=lambda name: PurePosixPath(name).name != PLAN))
    return pruned


def _why_removed(stored: Stored, chosen: set[str], *, unfinished: bool) -> str:
    """Why the scores of a fingerprint go, or nothing where they stay; `chosen`: those of the last choice stay."""
    whose = f"prompt '{stored.prompt}' of {stored.model}" if stored.prompt else "what nobody can read"
    if stored.state == "stale":
        return f"{whose} is in no finished run"
    if not unfinished or stored.state == "published" or stored.folder in chosen:
        return ""
    if stored.state == "offered":
        return f"{whose} was offered to a choice that is not finished"
    if not stored.is_known:
        return f"{whose} may be unfinished: what says so is damaged, or of a newer labelscore"
    if not stored.num_pending:
        return f"{whose} is unfinished: it is scored, and no run with it has finished"
    return f"{whose} is unfinished: {stored.num_pending:,} texts are pending"


def _is_open(stored: Stored) -> bool:
    return stored.num_pending > 0 or not stored.is_known


def history(out: Output) -> list[dict[str, Any]]:
    """The lines of all past runs, oldest first. Raises RunError where they are damaged."""
    manifest = read_manifest(out)
    try:
        return list(read_history(out.inside(manifest.folder if manifest else "")).sort_by("finished").to_pylist())
    except ValueError as error:
        raise RunError(f"{out}: {error}; the next run begins a new history and keeps this file aside") from error


def verify(out: Output) -> list[Finding]:
    """Read every byte of an output and tell what is wrong with it; an empty list means that all is sound."""
    return [*_verify_published(out), *verify_choice(out), *_verify_store(out)]


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
            if out.remote and not isinstance(error, NewerSchema) and not is_gone(error):
                raise  # a store that is gone would be asked for each of the other parts, too
            yield Finding(name, str(error), "see there")


def _verify_published(out: Output) -> Iterator[Finding]:
    try:
        manifest = read_manifest(out)
    except LabelscoreError as error:
        yield Finding(MANIFEST, str(error), "nothing published can be checked without it")
        return
    if manifest is None:
        if any(_published(out)):
            yield Finding(MANIFEST, "it is missing: no run has finished", "run again to publish")
        return
    run = out.inside(manifest.folder)
    problems = [*changed_files(run, manifest.files), *_strays(run, manifest)]
    prefix = f"{manifest.folder}/" if manifest.folder else ""
    yield from (replace(problem, name=f"{prefix}{problem.name}") for problem in problems)
    if not problems:
        yield from _verify_scores(run, manifest)
    if not manifest.folder:
        return
    # What stands in OUT/ itself is of the last run: links to all of it, or copies of some.
    has_links = any(out.path(name).is_symlink() for name in (CURRENT, *RUN_FILES))
    there = [name for name in manifest.files if run.exists(name) and (has_links or out.exists(name))]
    names = COPIED if out.remote else [name for name in there if not _is_same(out, run, name)]
    yield from changed_files(out, {name: manifest.files[name] for name in names if name in manifest.files})
    yield from _strays(out, manifest)
    removable = old_folders(out, manifest)
    for folder, is_finished in run_folders(out).items():
        if not is_finished:
            when = "the next run removes it" if folder in removable else "a run removes it when it is a day old"
            yield Finding(folder, "its run is at work, or was cut short", when)
        try:
            read_manifest(out.inside(folder))
        except LabelscoreError as error:
            yield Finding(f"{folder}/{MANIFEST}", str(error), "run again")


def _published(folder: Output) -> set[str]:
    return {name for name in folder.list() if not name.startswith((f"{STORE}/", f"{RUNS}/", f"{CHOICE}/"))}


def _strays(folder: Output, manifest: Manifest) -> Iterator[Finding]:
    for name in sorted(_published(folder) - manifest.files.keys() - {MANIFEST}):
        yield Finding(name, "the last finished run did not write it", "run again, or move it elsewhere if it is yours")


def _is_same(out: Output, run: Output, name: str) -> bool:
    return out.exists(name) and out.path(name).samefile(run.path(name))


def _verify_scores(out: Output, manifest: Manifest) -> Iterator[Finding]:
    """The published table has exactly one row for each item, prompt and label, in order."""
    num_items, num_expected = _expected_rows(out, manifest)
    files = [out.fetch(name) for name in score_files(manifest.files)]
    before_norms = pa.schema(field for field in SCORES_SCHEMA if field.name not in NORMS)
    if any(pq.read_schema(file) not in (SCORES_SCHEMA, before_norms) for file in files):
        yield Finding(SCORES, "its columns are not those of this version", "run again")
        return
    names = pa.array(sorted(prompt.name for prompt in manifest.prompts))
    num_rows, in_order, last = 0, True, (-1, 0)
    for batch in chain.from_iterable(read_batches(file, ["item_id", "prompt", "label_id"]) for file in files):
        item, label = batch["item_id"].to_numpy(), batch["label_id"].to_numpy()
        prompt = pc.fill_null(pc.index_in(batch["prompt"], names), -1).to_numpy()
        within = prompt.astype(np.int64) * (1 << 16) + label  # an int16 has room
        steps = np.diff(item, prepend=last[0]), np.diff(within, prepend=last[1])
        rises = (steps[0] > 0) | ((steps[0] == 0) & (steps[1] > 0))
        in_order &= bool((rises & (prompt >= 0)).all())
        num_rows, last = num_rows + batch.num_rows, (item[-1], within[-1])
    if not in_order:
        yield Finding(SCORES, "an item, prompt and label is there twice or out of order", "run again")
    if num_rows != num_expected or num_items != manifest.dataset.num_items:
        yield Finding(SCORES, f"{num_rows} rows, not {num_expected} for {num_items} items", "run again")


def _expected_rows(out: Output, manifest: Manifest) -> tuple[int, int]:
    """How many items there are, and score rows of all prompts: one for each label, or for each choice of an item.

    Prompts that are tasks share the items out among them.
    """
    file = out.fetch(ITEMS)
    num_items = pq.read_metadata(file).num_rows
    num_rows = num_items * sum(len(prompt.labels) for prompt in manifest.prompts)
    num_own = sum(prompt.has_choices for prompt in manifest.prompts if prompt.task is None)
    num_own += any(prompt.task for prompt in manifest.prompts)
    if num_own:
        batches = read_batches(file, [ITEM_CHOICES])
        num_rows += num_own * sum(len(pc.list_flatten(batch[ITEM_CHOICES])) for batch in batches)
    return num_items, num_rows
