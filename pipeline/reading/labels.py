"""What the values of a label column mean: one meaning in every format, and which class each of them names.

Invariant: names are the join and ids belong to the file that carries them. A value that could be read in two ways is
refused with what to write; it is never given to the likelier class.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

from pipeline.errors import InputError

NO_LABEL = -1  # what `datasets` writes for a row without a label
MAX_VALUES = 100_000  # distinct values kept of a label column; with more it is no label column
NUM_SHOWN = 8

# true and false of JSON and Parquet are the words that CSV has for them.
Value = int | str

_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_TRUTH = {"false": 0, "true": 1}
_ANSWERS = {"no": 0, "yes": 1}


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
        return tuple(dict.fromkeys(value for element in raw for value in label_values(element)))
    if raw is None or raw != raw:  # NaN is how tables of floats say null
        return ()
    if isinstance(raw, bytes):
        try:
            raw = raw.decode()
        except UnicodeDecodeError:
            return (Unknown(repr(raw)),)
    if isinstance(raw, str):
        return _text_values(raw)
    if isinstance(raw, bool):
        return (str(raw).lower(),)
    if isinstance(raw, int | float | Decimal) and _is_whole(raw):
        return (int(raw),)
    return (Unknown(_printable(raw)),)


def _text_values(raw: str) -> tuple[Value | Unknown, ...]:
    bare = raw.strip()
    if not bare:
        return ()
    if _WHOLE.fullmatch(bare):
        return (int(bare.partition(".")[0]),)
    if bare.lower() in _TRUTH:
        return (bare.lower(),)
    return (raw,)


def _is_whole(number: int | float | Decimal) -> bool:
    return -(10**9) < number < 10**9 and number == int(number)


def _printable(raw: object) -> str:
    return str(raw).encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Names:
    """Class names as some source gives them.

    ids: the ids that the source gives with them, None where it gives none, so that an id cannot be read. is_own: the
    file's own names, under which its labels have been read already. is_complete: ids were given one by one, so that a
    number can be nothing else.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] | None
    is_own: bool = False
    is_complete: bool = False

    @classmethod
    def in_order(cls, names: Sequence[str], *, is_own: bool = False) -> "Names":
        """Names in the order of their ids, from 0."""
        return cls(tuple(names), tuple(range(len(names))), is_own)


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a data set in the order of their ids, and the class that each label value found stands for.

    codes: position in `names` by label value. is_ordered: whether the ids were given, so that they may be counted on.
    remark: what a person should know of how the labels were read.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    codes: Mapping[Value, int]
    is_ordered: bool = True
    remark: str | None = None

    def positions(self, raw: object) -> tuple[int, ...] | str:
        """The positions of a row's right classes, none where it has no label; a string says what is wrong."""
        found = []
        for value in label_values(raw):
            if isinstance(value, int) and value == NO_LABEL and value not in self.codes:
                continue
            position = None if isinstance(value, Unknown) else self.codes.get(value)
            if position is None:
                shown = value.shown if isinstance(value, Unknown) else str(value)
                return f"the label {_printable(shown)[:60]!r} is not one of {self.shown}"
            found.append(position)
        return tuple(found)

    @property
    def shown(self) -> str:
        """The first classes, for a message: `0 World, 1 Sports`."""
        return shorten([f"{i} {name}" for i, name in zip(self.ids, self.names, strict=True)])


def count_labels(columns: Iterable[Sequence[object]]) -> Counter[Value]:
    """How often each label value occurs in batches of a label column."""
    found: Counter[Value] = Counter()
    for column in columns:
        for raw in column:
            for value in label_values(raw):
                if not isinstance(value, Unknown) and (value in found or len(found) < MAX_VALUES):
                    found[value] += 1
    return found


