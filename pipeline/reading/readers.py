"""Rows out of .parquet, .jsonl and .csv files, a batch at a time.

Invariant: memory does not grow with the number of rows, and a row is never dropped: what cannot be read as a row
becomes an `Unreadable` in the text's place, so that positions keep their meaning.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

SUFFIXES = (".parquet", ".jsonl", ".csv")
BATCH_ROWS = 1_000
MAX_FIELD_CHARS = 2**31 - 1  # the csv module's own limit of 131,072 characters is less than a long article

T = TypeVar("T")
Rows = Iterator[tuple[list[object], list[object] | None]]  # texts and, where there is a label column, as many labels


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a row's text should be: why there is none, and what was found instead."""

    reason: str
    raw: str


class Header(NamedTuple):
    """What a file says about itself before any row is read."""

    columns: tuple[str, ...]
    num_rows: int | None  # None where only reading everything would tell
    class_names: dict[str, tuple[str, ...]]  # column -> names, where the file carries a ClassLabel feature


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a file makes the libraries raise into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path}: not readable; check its permissions") from None
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        kind = path.suffix.removeprefix(".") or "data"
        raise InputError(f"{path}: cannot be read as {kind} ({_short(error)}); check the file") from None


def _short(value: object, limit: int = 200) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_header(file: Path) -> Header:
    """Column names, row count and class names of a file, from its footer or first row. Raises InputError."""
    with reading(file):
        if file.suffix == ".parquet":
            return _parquet_header(file)
        columns = _csv_columns(file) if file.suffix == ".csv" else _jsonl_columns(file)
    if not columns:
        what = "a header line" if file.suffix == ".csv" else "a line that is a JSON object"
        raise InputError(f"{file}: holds no row, not even {what}; check the file")
    return Header(columns, None, {})


def read_rows(file: Path, text_column: str, label_column: str | None) -> Rows:
    """Batches of texts and labels as Python objects, in the file's order. Raises InputError while it reads."""
    reader = {".parquet": _parquet_rows, ".jsonl": _jsonl_rows, ".csv": _csv_batches}[file.suffix]
    with reading(file):
        yield from reader(file, text_column, label_column)


# Parquet


def _open_parquet(file: Path) -> pq.ParquetFile:
    # A bounded buffer in place of pre-buffered row groups: one group may be the whole file.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def _parquet_header(file: Path) -> Header:
    with _open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        return Header(tuple(schema.names), parquet.metadata.num_rows, _class_names(schema))


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """ClassLabel names that `datasets` writes into a Parquet file's footer."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # a footer of another make: no names


def _parquet_rows(file: Path, text_column: str, label_column: str | None) -> Rows:
    wanted = [text_column] if label_column is None else [text_column, label_column]
    with _open_parquet(file) as parquet:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=wanted):
            texts = _texts(batch.column(text_column))
            yield texts, None if label_column is None else _texts(batch.column(label_column))


def _texts(column: "pa.Array[Any]") -> list[object]:
    """Python values; bytes stay bytes where they are not UTF-8, which Arrow does not check."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    values: list[object] = column.to_pylist()
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(raw: bytes) -> object:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


# CSV and JSON lines: bytes that are not UTF-8 come through as lone surrogates and are refused row by row


def _open(file: Path) -> IO[str]:
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="" if file.suffix == ".csv" else "\n")


def _csv_rows(lines: IO[str]) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    return csv.reader(lines, strict=True)


def _csv_columns(file: Path) -> tuple[str, ...]:
    with _open(file) as lines:
        return tuple(next((row for row in _csv_rows(lines) if row), []))


def _csv_batches(file: Path, text_column: str, label_column: str | None) -> Rows:
    with _open(file) as lines:
        rows = (row for row in _csv_rows(lines) if row)
        header = next(rows)
        text_at = header.index(text_column)
        label_at = None if label_column is None else header.index(label_column)
        for batch in _batches(rows):
            texts = [_field(row, text_at, len(header)) for row in batch]
            labels: list[object] | None = (
                None if label_at is None else [row[label_at] if label_at < len(row) else None for row in batch]
            )
            yield texts, labels


def _field(row: list[str], position: int, width: int) -> object:
    if len(row) != width:
        return Unreadable(f"{len(row)} fields where the header has {width}", ",".join(row))
    return row[position]


def _jsonl_columns(file: Path) -> tuple[str, ...]:
    """Keys of the first records, in the order they come up: any one record may lack some."""
    with _open(file) as lines:
        first = next(_batches(r for r in map(_record, lines) if isinstance(r, dict)), [])
    return tuple(dict.fromkeys(key for record in first for key in record))


def _jsonl_rows(file: Path, text_column: str, label_column: str | None) -> Rows:
    with _open(file) as lines:
        for batch in _batches(line for line in lines if line.strip()):
            records = [_record(line) for line in batch]
            texts = [r.get(text_column) if isinstance(r, dict) else r for r in records]
            if label_column is None:
                yield texts, None
            else:
                yield texts, [r.get(label_column) if isinstance(r, dict) else None for r in records]


def _record(line: str) -> dict[str, Any] | Unreadable:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("not valid JSON", line)
    return record if isinstance(record, dict) else Unreadable("not a JSON object", line)


def _batches(rows: Iterator[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
