"""Parquet files: the one way in which all of them are written and read back.

Invariant: every page carries its checksum, and whoever reads a file back here has it verified.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.storing.dictionary import SORTED_KEY, VERSION_KEYS
from pipeline.storing.files import Output
from pipeline.wording import num_chars

Row = tuple[Any, ...]

ROWS_AT_ONCE = 8192
ROWS_IN_GROUP = 10_000
CHARS_IN_GROUP = 64_000_000  # a group of very long texts is written earlier, so that memory stays bounded


def _open_writer(file: Path | IO[bytes], schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    options = _encodings(schema) | _sorting(schema) | options
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True, **options)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How the columns of a table for readers are encoded: most by a dictionary, as by default.

    Scores do not repeat, and a dictionary of them is a copy: their bytes compress better side by side. Parts of
    the store and scratch files stay as they are.
    """
    if not (schema.metadata or {}).keys() & {key.encode() for key in VERSION_KEYS}:
        return {}
    encodings = {field.name: "BYTE_STREAM_SPLIT" for field in schema if pa.types.is_floating(field.type)}
    if "item_id" in schema.names:
        encodings["item_id"] = "DELTA_BINARY_PACKED"
    leaves = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in schema]
    return {"column_encoding": encodings, "use_dictionary": [leaf for leaf in leaves if leaf not in encodings]}


def _sorting(schema: pa.Schema) -> dict[str, Any]:
    """What each row group is sorted by, as the schema says it."""
    columns = (schema.metadata or {}).get(SORTED_KEY.encode(), b"").decode()
    if not columns:
        return {}
    order = [(name, "ascending") for name in columns.split(", ")]
    return {"sorting_columns": pq.SortingColumn.from_ordering(schema, order)}


def write_table(file: Path | IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], **options: Any) -> None:
    """Write tables one after the other as one Parquet file; `options` are those of pyarrow's writer."""
    with _open_writer(file, schema, **options) as writer:
        for table in tables:
            writer.write_table(table)


def write_until(file: Path, schema: pa.Schema, tables: Iterable[pa.Table], num_bytes: int) -> None:
    """Write tables to a Parquet file until it has so many bytes: the rest of them stays to be taken."""
    with _open_writer(file, schema) as writer:
        for table in tables:
            writer.write_table(table)
            if file.stat().st_size >= num_bytes:
                return


@contextmanager
def writing_rows(path: Path, schema: pa.Schema) -> Iterator[Callable[[Row], None]]:
    """Yield what appends a row to a file of a run's work folder: values in the order of the schema.

    Memory holds one row group. After an error in the block the file is what it was, if there was one. Raises RunError
    where the disk is full or cannot be written.
    """
    rows: list[Row] = []
    size, partial = 0, path.with_name(f"{path.name}.partial")

    def add(row: Row) -> None:
        nonlocal size
        rows.append(row)
        size += num_chars(row)
        if len(rows) >= ROWS_IN_GROUP or size >= CHARS_IN_GROUP:
            flush()
            size = 0

    def flush() -> None:
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        with _explained(path):
            writer.write_batch(pa.record_batch(arrays, schema=schema))
        rows.clear()

    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _open_writer(partial, schema)
    try:
        yield add
        flush()
        with _explained(path):
            writer.close()
            partial.replace(path)
    except BaseException:
        with suppress(OSError):  # whatever went wrong has been said
            writer.close()
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(f"{path}: cannot be written ({reason}); make room, or choose another --out") from None


def read_batches(path: Path, columns: list[str], num_rows: int = ROWS_AT_ONCE) -> Iterator[pa.RecordBatch]:
    """Stream columns of a Parquet file, page checksums verified. Raises RunError for a damaged file."""
    try:
        # One row group and one thread at a time: read ahead, or with a heap for each thread, memory grows threefold.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            # Each group by itself: a batch of Arrow's goes on over several of them, however long their texts are.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(num_rows, columns=columns, row_groups=[group], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: cannot read it ({error}); run again, it is made anew") from error


def read_table(out: Output, name: str) -> pa.Table:
    """A file of an output as one table. Raises ValueError where it is damaged."""
    try:
        # Not `pq.read_table`: it takes data sets, too, and imports pandas for them.
        with pq.ParquetFile(out.fetch(name), page_checksum_verification=True) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:  # the first is what pyarrow raises for a wrong checksum
        raise ValueError(f"{name}: {error}") from error
