"""Which files are read, and the few records that every format's reader takes and gives.

Invariant: what a file holds is said by the endings of its name alone, written in any case.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.wording import num_chars

Kind = Literal["parquet", "csv", "tsv", "jsonl", "json"]
Compression = Literal["gzip", "zstd"]

BATCH_ROWS = 1_000
BATCH_CHARS = 4_000_000  # of texts: however long they are, memory holds about so much, or one of them
KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
}
ENDINGS = tuple(KINDS)
FAMILY: dict[Kind, str] = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "jsonl": "json", "json": "json"}
ENCODING_EXAMPLES = "utf-8, cp1252, latin-1 or utf-16"
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

T = TypeVar("T")


class Format(NamedTuple):
    """What a file holds, and what it is compressed with."""

    kind: Kind
    compression: Compression | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How text files are laid out, where they do not say so themselves."""

    encoding: str | None = None  # a name that Python knows; without one UTF-8, or what a byte order mark says
    columns: tuple[str, ...] | None = None  # names for the columns of CSV and TSV files without a header


PLAIN = Layout()  # where nothing was said of it


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a row's values should be: why there are none, and what was found instead."""

    reason: str
    raw: str


Values = tuple[object, ...] | Unreadable  # of a row: one for each column asked for, or why there are none
Batch = Sequence[Values]  # of consecutive rows


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a split (None for what the hub streams): what it says of itself, and passes over columns of it."""

    file: Path | None
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Batch]]
    num_rows: int | None = None  # None where only reading everything would tell
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by column, where it has a ClassLabel


def format_of(path: Path) -> Format | None:
    """What the endings of the name say; None where they say nothing known. Parquet is compressed inside."""
    name = Path(path.name.lower())
    compression = _COMPRESSIONS.get(name.suffix)
    kind = KINDS.get((name.with_suffix("") if compression else name).suffix)
    return None if kind is None or (compression and kind == "parquet") else Format(kind, compression)


def need_format(path: Path) -> Format:
    """What the endings of the name say. Raises InputError where they say nothing known."""
    how = format_of(path)
    if how is None:
        raise InputError(f"{path}: the name must end in one of {', '.join(ENDINGS)} to say what the file holds")
    return how


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a file makes the libraries raise into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path}: not readable; check its permissions") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError, csv.Error) as error:
        raise InputError(_explain(path, error)) from None


def _explain(path: Path, error: Exception) -> str:
    kind, compression = format_of(path) or ("data", None)
    if isinstance(error, UnicodeDecodeError) and kind not in ("parquet", "data"):
        what = f"is no text in {error.encoding} ({error.reason})"
        return f"{path}: {what}; give its encoding with --encoding: {ENCODING_EXAMPLES}, for example"
    what = f"{compression}-compressed {kind}" if compression else kind
    return f"{path}: cannot be read as {what} ({short(error)}); check the file"


def short(value: object, limit: int = 200) -> str:
    """The beginning of what may be long."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(error: object, limit: int = 200) -> str:
    """The beginning of an error's message, its line breaks and runs of blanks made single blanks."""
    return short(" ".join(str(error).split()) or type(error).__name__, limit)


def batched(rows: Iterator[T]) -> Iterator[list[T]]:
    """Rows in lists of `BATCH_ROWS`; fewer of long texts, and at the end."""
    batch: list[T] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += num_chars(row.raw if isinstance(row, Unreadable) else row)
        if len(batch) == BATCH_ROWS or size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
