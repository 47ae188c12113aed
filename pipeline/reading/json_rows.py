"""Files of JSON lines and of JSON lists.

Invariant: memory does not grow with the number of records, and a record never stands for more or fewer than one row.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from pipeline.errors import InputError
from pipeline.reading.columns import find_column
from pipeline.reading.formats import BATCH_ROWS, Batch, Layout, Part, Unreadable, batched, need_format
from pipeline.reading.text_files import open_text

CHUNK_CHARS = 1 << 18
MAX_RECORD_CHARS = 1 << 26  # of a JSON list: a quote that is never closed must not read the whole file into memory
LONGEST_WORD = len("-Infinity") + 7  # how far from the end of a piece a record that goes on behind it may look wrong
WANTED = "write a list of records, [{...}, {...}], or one record a line"

BLANKS = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()

Record = dict[str, Any] | Unreadable


def open_json(file: Path, layout: Layout, looked_for: Collection[str]) -> Part:
    """Columns are keys of the first records, as any may lack some, and what is looked for, however late it comes up."""
    is_lines = need_format(file).kind == "jsonl"
    first = _first_line(file, layout) if is_lines else ""
    if first.startswith("[") and not _is_value(first):  # its last records would be sound lines, the others broken ones
        raise InputError(f"{file}: is a list of records over several lines, not a record a line; rename it to .json")
    with _open(file, layout) as every:
        records = (record for record in every if isinstance(record, dict))
        columns = dict.fromkeys(key for record in islice(records, BATCH_ROWS) for key in record)
        missing = [column for column in looked_for if find_column(column, columns) is None]
        while missing and (record := next(records, None)) is not None:
            columns |= dict.fromkeys(record)  # all of them: one may be nearly what is looked for
            missing = [column for column in missing if find_column(column, record) is None]
    if not columns:
        what = "a line that is a JSON object" if is_lines else "a record that is a JSON object"
        hint = " (a file that is a list of records ends in .json)" if first.startswith("[") else ""
        raise InputError(f"{file}: holds no row, not even {what}{hint}; check the file")
    return Part(file, tuple(columns), partial(_read, file, layout))


def _first_line(file: Path, layout: Layout) -> str:
    """The first line that is not blank, without the blanks before it."""
    with open_text(file, layout.encoding) as text:
        return next((bare for line in text if (bare := line.lstrip())), "")


def _is_value(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _read(file: Path, layout: Layout, columns: Sequence[str]) -> Iterator[Batch]:
    """Batches of the columns asked for; None where a record has no such key."""
    with _open(file, layout) as records:
        yield from batched(r if isinstance(r, Unreadable) else tuple([r.get(c) for c in columns]) for r in records)


@contextmanager
def _open(file: Path, layout: Layout) -> Iterator[Iterator[Record]]:
    with open_text(file, layout.encoding, newline="\n") as text:
        yield _of_lines(text, 1) if need_format(file).kind == "jsonl" else _of_json(file, text)


# JSON lines


def _of_lines(lines: Iterator[str], first_number: int) -> Iterator[Record]:
    for number, line in enumerate(lines, first_number):
        if line.strip():
            yield _record(line, number)


def _record(line: str, number: int) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable(f"line {number}: not valid JSON", line.rstrip("\r\n"))
    return record if isinstance(record, dict) else Unreadable(f"line {number}: not a JSON object", line.rstrip("\r\n"))


# A JSON list, read piece by piece


class _Window:
    """The piece of a text that is looked at; what lies before it has been let go."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._lines_gone = 0
        self.piece = ""
        self.at = 0

    def more(self) -> bool:
        """Let go what is done and add as much as waits, so that a record of any length is tried a few times only."""
        added = self._text.read(max(CHUNK_CHARS, len(self.piece) - self.at))
        if added:
            self._lines_gone += self.piece.count("\n", 0, self.at)
            self.piece, self.at = self.piece[self.at :] + added, 0
        return bool(added)

    def next_char(self) -> str:
        """Go to the next character that is no blank; "" at the end."""
        self.at = self.behind_blanks(self.at)
        while self.at == len(self.piece) and self.more():
            self.at = self.behind_blanks(self.at)
        return self.piece[self.at : self.at + 1]

    def behind_blanks(self, start: int) -> int:
        """Where the blanks end that begin here, if any do."""
        blanks = BLANKS.match(self.piece, start)
        return blanks.end() if blanks else start

    def line_of(self, place: int) -> int:
        """The number of the line that a place of the piece is in."""
        return 1 + self._lines_gone + self.piece.count("\n", 0, place)

    def lines(self) -> Iterator[str]:
        """From here on, line by line."""
        return chain(StringIO(self.piece[self.at :] + self._text.readline(MAX_RECORD_CHARS), newline="\n"), self._text)


