"""What the values of a label column are: one meaning in every format.

Invariant: 1, 1.0, "1" and decimal 1 are one value, wherever they come from; what a value stands for is said elsewhere.
"""

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain

NO_LABEL = -1  # what `datasets` writes for a row without a label
MAX_VALUES = 100_000  # distinct values kept of a label column; with more it is no label column
NUM_SHOWN = 8

# true and false of JSON and Parquet are the words that CSV has for them.
Value = int | str

_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?([eE][+-]?[0-9]{1,2})?")
TRUTH = {"false": 0, "true": 1}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is no label whatever the classes are (a fraction, a record, an id beyond the last), as shown."""

    shown: str


def label_values(raw: object) -> tuple[Value | Unknown, ...]:
    """The labels that a cell holds: none where it is null, empty or NaN, several where it is a list.

    1, 1.0, "1", "1.0" and decimal 1 are one value; so are true, "true" and "True".
    """
    if isinstance(raw, Unknown):
        return (raw,)
    if isinstance(raw, list | tuple):
        return tuple(value for element in raw for value in label_values(element))
    if raw is None or raw != raw:  # NaN is how tables of floats say null
        return ()
    if isinstance(raw, bytes):
        try:
            raw = raw.decode()
        except UnicodeDecodeError:
            return (Unknown(repr(raw)),)
    if isinstance(raw, str | bool):
        return _text_values(str(raw))
    if isinstance(raw, int | float | Decimal):
        return (_number_value(raw),)
    return (Unknown(printable(raw)),)


def _text_values(raw: str) -> tuple[Value, ...]:
    bare = plain_name(raw)
    if not bare:
        return ()
    if _NUMBER.fullmatch(bare):
        return (_number_value(Decimal(bare)),)
    return (bare.lower() if bare.lower() in TRUTH else bare,)


def written_list(text: str) -> list[object] | None:
    """The list that a text is, in the spelling of JSON or Python; None where it is none."""
    if text[:1] != "[" or text[-1:] != "]":
        return None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(text)
            return found if isinstance(found, list) else None
    return None


def are_flags(values: Sequence[Value | Unknown]) -> bool:
    """Whether these labels of a row are a pair of flags, such as [0, 1] or [true, false]."""
    return len(values) == 2 and set(values) in ({0, 1}, {"false", "true"})


def plain_name(name: str) -> str:
    """A name without blanks around it, its accents written in one way: what the eye cannot tell apart is one name."""
    return unicodedata.normalize("NFC", name.strip())


def _number_value(number: int | float | Decimal) -> Value:
    """A whole number of up to nine digits as one; any other number as text, in one spelling."""
    if not -math.inf < number < math.inf or number != int(number):
        return str(float(number))
    return int(number) if abs(int(number)) < 10**9 else str(int(number))


def printable(value: object) -> str:
    """A value as text that can be stored: what is not valid Unicode becomes question marks."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value).encode(errors="replace").decode()


@dataclass(slots=True)
class LabelCounts:
    """The labels of one file: how often each value occurs, in how many rows, and how many of these are pairs of flags.

    A pair of flags is a list like [0, 1], which may mark the right one of two classes or name both.
    """

    values: Counter[Value] = field(default_factory=Counter)
    num_rows: int = 0
    num_flags: int = 0


def count_labels(columns: Iterable[Sequence[object]]) -> LabelCounts:
    """Count the labels in batches of a label column."""
    counts = LabelCounts()
    for raw, num_rows in chain.from_iterable(map(_distinct, columns)):
        values = label_values(raw)
        counts.num_rows += num_rows * bool(values)
        counts.num_flags += num_rows * are_flags(values)
        for value in values:
            if not isinstance(value, Unknown) and (value in counts.values or len(counts.values) < MAX_VALUES):
                counts.values[value] += num_rows
    return counts


def _distinct(column: Sequence[object]) -> Iterable[tuple[object, int]]:
    """The cells of a column, each once, and how many there are: most columns repeat a few."""
    try:
        found = Counter(zip(map(type, column), column, strict=True))  # True and 1 are equal, and not the same label
    except TypeError:  # lists cannot be counted
        return ((raw, 1) for raw in column)
    return ((raw, num_rows) for (_, raw), num_rows in found.items())


def whole_numbers(values: Iterable[object]) -> list[int]:
    """The whole numbers among label values, rising."""
    return sorted(value for value in values if isinstance(value, int))


def compare_names(names: Iterable[str], others: Iterable[str]) -> str:
    """What names have or lack against others, for a message."""
    mine, theirs = dict.fromkeys(names), dict.fromkeys(others)
    less, more = [n for n in theirs if n not in mine], [n for n in mine if n not in theirs]
    return ", ".join(
        f"{shorten(found)} {what}" for found, what in ((less, "is missing"), (more, "is too many")) if found
    )


def shorten(values: Iterable[object]) -> str:
    """The first values of a list, for a message."""
    listed = [str(value) for value in values]
    more = f" and {len(listed) - NUM_SHOWN} more" if len(listed) > NUM_SHOWN else ""
    return ", ".join(listed[:NUM_SHOWN]) + more
