"""Parquet files.

Invariant: values are plain Python objects, and a string that is not UTF-8 (which Arrow does not check) stays bytes.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reading.formats import BATCH_CHARS, BATCH_ROWS, Batch, Layout, Part, Unreadable


def _open(file: Path) -> pq.ParquetFile:
    # A bounded buffer in place of pre-buffered row groups: one group may be the whole file.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def open_parquet(file: Path, _layout: Layout, _looked_for: Collection[str]) -> Part:
    """Columns, number of rows and class names are in the footer."""
    with _open(file) as parquet:
        schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
    return Part(file, tuple(schema.names), partial(_read, file), num_rows, _class_names(schema))


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """ClassLabel names that `datasets` writes into a Parquet file's footer."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        named = {column: _names_of(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # a footer of another make: no names
    return {column: names for column, names in named.items() if names}


def _names_of(feature: object) -> tuple[str, ...]:
    """The names of a ClassLabel, or of a list of them; else none."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_of(feature[0])
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _names_of(feature.get("feature"))
    return tuple(map(str, feature.get("names") or ())) if feature.get("_type") == "ClassLabel" else ()


def _read(file: Path, columns: Sequence[str]) -> Iterator[Batch]:
    """Batches of the columns asked for; nothing else is read. A column that is not there is None throughout."""
    with _open(file) as parquet:
        there = [column for column in dict.fromkeys(columns) if column in parquet.schema_arrow.names]
        for batch in _batches(parquet, there):
            names = batch.schema.names  # of columns of one name the first counts, as in the other formats
            values = [
                _objects(batch.column(names.index(column))) if column in there else [None] * batch.num_rows
                for column in columns
            ]
            rows: Batch = list(zip(*values, strict=True))
            for found in values:
                if Unreadable in map(type, found):  # then the whole row is
                    rows = [v if isinstance(v, Unreadable) else row for v, row in zip(found, rows, strict=True)]
            yield rows


def _batches(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of BATCH_ROWS, of fewer rows in a row group whose texts are long on average."""
    for group in range(parquet.num_row_groups):
        found = parquet.metadata.row_group(group)
        leaves = map(found.column, range(found.num_columns))
        num_bytes = sum(
            leaf.total_uncompressed_size
            for leaf in leaves
            if any(f"{leaf.path_in_schema}.".startswith(f"{column}.") for column in columns)
        )
        num_rows = max(1, min(BATCH_ROWS, found.num_rows * BATCH_CHARS // max(1, num_bytes)))
        yield from parquet.iter_batches(num_rows, columns=columns, row_groups=[group])


def _objects(column: "pa.Array[Any]") -> list[object]:
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:  # inside a list or a record, where the rows are looked at one by one
        return [_object(value) for value in column]
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(raw: bytes) -> object:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _object(value: "pa.Scalar[Any]") -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return Unreadable("a list or record holds bytes that are not valid UTF-8", repr(error.object)[2:-1])
