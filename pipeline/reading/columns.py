"""Columns as templates and configurations name them: whole ones, keys of records and elements of lists.

Invariant: a column that bears the whole name is that column, dots and brackets and all; else the name is a way into
one.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pipeline.reading.formats import Unreadable
from pipeline.reading.labels import printable
from pipeline.reading.text_files import encoding_hint

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_PATH = re.compile(r"([^.\[\]]+)((?:\.\w+|\[\d+\])*)")
MAX_CHOICES = 2**15 - 1  # the score table keeps a choice's place as int16
KINDS = {
    int: "a number",
    float: "a number",
    Decimal: "a number",
    bool: "true or false",
    dict: "a record",
    list: "a list",
}


@dataclass(frozen=True, slots=True)
class Column:
    """What is read of a row under a name: the whole column `root`, or what the steps lead to within it."""

    name: str
    root: str
    steps: tuple[str | int, ...] = ()

    def read(self, value: object) -> object:
        """What a value of the root holds at the end of the steps; None where a step leads nowhere.

        A key asked of a list is that of each of its elements.
        """
        for step in self.steps:
            value = _take(value, step)
        return value


def _take(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if not isinstance(value, list):
        return None
    if isinstance(step, str):
        return [_take(element, step) for element in value]
    return value[step] if step < len(value) else None


def find_column(name: str, there: Collection[str]) -> Column | None:
    """The column of that name, or the way into one; None where neither is there."""
    if name in there:
        return Column(name, name)
    path = _PATH.fullmatch(name)
    if path is None or not path[2]:
        return None
    steps = list(_STEP.finditer(path[2]))
    for num in range(len(steps) - 1, -1, -1):  # of roots with dots in their names the longest
        root = name[: len(path[1]) + (steps[num].start())]
        if root in there:
            return Column(name, root, tuple(int(step[2]) if step[2] else step[1] for step in steps[num:]))
    return None


# Values


def as_text(what: str, value: object) -> str | Unreadable:
    """The text that a column's value is put into a template as; whole numbers are written out.

    `what` is how a message calls the column.
    """
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    if isinstance(value, Unreadable):
        return Unreadable(value.reason, printable(value.raw))
    if value is None:
        return Unreadable(f"{what} is null", "")
    if isinstance(value, bytes):
        return Unreadable(f"{what} is not valid UTF-8", printable(value))
    if isinstance(value, float | Decimal) and value == value:
        return Unreadable(f"{what} is a number with decimals; write it as a string", printable(value))
    if not isinstance(value, str):
        return Unreadable(
            f"{what} is not a string but {KINDS.get(type(value), type(value).__name__)}", printable(value)
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        why = encoding_hint(value) or "it holds bytes or surrogates of no character"
        return Unreadable(f"{what} is not valid Unicode ({why})", printable(value))
    return value


def check_text(value: object) -> str | Unreadable:
    """The text of an item that is one text, which must be a string with something to see in it."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return Unreadable("the text is not a string but a number", printable(value))
    text = as_text("the text", value)
    if isinstance(text, str) and not text.strip():
        return Unreadable("the text is empty" if not text else "the text is only white space", text)
    return text


def as_choices(what: str, values: Sequence[object]) -> list[str] | Unreadable:
    """An item's own choices. At least two, each a text with something to see in it."""
    found = []
    for place, value in enumerate(values):
        text = as_text(f"choice {place} of {what}", value)
        if isinstance(text, Unreadable):
            return text
        if not text.strip():
            return Unreadable(f"choice {place} of {what} is {'only white space' if text else 'empty'}", "")
        found.append(text)
    if len(found) > MAX_CHOICES:
        return Unreadable(f"{what} holds {len(found):,} choices, at most {MAX_CHOICES:,} can be told apart", "")
    if len(found) < 2:
        num = "no choices" if not found else f"one choice ({found[0][:40]!r})"
        return Unreadable(f"{what} holds {num}; at least two are needed to choose between", "")
    return found
