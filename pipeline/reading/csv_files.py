"""Header and rows of CSV and TSV files.

Invariant: a file whose columns are separated by something else is named as that, never read as one of a single column.
"""

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError
from pipeline.reading.csv_rows import DELIMITERS, Table
from pipeline.reading.formats import Batch, Layout, Unreadable, batched, format_of, short
from pipeline.reading.text_files import open_text

TextKind = Literal["csv", "tsv"]
DELIMITER_NAMES = {"\t": "tabs", ",": "commas"}
OTHER_DELIMITERS = ("\t", ";", "|", ",", ":")
MAX_NAME_CHARS = 60
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


@contextmanager
def _open(file: Path, kind: TextKind, layout: Layout) -> Iterator[Table]:
    with open_text(file, layout.encoding) as lines:
        yield Table(lines, kind)


def csv_columns(file: Path, kind: TextKind, layout: Layout, looked_for: Collection[str]) -> tuple[str, ...]:
    """The names in the file's first row, or those that the user gave in its place. Raises InputError."""
    with _open(file, kind, layout) as table:
        first = table.header()
        line_number, line = table.line_number, table.raw
    if first is None:
        what = "holds no row" if layout.columns else "holds no row, not even a header line"
        raise InputError(f"{file}: {what}; check the file")
    fields = [] if isinstance(first, Unreadable) else first
    if layout.columns is not None:
        return _given_columns(file, kind, layout.columns, fields, line)
    wanted = next(iter(looked_for), None)
    if not fields or (wanted is not None and wanted not in fields):
        _refuse_other_delimiter(file, kind, fields, line, wanted)
        if not line.isascii() and re.search("[\udc80-\udcff]", line):
            what = f"its header is not text in {layout.encoding or 'utf-8'}"
            raise InputError(f"{file}: {what}; give its encoding with --encoding, cp1252 for example")
    if isinstance(first, Unreadable):
        raise InputError(f"{file}: line {line_number}, its header, is broken: {first.reason}; mend it")
    return tuple(fields)


def _given_columns(
    file: Path, kind: TextKind, columns: tuple[str, ...], first: list[str], line: str
) -> tuple[str, ...]:
    twice = [column for at, column in enumerate(columns) if column in columns[:at]]
    if twice:
        raise InputError(f"--columns: names '{twice[0]}' twice; name each column differently")
    if [_plain(field) for field in first] == [_plain(column) for column in columns]:
        raise InputError(f"{file}: its first line is a header already; leave out --columns")
    if len(first) != len(columns):
        for delimiter in OTHER_DELIMITERS:
            if len(_split(line, delimiter)) == len(columns):
                _refuse_delimiter(file, kind, delimiter, line)
    return columns


def _plain(name: str) -> str:
    return name.strip().casefold()


def csv_rows(file: Path, kind: TextKind, layout: Layout, columns: Sequence[str]) -> Iterator[Batch]:
    """Batches of the columns asked for; a column that is not there is None throughout."""
    with _open(file, kind, layout) as table:
        if layout.columns is None:
            header, told = table.header(), "the header has"
            names = header if isinstance(header, list) else []
        else:
            names, told = list(layout.columns), "--columns names"
        places = [names.index(column) if column in names else None for column in columns]
        for batch in batched(table.rows(len(names), told)):
            yield tuple(_column(batch, place) for place in places)


def _column(rows: list[list[str] | Unreadable], place: int | None) -> list[object]:
    return [row if isinstance(row, Unreadable) else None if place is None else row[place] for row in rows]


# Files that are something else than their names say


def _refuse_other_delimiter(file: Path, kind: TextKind, fields: list[str], line: str, wanted: str | None) -> None:
    """Raise InputError where another delimiter finds the wanted column, or columns at all where there is but one."""
    best, best_score = "", (False, max(len(fields), 1))
    for delimiter in OTHER_DELIMITERS:
        names = [_plain(name) for name in _split(line, delimiter)]
        score = (wanted is not None and _plain(wanted) in names, len(names))
        is_likely = score[0] or (len(fields) < 2 and delimiter != ":")
        if delimiter != DELIMITERS[kind] and is_likely and score > best_score and len(names) > 1:
            best, best_score = delimiter, score
    if best:
        _refuse_delimiter(file, kind, best, line)


def _refuse_delimiter(file: Path, kind: TextKind, found: str, line: str) -> None:
    how = format_of(file)
    behind = file.suffix if how and how.compression else ""
    other: TextKind = "tsv" if kind == "csv" else "csv"
    if found == DELIMITERS[other]:
        raise InputError(
            f"{file}: its columns are separated by {DELIMITER_NAMES[found]}; rename it to .{other}{behind}"
        )
    own, others = (DELIMITER_NAMES[DELIMITERS[each]] for each in (kind, other))
    raise InputError(
        f"{file}: its columns are separated by '{found}', not by {own} ({short(line, 60)}); "
        f"save it with {own}, or with {others} as .{other}"
    )


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader(re.split(r"[\r\n]", line, maxsplit=1)[:1], delimiter=delimiter), [])


def looks_like_data(columns: Sequence[str]) -> bool:
    """Is this header rather a row of a file without one: are there numbers, sentences, or names that come twice?"""
    names = [name for name in columns if name.strip()]  # pandas and spreadsheets leave names of columns empty
    twice = len(set(names)) < len(names)
    return twice or any(len(name) > MAX_NAME_CHARS or NUMBER.fullmatch(name) for name in names)
