"""Rows out of CSV and TSV text.

Invariant: a broken row costs one physical line: it becomes an `Unreadable` with its line number, and reading goes on
at the next line, in a time that grows with the text alone, however many quotes are left open.

CSV is read strictly. TSV comes in two ways: pandas and spreadsheets quote a field that holds tabs, quotes or line
breaks, others (GLUE's files) quote nothing and have quotes anywhere. So a line of TSV is read as if quoted, and where
that breaks (a stray quote, one that is never closed, a wrong number of fields) it is taken as it stands, split at its
tabs. Where several lines could be one quoted row or a sound row each, nobody knows which they are, and they are one
broken row; but in TSV they are a row each once an earlier line had to be taken as it stands, or had a quote where a
program that quotes leaves none.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator

from pipeline.reading.formats import Unreadable

MAX_FIELD_CHARS = 2**31 - 1  # the csv module's own limit of 131,072 characters is less than a long text
MAX_OPEN_CHARS = 1 << 25  # how far an open quote may look for its end; the csv module takes four bytes for each
LINE_CHARS = 64  # what a line costs in memory besides its characters, so that empty lines count too

PLAIN_WORD = re.compile(r"[^\s\"]{1,40}")  # what a label looks like


class _NeverClosed(csv.Error):
    """A quote has been open for too long, or is known to end badly."""


class _Lines:
    """Physical lines for the csv module, kept until their record is known to be sound, so that they can be given back.

    A record goes on behind a line only while a quote is open, in which state nothing but the text to come counts.
    So where one record breaks in line k, any other that is still open before line k breaks there too: those are given
    up at once, and no line is looked at more than a few times.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._given_back: deque[str] = deque()
        self._broken_in = 0  # the line in which the last record that was given up broke
        self.number = 1  # of the record's first line
        self.taken: list[str] = []  # the record's lines
        self.asked = 0  # how many lines the record wanted
        self._size = 0  # of the lines behind the first

    @property
    def last_number(self) -> int:
        """Of the record's last line."""
        return self.number + len(self.taken) - 1

    def begin(self) -> None:
        """Let go of the last record's lines."""
        self.number += len(self.taken)
        self.taken = []
        self.asked = self._size = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.asked += 1
        is_open = bool(self.taken)
        if self._size > MAX_OPEN_CHARS or (is_open and self.last_number < self._broken_in):
            raise _NeverClosed
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        if is_open:
            self._size += len(line) + LINE_CHARS
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """All but the record's first line."""
        self._broken_in = max(self._broken_in, self.last_number)
        self._given_back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


class Table:
    """The rows of a CSV or TSV text, one after the other; blank lines are none."""

    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        csv.field_size_limit(MAX_FIELD_CHARS)
        self._lines = _Lines(lines)
        self._delimiter = delimiter
        self._reader = csv.reader(self._lines, strict=True, delimiter=delimiter)
        self._is_tsv = delimiter == "\t"
        self._is_loose = False  # TSV with a quote where a program that quotes leaves none

    @property
    def line_number(self) -> int:
        """Where the last row begins."""
        return self._lines.number

    @property
    def raw(self) -> str:
        """The last row as it is written."""
        return "".join(self._lines.taken).rstrip("\r\n")

    def header(self) -> list[str] | Unreadable | None:
        """The first row, whatever its width; None where there is none."""
        fields = self._next_fields()
        if isinstance(fields, str):
            return self._as_it_stands() if self._is_tsv else Unreadable(fields, self.raw)
        return fields

    def rows(self, width: int, whose: str) -> Iterator[list[str] | Unreadable]:
        """The rows that follow; `whose` says who wants that many fields ("the header has")."""
        while (row := self._next_fields()) is not None:
            if self._is_tsv and not self._is_sound(row, width):
                self._lines.give_back()
                row = self._as_it_stands()
                self._is_loose = self._is_loose or len(row) == width
            reach = f"its quotes reach to line {self._lines.last_number}" if len(self._lines.taken) > 1 else ""
            if isinstance(row, str):
                why = row
            elif reach and self._is_torn(width):
                why = f"{reach}, and each of these lines could be a row by itself; double the quotes in its text, or "
                why += "quote its other fields"
            elif len(row) != width:
                why = f"{len(row)} fields where {whose} {width}{f' ({reach})' if reach else ''}"
            else:
                yield row
                continue
            yield Unreadable(f"line {self._lines.number}: {why}", self.raw)

    def _is_torn(self, width: int) -> bool:
        """Whether every line of a quoted row has as many fields as a row, one of which is a plain word in each.

        Two stray quotes make one row of all that stands between them, and nothing tells it from a text of several lines
        but that such lines seldom end in a label each.
        """
        lines = [line.rstrip("\r\n").split(self._delimiter) for line in self._lines.taken]
        if any(len(fields) != width or not all(field.strip(' "') for field in fields) for fields in lines):
            return False
        return any(all(PLAIN_WORD.fullmatch(fields[place]) for fields in lines) for place in range(width))

    def _next_fields(self) -> list[str] | str | None:
        """The next record's fields, or why its first line is broken; None at the end."""
        fields: list[str] = []
        while not fields:
            self._lines.begin()
            try:
                fields = next(self._reader)
            except StopIteration:
                return None
            except csv.Error:
                inside = self._lines.asked == 1
                self._lines.give_back()
                return "text behind a closing quote" if inside else "a quote is opened and never closed"
        return fields

    def _as_it_stands(self) -> list[str]:
        return self._lines.taken[0].rstrip("\r\n").split(self._delimiter)

    def _is_sound(self, fields: list[str] | str, width: int) -> bool:
        """Is the quoted reading of these lines of TSV the right one?"""
        if isinstance(fields, str) or len(fields) != width:
            return False
        lines = self._lines.taken
        if len(lines) == 1:
            self._is_loose = self._is_loose or ('"' in lines[0] and fields == self._as_it_stands())
            return True
        return not (self._is_loose and all(line.count(self._delimiter) == width - 1 for line in lines))
