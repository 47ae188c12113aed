"""Headers and rows out of data files of every kind, a batch at a time.

Invariant: memory does not grow with the number of rows, and a row is never dropped: what cannot be read as a row
becomes an `Unreadable` in its values' place, so that positions keep their meaning.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading.csv_files import csv_columns, csv_rows, looks_like_data
from pipeline.reading.formats import (
    BATCH_ROWS,
    ENDINGS,
    FAMILY,
    Batch,
    Format,
    Header,
    Kind,
    Layout,
    Unreadable,
    format_of,
    reading,
)
from pipeline.reading.json_rows import json_columns, json_rows
from pipeline.reading.parquet_rows import parquet_header, parquet_rows
from pipeline.reading.text_files import encoding_hint, known_encoding

__all__ = [
    "BATCH_ROWS",
    "ENDINGS",
    "FAMILY",
    "PLAIN",
    "Batch",
    "Format",
    "Header",
    "Kind",
    "Layout",
    "Unreadable",
    "encoding_hint",
    "format_of",
    "looks_like_data",
    "read_header",
    "read_rows",
    "reading",
]

PLAIN = Layout()  # where nothing was said of it


def read_header(file: Path, looked_for: Collection[str] = (), layout: Layout = PLAIN) -> Header:
    """Column names, row count and class names of a file.

    `looked_for` are the columns that the caller wants, that of the text first: a JSON file is read until they have all
    come up, and where a CSV file lacks the first, its delimiter is checked. Raises InputError.
    """
    kind = _kind(file, layout)
    with reading(file):
        if kind == "parquet":
            return parquet_header(file)
        if kind == "csv" or kind == "tsv":
            return Header(csv_columns(file, kind, layout, looked_for), None, {})
        return Header(json_columns(file, kind, layout.encoding, looked_for), None, {})


def read_rows(file: Path, columns: Sequence[str], layout: Layout = PLAIN) -> Iterator[Batch]:
    """Batches of at most `BATCH_ROWS` rows in the file's order: for each column asked for its values as Python objects.

    A column that the file or a record lacks is None; what is no row is the same `Unreadable` in every column. Raises
    InputError, also while it reads.
    """
    kind = _kind(file, layout)
    with reading(file):
        if kind == "parquet":
            yield from parquet_rows(file, columns)
        elif kind == "csv" or kind == "tsv":
            yield from csv_rows(file, kind, layout, columns)
        else:
            yield from json_rows(file, kind, layout.encoding, columns)


def _kind(file: Path, layout: Layout) -> Kind:
    """What the file's name says, where nothing was said of its layout that such a file says itself."""
    how = format_of(file)
    if how is None:
        raise InputError(f"{file}: the name must end in one of {', '.join(ENDINGS)} to say what the file holds")
    if layout.columns is not None and how.kind not in ("csv", "tsv"):
        raise InputError(f"{file}: a .{how.kind} file names its own columns; leave out --columns")
    if layout.encoding is not None:
        known_encoding(layout.encoding)
        if how.kind == "parquet":
            raise InputError(f"{file}: a .parquet file says its own encoding; leave out --encoding")
    return how.kind
