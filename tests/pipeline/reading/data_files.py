"""Data files of every kind, as their programs write them."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.items import ItemShape
from pipeline.prompts import BUILT_IN

TEXT_ALONE = ItemShape((BUILT_IN["answer"],))  # what an item is where nothing else is asked for
TEXT_KINDS = ("csv", "tsv", "jsonl", "ndjson", "json")


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    quoting: int = csv.QUOTE_ALL,
) -> Path:
    """Rows in the format and compression that the name says; `names` are the classes that a Parquet footer names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, columns = path.name.split(".")[1], list(rows[0])
    if kind == "parquet":
        table = pa.table({column: [row[column] for row in rows] for column in columns})
        pq.write_table(with_names(table, names) if names else table, path, row_group_size=3)
        return path
    if kind == "json":
        text = json.dumps(rows, ensure_ascii=False, indent=len(rows) % 3 or None)
    elif kind in ("jsonl", "ndjson"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", quoting=quoting)  # type: ignore[arg-type]
        writer.writerows([columns, *([row[column] for column in columns] for row in rows)])
        text = file.getvalue()
    return write_bytes(path, text.encode(encoding, "backslashreplace"))  # a lone surrogate as JSON writes it


def write_bytes(path: Path, content: bytes) -> Path:
    """Compressed as the name says."""
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


def write_lines(path: Path, *lines: str, end: str = "\n") -> Path:
    """A text file of these lines."""
    path.write_text("".join(line + end for line in lines), newline="")
    return path


def with_names(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A table whose footer names the classes of its labels, as `datasets` writes it."""
    features = {"label": {"names": list(names), "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
