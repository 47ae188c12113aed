"""CSV and TSV files.

Invariant: a file whose columns are separated by something else is named as that, never read as one of a single column.
"""

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from pipeline.errors import InputError
from pipeline.reading.columns import find_column
from pipeline.reading.csv_rows import Table
from pipeline.reading.formats import Batch, Layout, Part, Unreadable, batched, need_format, short
from pipeline.reading.text_files import open_text

DELIMITERS = {"csv": ",", "tsv": "\t"}
DELIMITER_NAMES = {",": "commas", "\t": "tabs"}
OTHER_DELIMITERS = ("\t", ";", "|", ",", ":")
MAX_NAME_CHARS = 60
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


@contextmanager
def _open(file: Path, layout: Layout) -> Iterator[Table]:
    with open_text(file, layout.encoding) as lines:
        yield Table(lines, DELIMITERS[need_format(file).kind])


def open_csv(file: Path, layout: Layout, looked_for: Collection[str]) -> Part:
    """Columns are named by the file's first row, or by the user in its place. Raises InputError."""
    with _open(file, layout) as table:
        first = table.header()
        line_number, line = table.line_number, table.raw
    if first is None:
        what = "holds no row" if layout.columns else "holds no row, not even a header line"
        raise InputError(f"{file}: {what}; check the file")
    fields = [] if isinstance(first, Unreadable) else first
    if layout.columns is not None:
        _check_given(file, layout.columns, fields, line)
        return Part(file, layout.columns, partial(_read, file, layout))
    wanted = next(iter(looked_for), None)
    if not fields or (wanted is not None and find_column(wanted, fields) is None):
        _refuse_other_delimiter(file, fields, line, wanted)
        if re.search("[\udc80-\udcff]", line):
            what = f"its header is not text in {layout.encoding or 'utf-8'}"
            raise InputError(f"{file}: {what}; give its encoding with --encoding, cp1252 for example")
    if isinstance(first, Unreadable):
        raise InputError(f"{file}: line {line_number}, its header, is broken: {first.reason}; mend it")
    return Part(file, tuple(fields), partial(_read, file, layout))


def _check_given(file: Path, columns: tuple[str, ...], first: list[str], line: str) -> None:
    """Refuse names for the columns of a file that has its own, or another number of columns by another delimiter."""
    twice = [column for at, column in enumerate(columns) if column in columns[:at]]
    if twice:
        raise InputError(f"--columns: names '{twice[0]}' twice; name each column differently")
    if list(map(_bare, first)) == list(map(_bare, columns)):
        raise InputError(f"{file}: its first line is a header already; leave out --columns")
    if len(first) != len(columns):
        for delimiter in OTHER_DELIMITERS:
            if len(_split(line, delimiter)) == len(columns):
                _refuse_delimiter(file, delimiter, line)


def _bare(name: str) -> str:
    return name.strip().casefold()


def _read(file: Path, layout: Layout, columns: Sequence[str]) -> Iterator[Batch]:
    """Batches of the columns asked for; a column that is not there is None throughout."""
    with _open(file, layout) as table:
        if layout.columns is None:
            names, whose = table.header(), "the header has"
        else:
            names, whose = list(layout.columns), "--columns names"
        names = names if isinstance(names, list) else []
        places = [names.index(column) if column in names else None for column in columns]
        yield from batched(
            row if isinstance(row, Unreadable) else tuple([None if at is None else row[at] for at in places])
            for row in table.rows(len(names), whose)
        )


# Files that are something else than their names say


def _refuse_other_delimiter(file: Path, fields: list[str], line: str, wanted: str | None) -> None:
    """Raise InputError where another delimiter finds the wanted column, or columns at all where there is but one."""
    best, best_score = "", (False, max(len(fields), 1))
    for delimiter in OTHER_DELIMITERS:
        names = [_bare(name) for name in _split(line, delimiter)]
        score = (wanted is not None and _bare(wanted) in names, len(names))
        is_likely = score[0] or (len(fields) < 2 and delimiter != ":")
        if delimiter != DELIMITERS[need_format(file).kind] and is_likely and score > best_score and len(names) > 1:
            best, best_score = delimiter, score
    if best:
        _refuse_delimiter(file, best, line)


def _refuse_delimiter(file: Path, found: str, line: str) -> NoReturn:
    kind, compression = need_format(file)
    other = "tsv" if kind == "csv" else "csv"
    own_name, other_name = (DELIMITER_NAMES[DELIMITERS[each]] for each in (kind, other))
    if found == DELIMITERS[other]:
        name = f".{other}{file.suffix if compression else ''}"
        raise InputError(f"{file}: its columns are separated by {other_name}; rename it to {name}")
    raise InputError(
        f"{file}: its columns are separated by '{found}', not by {own_name} ({short(line, 60)}); "
        f"save it with {own_name}, or with {other_name} as .{other}"
    )


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader(re.split(r"[\r\n]", line, maxsplit=1)[:1], delimiter=delimiter), [])


def looks_like_data(columns: Sequence[str]) -> bool:
    """Is this header rather a row of a file without one: are there numbers, sentences, or names that come twice?"""
    names = [name for name in columns if name.strip()]  # pandas and spreadsheets leave names of columns empty
    twice = len(set(names)) < len(names)
    return twice or any(len(name) > MAX_NAME_CHARS or NUMBER.fullmatch(name) for name in names)
