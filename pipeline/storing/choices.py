"""The last choice of an output, OUT/choice/: its record, what is shown of it, and the run that it ends in.

Invariant: choice.json is written last, and carries a hash of itself and of the files beside it. Its scores lie in the
store, as those of a run do.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.storing.files import Finding, Output, hash_bytes, hash_file
from pipeline.storing.layout import CHOICE, CHOICE_FILES, CHOICE_MANIFEST, CHOICE_PLAN
from pipeline.storing.manifest import Manifest, is_damaged, read_manifest
from pipeline.storing.sealed import seal, unseal

AGAIN = "choose again: what was scored is stored"


class BadPlan(Exception):
    """What an unfinished choice has left word of cannot be read."""


def begin_choice(out: Output, fingerprints: Iterable[str]) -> None:
    """Leave word of what is offered: until the choice is finished its scores are nobody's but its own."""
    out.write_bytes(CHOICE_PLAN, seal({"fingerprints": sorted(set(fingerprints))}))


def write_choice(out: Output, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Put a choice in place of the one before: `files` (names among CHOICE_FILES, with their bytes), and its record."""
    for name, data in files.items():
        out.write_bytes(name, data)
    for name in CHOICE_FILES:
        if name not in (*files, CHOICE_MANIFEST) and out.exists(name):
            out.delete(name)
    hashes = {name: hash_bytes(data) for name, data in files.items()}
    manifest = None if is_damaged(out) else read_manifest(out)  # a damaged one is for the next run to replace
    last_run = manifest.run_id if manifest else None
    out.write_bytes(CHOICE_MANIFEST, seal({**record, "last_run": last_run, "files": hashes}))
    out.delete(CHOICE_PLAN)


def read_choice(out: Output) -> dict[str, Any] | None:
    """The record of the last finished choice; None where there is none, or it is damaged (`verify_choice` tells)."""
    return _read(out, CHOICE_MANIFEST)


def _read(out: Output, name: str) -> dict[str, Any] | None:
    try:
        return unseal(out.read_bytes(name)) if out.exists(name) else None
    except ValueError:
        return None


def offered_folders(out: Output, manifest: Manifest | None, *, unfinished: bool = True) -> set[str]:
    """The folders of the store of what an `unfinished` choice has scored, and the last one if no run came after it.

    Once a later run has finished, what a finished choice has scored has served. An unfinished one is kept, whatever
    came later, until it is finished or given up. Raises BadPlan where that one cannot be read.
    """
    fingerprints: list[str] = []
    if unfinished and out.exists(CHOICE_PLAN):
        if (plan := _read(out, CHOICE_PLAN)) is None:
            raise BadPlan("it is damaged, so what an unfinished choice has scored is not known")
        fingerprints += plan["fingerprints"]
    choice = read_choice(out)
    if choice and _is_newest(choice, manifest):
        fingerprints += [candidate["fingerprint"] for candidate in choice["candidates"]]
    return {fingerprint[:16] for fingerprint in fingerprints}


def _is_newest(choice: Mapping[str, Any], manifest: Manifest | None) -> bool:
    """Whether no run has finished since the choice; clocks are asked only where it does not say after which it came."""
    if manifest is None:
        return True
    if "last_run" in choice:
        return bool(choice["last_run"] == manifest.run_id)
    return bool(choice["finished"] >= manifest.finished)


def verify_choice(out: Output) -> Iterator[Finding]:
    """What of the last choice is missing, or not what its record says."""
    found = {name: size for name, size in out.list(CHOICE).items() if name != CHOICE_PLAN}
    if not found:
        return
    choice = read_choice(out)
    if choice is None:
        what = "it is damaged or was edited" if CHOICE_MANIFEST in found else "it is missing: a choice was cut short"
        yield Finding(CHOICE_MANIFEST, what, AGAIN)
        return
    for name, digest in choice["files"].items():
        if name not in found:
            yield Finding(name, "it is missing", AGAIN)
        elif hash_file(out.fetch(name)) != digest:
            yield Finding(name, "it is not what the choice has written (changed, or a choice was cut short)", AGAIN)
    for name in sorted(found.keys() - choice["files"].keys() - {CHOICE_MANIFEST}):
        yield Finding(name, "the last choice did not write it", "move it elsewhere if it is yours")
