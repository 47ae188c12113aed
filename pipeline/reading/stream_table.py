"""A Parquet file written row by row.

Invariant: memory holds one row group, and the file takes its name only when it is complete and on disk.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError

ROW_GROUP_ROWS = 10_000
ROW_GROUP_CHARS = 64_000_000  # a group of very long texts is written earlier, so that memory stays bounded


class StreamTable:
    """A Parquet file written aside, row group by row group, that takes its name only when complete.

    Use it as a context manager; left without `complete`, it leaves no file. Raises RunError where the disk is full or
    cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.aside = path.with_name(f"{path.name}.partial")
        self.rows: list[tuple[Any, ...]] = []
        self.num_chars = 0
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "StreamTable":
        return self

    def add(self, row: tuple[Any, ...]) -> None:
        """Append a row: its values in the order of the schema."""
        self.rows.append(row)
        self.num_chars += sum(len(value) for value in row if isinstance(value, str))
        if len(self.rows) >= ROW_GROUP_ROWS or self.num_chars >= ROW_GROUP_CHARS:
            with self._writing():
                self._flush(self._open())

    def complete(self) -> None:
        """Write what is left and give the file its name."""
        with self._writing():
            writer = self._open()
            self._flush(writer)
            writer.close()
            with self.aside.open("rb+") as file:
                os.fsync(file.fileno())
            self.aside.replace(self.path)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # whatever went wrong has been told
            if self.writer is not None:
                self.writer.close()
        with suppress(OSError):
            self.aside.unlink(missing_ok=True)

    def _open(self) -> pq.ParquetWriter:
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self.aside, self.schema, compression="zstd", write_page_checksum=True)
        return self.writer

    def _flush(self, writer: pq.ParquetWriter) -> None:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=self.schema))
        self.rows.clear()
        self.num_chars = 0

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise RunError(f"{self.path}: cannot be written ({reason}); make room, or choose another --out") from None
