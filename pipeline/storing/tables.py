"""Parquet files: the one way in which all of them are written and read back.

Invariant: every page carries its checksum, and whoever reads a file back here has it verified.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.storing.files import Output

ROWS_AT_ONCE = 8192
ROWS_IN_GROUP = 10_000
CHARS_IN_GROUP = 64_000_000  # a group of very long texts is written earlier, so that memory stays bounded


def write_table(file: Path | IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], **options: Any) -> None:
    """Write tables one after the other as one Parquet file; `options` are those of pyarrow's writer."""
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True, **options) as writer:
        for table in tables:
            writer.write_table(table)


class RowWriter:
    """A Parquet file of a run's work folder, written aside row by row; memory holds one row group.

    It takes its name at the end of its block; after an error in it, what had the name before keeps it. Raises RunError
    where the disk is full or cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._aside = path.with_name(f"{path.name}.partial")
        self._rows: list[tuple[Any, ...]] = []
        self._num_chars = 0
        with self._explain_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._aside, schema, compression="zstd", write_page_checksum=True)

    def __enter__(self) -> "RowWriter":
        return self

    def add(self, row: tuple[Any, ...]) -> None:
        """Append a row: its values in the order of the schema."""
        self._rows.append(row)
        self._num_chars += sum(len(value) for value in row if isinstance(value, str))
        if len(self._rows) >= ROWS_IN_GROUP or self._num_chars >= CHARS_IN_GROUP:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
                with self._explain_errors():
                    self._writer.close()
                    self._aside.replace(self._path)
        finally:
            with suppress(OSError):  # whatever went wrong has been said
                self._writer.close()
            self._aside.unlink(missing_ok=True)

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        with self._explain_errors():
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows, self._num_chars = [], 0

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise RunError(f"{self._path}: cannot be written ({reason}); make room, or choose another --out") from None


def read_batches(path: Path, columns: list[str], num_rows: int = ROWS_AT_ONCE) -> Iterator[pa.RecordBatch]:
    """Stream columns of a Parquet file, page checksums verified. Raises RunError for a damaged file."""
    try:
        # One row group and one thread at a time: read ahead, or with a heap for each thread, memory grows threefold.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            yield from file.iter_batches(num_rows, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: cannot read it ({error}); run again, it is made anew") from error


def read_table(out: Output, name: str) -> pa.Table:
    """A file of an output as one table. Raises ValueError where it is damaged."""
    try:
        return pq.read_table(out.fetch(name), page_checksum_verification=True)
    except OSError as error:  # what pyarrow raises for a wrong checksum
        raise ValueError(f"{name}: {error}") from error
