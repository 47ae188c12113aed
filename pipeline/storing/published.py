"""The files that a finished run publishes: their names and schemas, the manifest that vouches for them, the history.

Invariant: manifest.json is written last and names the hash of every other published file, and its own, so that a reader
can tell a finished publication from one that was cut short or changed since.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, RunError
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import FOLDER, HISTORY, HISTORY_SCHEMA, MANIFEST, PART_NAME, PLAN, STORE
from pipeline.storing.manifest import OWN_KEYS, Manifest, NewerSchema, read_manifest
from pipeline.storing.sealed import is_sealed
from pipeline.storing.store import Finding


def mend_manifest(out: Output) -> list[Finding]:
    """Before a run: set a damaged manifest aside, so that the run can publish a new one; tells what was done.

    Raises RunError for one of a newer labelscore, whose output an older one must not overwrite.
    """
    try:
        read_manifest(out)
    except NewerSchema:
        raise
    except RunError:
        target = out.move(MANIFEST, f"store/set-aside/damaged-{MANIFEST}")
        return [Finding(MANIFEST, "it is damaged or was edited", f"moved to {target}, the run writes a new one")]
    return []


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


def refuse_foreign(out: Output, names: Iterable[str]) -> None:
    """Before a run: leave a directory alone that has files of these names, or a manifest, and is not ours.

    Raises InputError for one.
    """
    foreign = sorted({*names, MANIFEST} & out.list().keys())
    if foreign and not is_ours(out):
        raise InputError(f"{out} holds {foreign[0]}, which no run of labelscore wrote there; choose another --out")


def need_whole(out: Output, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises RunError where one of the published tables `names` is not the one that the manifest vouches for."""
    files = {name: digest for name, digest in manifest.files.items() if name in names}
    for finding in changed_files(out, files):
        raise RunError(
            f"{out}: {finding.name} is not the one that {MANIFEST} names: the last publication was cut short, or the "
            "file was changed since; run again"
        )


def mend_tables(out: Output, names: Iterable[str]) -> list[Finding]:
    """Before a run: set those tables aside that it would read back and cannot; tells what was done."""
    findings = []
    for name in filter(out.exists, names):
        try:
            with pq.ParquetFile(out.fetch(name), page_checksum_verification=True) as file:
                for _ in file.iter_batches():
                    pass
        except (OSError, ValueError, pa.ArrowException):
            target = out.move(name, f"store/set-aside/damaged-{PurePosixPath(name).name}")
            findings.append(Finding(name, "it is damaged", f"moved to {target}, the run writes a new one"))
    return findings


def changed_files(out: Output, files: Mapping[str, str]) -> Iterator[Finding]:
    """Those of `files` (hash by name, as in the manifest) that are missing or do not have their hash."""
    there = out.list()
    for name, digest in files.items():
        if name not in there:
            yield Finding(name, "it is missing", "run again to publish it")
        elif hash_file(out.fetch(name)) != digest:
            yield Finding(name, "it is not what the manifest says (changed, or a run was cut short)", "run again")


# Tables


def write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables as one Parquet file with page checksums."""
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)


def read_table(out: Output, name: str) -> pa.Table:
    """A published file as one table, page checksums verified. Raises ValueError where it is damaged."""
    try:
        return pq.read_table(out.fetch(name), page_checksum_verification=True)
    except OSError as error:  # what pyarrow raises for a wrong checksum
        raise ValueError(f"{name}: {error}") from error


def append_history(out: Output, rows: pa.Table) -> str:
    """Add the lines of one run to history.parquet (once, however often it is called for a run); returns its hash.

    A history that cannot be read is kept aside as history.parquet.damaged and a new one begun.
    """
    rows = rows.select(HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA)
    old = HISTORY_SCHEMA.empty_table()
    if out.exists(HISTORY):
        try:
            old = read_table(out, HISTORY).select(HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA)
        except (ValueError, KeyError):
            out.move(HISTORY, f"{HISTORY}.damaged")
    old = old.filter(pc.invert(pc.is_in(old["run_id"], rows["run_id"].combine_chunks())))
    with out.writing(HISTORY) as path:
        write_table(path, HISTORY_SCHEMA, [pa.concat_tables([old, rows])])
    return hash_file(out.path(HISTORY))