def read_classes(found: Mapping[Value, int], given: Names, where: str) -> Classes:
    """The class that each label value found stands for, under the names given.

    `found` holds the values of the whole source, so that a slice or a limit reads them in the same way; a file's own
    names need none, as its ids have become names. Raises InputError where the values can be read in two ways, run from
    1, or are none of the classes.
    """
    if given.is_own:
        found = {value: 1 for name in given.names for value in label_values(name) if not isinstance(value, Unknown)}
    ids = given.ids or tuple(range(len(given.names)))
    reader = _Reader(given, ids, found, where)
    codes = {value: position for value in found if (position := reader.position(value)) is not None}
    if given.is_own and len(set(codes.values())) < len(given.names):
        raise InputError(f"{where}: two of its class names mean the same, or one is empty ({shorten(given.names)})")
    labels = [value for value in found if value != NO_LABEL or value in codes]
    if labels and not codes:
        raise InputError(
            f"{where}: none of its labels ({shorten(labels)}) is one of the classes {shorten(given.names)}; choose "
            "prompts and label_names of its own classes, or another --label-column"
        )
    return Classes(given.names, ids, codes, given.ids is not None, reader.remark(codes))


class _Reader:
    """Reads label values under some names, having looked at all values that there are."""

    def __init__(self, given: Names, ids: tuple[int, ...], found: Mapping[Value, int], where: str) -> None:
        self._given, self._where = given, where
        self._by_name = {name: position for position, name in enumerate(given.names)}
        self._by_bare = _unique((name.strip(), position) for name, position in self._by_name.items())
        self._by_id = {number: position for position, number in enumerate(ids)}
        self._numbers = sorted(value for value in found if isinstance(value, int))
        numeric = ((values[0], position) for position, name in enumerate(given.names) if (values := label_values(name)))
        self._by_number = _unique((value, at) for value, at in numeric if isinstance(value, int))
        if not given.is_own:
            self._by_code = self._by_id if given.is_complete else self._read_numbers()

    def position(self, value: Value) -> int | None:
        """The class of a value, None where it is none."""
        if isinstance(value, int):
            return self._by_number.get(value) if self._given.is_own else self._by_code.get(value)
        if value in self._by_name:
            return self._by_name[value]
        bare = value.strip()
        return self._truth(bare) if bare in _TRUTH else self._by_bare.get(bare)

    def _truth(self, word: str) -> int | None:
        """The class of true or false: the one called so, else the one of id 1 or 0."""
        named = _unique((name.strip().lower(), position) for name, position in self._by_name.items())
        if word in named:
            return named[word]
        answers = {_ANSWERS[name]: position for name, position in named.items() if name in _ANSWERS}
        position = self._by_id.get(_TRUTH[word])
        if answers and answers.get(_TRUTH[word]) != position:
            raise InputError(
                f"{self._where}: its labels are true and false and its classes {shorten(self._given.names)}, of which "
                "id 1 is not the one that true would mean; write true and false as those names"
            )
        if self._given.ids is None:
            self._refuse_ids()
        return position

    def _read_numbers(self) -> Mapping[int, int]:
        """Whether whole numbers are ids or names that are numbers; both only where they say the same."""
        as_names = {n: self._by_number[n] for n in self._numbers if n in self._by_number}
        as_ids = {n: self._by_id[n] for n in self._numbers if n in self._by_id}
        only_names, only_ids = as_names.keys() - as_ids.keys(), as_ids.keys() - as_names.keys()
        differ = any(as_ids.get(n, position) != position for n, position in as_names.items())
        if (differ and not only_names and not only_ids) or (only_names and only_ids):
            self._refuse_two_ways()
        if differ:
            as_names, as_ids = (as_names, {}) if only_names else ({}, as_ids)
        if as_ids.keys() - as_names.keys() and self._given.ids is None:
            self._refuse_ids()
        if not as_names:
            self._refuse_from_one()
        self._refuse_lone_minus(as_names)
        return {**as_ids, **as_names}

    def _refuse_two_ways(self) -> NoReturn:
        names = self._given.names
        as_names = _table((name, name) for name in names)
        as_ids = _table(enumerate(names))
        raise InputError(
            f"{self._where}: its labels {shorten(self._numbers)} may be names or ids of the classes "
            f"{shorten(names)}; write label_names = {as_names} if they are names, label_names = {as_ids} if they are "
            "ids that count from 0"
        )

    def _refuse_ids(self) -> NoReturn:
        names = self._given.names
        listed = ", ".join(f'"{name}"' for name in names[:NUM_SHOWN])
        raise InputError(
            f"{self._where}: its labels are ids ({shorten(self._numbers or list(_TRUTH))}) and nothing says which "
            f"classes they are: a prompt's table only names them. Write label_names = [{listed}] in the order of the "
            "ids"
        )

    def _refuse_from_one(self) -> None:
        """Ids that count from 1, or any that begin behind 0 and end behind the last: never score them shifted."""
        numbers = [n for n in self._numbers if n != NO_LABEL]
        num_classes = len(self._given.names)
        if not numbers or min(numbers) < 1 or max(numbers) < num_classes:
            return
        last = num_classes - 1
        if max(numbers) == num_classes:
            pairs = ",".join(f"{i}={name}" for i, name in enumerate(self._given.names[:NUM_SHOWN], 1))
            advice = f"if {min(numbers)} is {self._given.names[min(numbers) - 1]}, write --label-names {pairs}"
            advice += ",..." if num_classes > NUM_SHOWN else ""
        else:
            advice = f"give each its class by --label-names {numbers[0]}=NAME,...,{numbers[-1]}=NAME"
        raise InputError(
            f"{self._where}: its labels run from {numbers[0]} to {numbers[-1]}, the ids of the {num_classes} classes "
            f"from 0 ({self._given.names[0]}) to {last} ({self._given.names[last]}); {advice}"
        )

    def _refuse_lone_minus(self, as_names: Mapping[int, int]) -> None:
        """-1 is no label, unless it looks as if it were one of the classes."""
        others = [n for n in self._numbers if n != NO_LABEL]
        if NO_LABEL not in self._numbers or NO_LABEL in as_names or not others:
            return
        if len(others) + 1 != len(self._given.names):
            return
        names = self._given.names
        as_class = _table(zip([NO_LABEL, *others], names, strict=True))
        raise InputError(
            f"{self._where}: its label -1 may be a class or mean that there is none: with {shorten(others)} there are "
            f"as many labels as classes. Write label_names = {as_class} if it is a class, label_names = "
            f"{_table(enumerate(names))} if it is none"
        )

    def remark(self, codes: Mapping[Value, int]) -> str | None:
        """That no row has the first id, which ids that count from 1 have not."""
        numbers = [n for n in self._numbers if n in codes and n not in self._by_number]
        if self._given.is_own or self._given.is_complete or not numbers or 0 in numbers:
            return None
        if any(isinstance(value, str) for value in codes):
            return None
        return (
            f"{self._where}: no row has the label 0 ({self._given.names[0]}); ids are taken to count from 0, so 1 is "
            f"{self._given.names[1]}. If they count from 1, write --label-names 1={self._given.names[0]},..."
        )


def _unique(pairs: Iterable[tuple[Value, int]]) -> dict[Value, int]:
    """A mapping of the keys that stand for one thing alone."""
    found: dict[Value, set[int]] = {}
    for key, position in pairs:
        found.setdefault(key, set()).add(position)
    return {key: next(iter(positions)) for key, positions in found.items() if len(positions) == 1}


def _table(pairs: Iterable[tuple[object, object]]) -> str:
    """A TOML table, such as { 0 = "World", 1 = "Sports" }."""
    return "{ " + shorten([f'{key} = "{name}"' for key, name in pairs]) + " }"


def shorten(values: Iterable[object]) -> str:
    """The first values of a list, for a message."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:NUM_SHOWN]) + (", ..." if len(listed) > NUM_SHOWN else "")
