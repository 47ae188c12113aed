"""Which class each label value stands for, under the names that a file, a configuration or a prompt gives.

Invariant: names are the join and ids belong to the file that carries them. A value that could be read in two ways is
refused with what to write; it is never given to the likelier class.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.errors import InputError
from pipeline.reading.labels import (
    NO_LABEL,
    NUM_SHOWN,
    TRUTH,
    LabelCounts,
    Unknown,
    Value,
    label_values,
    plain_name,
    printable,
    shorten,
)
from pipeline.reading.text_files import encoding_hint

UNLIKELY = 0.05
_ANSWERS = {"no": 0, "yes": 1}


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

    codes: position in `names` by label value. unread: values found that are no class. is_ordered: whether the ids were
    given, so that they may be counted on. remark: what a person should know of how the labels were read.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    codes: Mapping[Value, int]
    unread: tuple[Value, ...] = ()
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
                return f"the label {printable(shown)[:60]!r} is not one of {self.shown}"
            if position in found:
                return (
                    f"the label {printable(raw)[:60]!r} names the class {self.names[position]} twice; a list holds "
                    "the ids or names of the right classes, each once"
                )
            found.append(position)
        return tuple(found)

    @property
    def shown(self) -> str:
        """The first classes, for a message: `0 World, 1 Sports`."""
        return shorten([f"{i} {name}" for i, name in zip(self.ids, self.names, strict=True)])


def read_classes(files: Sequence[LabelCounts], given: Names, where: str) -> Classes:
    """The class that each label value found stands for, under the names given.

    `files` hold the values of the whole source, so that a slice or a limit reads them in the same way; a file's own
    names need none, as its ids have become names. Raises InputError where the values can be read in two ways, run from
    1, or are none of the classes.
    """
    if given.is_own:
        own = [value for name in given.names for value in label_values(name) if not isinstance(value, Unknown)]
        files = [LabelCounts(Counter(own), len(own))]
    ids = given.ids or tuple(range(len(given.names)))
    reader = _Reader(given, ids, files, where)
    found = reader.found
    codes = {value: position for value in found if (position := reader.position(value)) is not None}
    if given.is_own and len(set(codes.values())) < len(given.names):
        raise InputError(f"{where}: two of its class names mean the same, or one is empty ({shorten(given.names)})")
    labels = tuple(value for value in found if value != NO_LABEL or value in codes)
    if labels and not codes:
        broken = next((hint for value in labels if isinstance(value, str) and (hint := encoding_hint(value))), "")
        raise InputError(
            f"{where}: none of its labels ({shorten(labels)}) is one of the classes {shorten(given.names)}; "
            + (broken or "choose prompts and label_names of its own classes, or another --label-column")
        )
    unread = tuple(value for value in labels if value not in codes)
    return Classes(given.names, ids, codes, unread, given.ids is not None, reader.remark(codes))


class _Reader:
    """Reads label values under some names, having looked at all values that there are."""

    def __init__(self, given: Names, ids: tuple[int, ...], files: Sequence[LabelCounts], where: str) -> None:
        self._given, self._files, self._where = given, files, where
        self.found = sum((file.values for file in files), Counter[Value]())
        self._by_name = _unique((plain_name(name), position) for position, name in enumerate(given.names))
        self._by_id = {number: position for position, number in enumerate(ids)}
        self._numbers = _whole_numbers(self.found)
        numeric = ((values[0], position) for position, name in enumerate(given.names) if (values := label_values(name)))
        self._by_number = _unique((value, at) for value, at in numeric if isinstance(value, int))
        self._refuse_flags()
        if not given.is_own:
            self._by_code = self._by_id if given.is_complete else self._read_numbers()

    def position(self, value: Value) -> int | None:
        """The class of a value, None where it is none."""
        if isinstance(value, int):
            return self._by_number.get(value) if self._given.is_own else self._by_code.get(value)
        if value in TRUTH and value not in self._by_name:
            return self._truth(value)
        return self._by_name.get(value)

    def _truth(self, word: str) -> int | None:
        """The class of true or false: the one called so, else the one of id 1 or 0."""
        named = _unique((str(name).lower(), position) for name, position in self._by_name.items())
        if word in named:
            return named[word]
        answers = {_ANSWERS[name]: position for name, position in named.items() if name in _ANSWERS}
        position = self._by_id.get(TRUTH[word])
        if answers and answers.get(TRUTH[word]) != position:
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
            self._refuse_other_ids()
            self._refuse_inverted_truth(as_ids)
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

    def _refuse_flags(self) -> None:
        num_rows, num_flags = (sum(getattr(f, name) for f in self._files) for name in ("num_rows", "num_flags"))
        if num_flags and num_flags == num_rows and len(self._given.names) == 2:
            raise InputError(
                f"{self._where}: each of its labels is a list of 0 and 1, which may mark the right one of two classes "
                "or name both; write the id or name of the right class"
            )

    def _refuse_ids(self) -> NoReturn:
        numbers: list[int] | list[str] = self._numbers or list(TRUTH)
        pairs = ", ".join(f'{number} = "..."' for number in numbers[:NUM_SHOWN])
        raise InputError(
            f"{self._where}: its labels are ids ({shorten(numbers)}) and nothing says which of the classes "
            f"{shorten(self._given.names)} they are: the lines of a prompt's table are in no order. Write label_names "
            f"= {{ {pairs} }} with the class of each"
        )

    def _refuse_other_ids(self) -> None:
        """Ids that count from 1 or otherwise than 0, 1, ... are never scored shifted; each file has its own."""
        for file in self._files:
            numbers = [n for n in _whole_numbers(file.values) if n != NO_LABEL]
            num_classes = len(self._given.names)
            if not numbers or (max(numbers) < num_classes and not self._lacks_zero(file, numbers)):
                continue
            if min(numbers) > 0 or len(numbers) == num_classes:
                self._refuse_range(numbers)

    def _lacks_zero(self, file: LabelCounts, numbers: Sequence[int]) -> bool:
        """Whether all ids but 0 are there, and that it is not is hardly chance; files of one source may be sorted."""
        num_classes = len(self._given.names)
        if numbers != list(range(1, num_classes)) or len(self._files) > 1 or len(file.values) > len(numbers):
            return False
        num_rows = sum(file.values[n] for n in numbers)
        return (1 - 1 / num_classes) ** num_rows < UNLIKELY  # the chance where all classes are as common

    def _refuse_range(self, numbers: Sequence[int]) -> NoReturn:
        names = self._given.names
        last = len(names) - 1
        if max(numbers) <= len(names) and min(numbers) > 0:
            ways = f"if 1 is {names[0]}, write {_option(enumerate(names, 1))}"
            if max(numbers) < len(names):
                ways += f"; if 1 is {names[1]} and no row is {names[0]}, write {_option(enumerate(names))}"
        elif len(numbers) == len(names):
            ways = f"if they are the classes in that order, write {_option(zip(numbers, names, strict=True))}"
        else:
            ways = f"give each its class: --label-names {numbers[0]}=NAME,...,{numbers[-1]}=NAME"
        raise InputError(
            f"{self._where}: its labels run from {numbers[0]} to {numbers[-1]}, the ids of the {len(names)} classes "
            f"from 0 ({names[0]}) to {last} ({names[last]}); {ways}"
        )

    def _refuse_inverted_truth(self, as_ids: Mapping[int, int]) -> None:
        """Where the classes are true and false, 1 is true, or somebody has to say that it is not."""
        named = {str(name).lower(): position for name, position in self._by_name.items()}
        is_inverted = any(as_ids.get(n, named.get(word)) != named.get(word) for word, n in TRUTH.items())
        if named.keys() == TRUTH.keys() and is_inverted:
            names = self._given.names
            as_listed, as_meant = _option(enumerate(names)), _option(zip((1, 0), names, strict=True))
            raise InputError(
                f"{self._where}: its labels are 0 and 1, and 1 would be {names[1]}; write {as_listed} if that is so, "
                f"{as_meant} if not"
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
        if not self._given.is_own and not codes:
            return f"{self._where}: no row has a label, so there is no accuracy" if self._files else None
        if self._given.is_own or self._given.is_complete or not numbers or 0 in numbers:
            return None
        if any(isinstance(value, str) for value in codes):
            return None
        return (
            f"{self._where}: no row has the label 0 ({self._given.names[0]}); ids are taken to count from 0, so 1 is "
            f"{self._given.names[1]}. If they count from 1, write --label-names 1={self._given.names[0]},..."
        )


def _whole_numbers(values: Iterable[Value]) -> list[int]:
    return sorted(value for value in values if isinstance(value, int))


def _option(pairs: Iterable[tuple[int, str]]) -> str:
    """The option that gives names to ids, as it is typed in a shell."""
    listed = [f"{number}={name}" for number, name in pairs]
    more = [",..."] if len(listed) > NUM_SHOWN else []
    parts = ['"' + part.replace('"', '""') + '"' if set(',"') & set(part) else part for part in listed[:NUM_SHOWN]]
    return f"--label-names {shlex.quote(','.join(parts) + ''.join(more))}"


def _unique(pairs: Iterable[tuple[Value, int]]) -> dict[Value, int]:
    """A mapping of the keys that stand for one thing alone."""
    found: dict[Value, set[int]] = {}
    for key, position in pairs:
        found.setdefault(key, set()).add(position)
    return {key: next(iter(positions)) for key, positions in found.items() if len(positions) == 1}


def _table(pairs: Iterable[tuple[object, object]]) -> str:
    """A TOML table, such as { 0 = "World", 1 = "Sports" }."""
    return "{ " + shorten([f'{key} = "{name}"' for key, name in pairs]) + " }"