def _of_json(file: Path, text: IO[str]) -> Iterator[Record]:
    """Records of a list; or of JSON lines, which many write into .json files too."""
    window = _Window(text)
    first = window.next_char()
    if first == "[":
        yield from _of_list(file, window)
    elif first == "{":
        yield from _of_objects(file, window)
    elif first:
        raise InputError(f"{file}: line {window.line_of(window.at)} begins neither a list nor a record; {WANTED}")


def _of_objects(file: Path, window: _Window) -> Iterator[Record]:
    """JSON lines, unless the only object is the whole table."""
    line_number = window.line_of(window.at)
    lines = window.lines()
    first = _record(next(lines), line_number)
    rest = _of_lines(lines, line_number + 1)
    second = next(rest, None) if isinstance(first, dict) else None
    if isinstance(first, Unreadable) or (second is None and _is_table(first)):
        raise InputError(f"{file}: holds one object, not a list of records, or its first line is broken; {WANTED}")
    yield first
    if second is not None:
        yield second
    yield from rest


def _is_table(record: dict[str, Any]) -> bool:
    """Columns (or records) under names, as pandas writes them, where a record would hold a text."""
    return bool(record) and all(isinstance(value, list | dict) for value in record.values())


def _of_list(file: Path, window: _Window) -> Iterator[Record]:
    window.at += 1
    mark, number = window.next_char(), 0
    while mark != "]":
        number += 1
        value, raw = _element(file, window, number)
        yield value if isinstance(value, dict) else Unreadable(f"record {number}: not a JSON object", raw)
        mark = window.next_char()
        if mark not in (",", "]"):
            raise _broken(file, window.line_of(window.at), number, "no ',' or ']' behind it" if mark else "cut off")
        if mark == ",":
            window.at += 1
            window.next_char()
    window.at += 1
    if window.next_char():
        raise InputError(f"{file}: line {window.line_of(window.at)} goes on behind the end of the list; {WANTED}")


def _element(file: Path, window: _Window, number: int) -> tuple[object, str]:
    """The value that begins here, and as it is written; the window then stands behind it."""
    while True:
        place, problem, value = window.at, "", None
        try:
            value, place = DECODER.raw_decode(window.piece, window.at)
            # A number at the end of the piece may have more digits: only what follows says that it is whole.
            goes_on = window.behind_blanks(place) == len(window.piece)
        except json.JSONDecodeError as error:
            place, problem = error.pos, error.msg
            goes_on = problem.startswith("Unterminated string") or place > len(window.piece) - LONGEST_WORD
        except (ValueError, RecursionError) as error:  # too many digits, too many brackets
            problem, goes_on = str(error), False
        if goes_on and len(window.piece) - window.at > MAX_RECORD_CHARS:
            raise _broken(file, window.line_of(window.at), number, f"longer than {MAX_RECORD_CHARS:,} characters")
        if goes_on and window.more():
            continue
        if problem:
            raise _broken(file, window.line_of(place), number, problem)
        raw, window.at = window.piece[window.at : place], place
        return value, raw


def _broken(file: Path, line: int, number: int, problem: str) -> InputError:
    what = f"record {number} is not valid JSON ({problem})"
    return InputError(f"{file}: line {line}: {what}, and nothing behind it can be read; mend it")
