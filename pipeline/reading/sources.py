"""Where a split's rows come from: one or many files, read one after the other.

Invariant: the order of the files is the order of their names, so that a row keeps its position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading.readers import SUFFIXES, Rows, read_header, read_rows, reading


@dataclass(frozen=True, slots=True)
class Source:
    """One split, wherever it lies: what is known of it, and `read`, which starts a pass over its two columns."""

    name: str
    columns: tuple[str, ...]  # that every file has
    partial_columns: tuple[str, ...]  # that only some files have
    class_names: dict[str, tuple[str, ...]]  # column -> names, where there is a ClassLabel feature
    num_rows: int | None  # None where only reading everything would tell
    read: Callable[[str, str | None], Rows]
    revision: str | None = None


def find_files(path: Path, split: str) -> list[Path]:
    """The data files at `path`: itself, or those of a directory in the order of their names, all of one kind.

    In a directory where some names begin with the split's (`test-00000-of-00002.parquet`), only those are taken.
    Raises InputError where there is none, or more than one kind.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: the name must end in one of {', '.join(SUFFIXES)} to say what the file holds")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory; check the path")
    with reading(path):
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES and f.is_file() and f.name[0] != ".")
    if not files:
        raise InputError(f"{path}: the directory holds no {', '.join(SUFFIXES)} file")
    files = [f for f in files if _belongs_to(f, split)] or files
    kinds = sorted({f.suffix for f in files})
    if len(kinds) > 1:
        raise InputError(f"{path}: the directory holds files of several kinds ({', '.join(kinds)}); name one file")
    return files


def _belongs_to(file: Path, split: str) -> bool:
    rest = file.name.removeprefix(split)
    return rest != file.name and rest[0] in "-_."


def open_files(name: str, files: list[Path]) -> Source:
    """A source over files of one kind; reads their headers. Raises InputError for what is no such file."""
    headers = [read_header(file) for file in files]
    seen = tuple(dict.fromkeys(column for header in headers for column in header.columns))
    common = tuple(c for c in headers[0].columns if all(c in header.columns for header in headers))
    counts = [header.num_rows for header in headers]
    num_rows = None if None in counts else sum(count or 0 for count in counts)
    missing = tuple(column for column in seen if column not in common)
    return Source(name, common, missing, headers[0].class_names, num_rows, partial(_read_files, files))


def _read_files(files: list[Path], text_column: str, label_column: str | None) -> Rows:
    for file in files:
        yield from read_rows(file, text_column, label_column)
