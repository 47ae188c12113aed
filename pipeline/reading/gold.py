"""Which class each label value stands for, under the names that a file, a configuration or a prompt gives.

Invariant: names are the join and ids belong to the file that carries them. A value that could be read in two ways is
refused with what to write; it is never given to the likelier class.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import InputError
from pipeline.reading import ambiguity
from pipeline.reading.labels import (
    MAX_VALUES,
    NO_LABEL,
    TRUTH,
    LabelCounts,
    Unknown,
    Value,
    are_flags,
    label_values,
    plain_name,
    printable,
    shorten,
    whole_numbers,
    written_list,
)
from pipeline.reading.text_files import encoding_hint


@dataclass(frozen=True, slots=True)
class Names:
    """Class names as some source gives them.

    ids: the ids that the source gives with them, None where it gives none, so that an id cannot be read. is_own: the
    file's own names, under which its labels have been read already. is_complete: ids were given one by one, so that a
    number can be nothing else. invented: those of the ids that no data has, for classes whose labels are their names.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] | None
    is_own: bool = False
    is_complete: bool = False
    invented: frozenset[int] = frozenset()

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
    _known: dict[tuple[type, object], tuple[int, ...] | str] = field(default_factory=dict, compare=False, repr=False)

    def positions(self, raw: object) -> tuple[int, ...] | str:
        """The positions of a row's right classes, none where it has no label; a string says what is wrong."""
        key = (type(raw), raw)  # True and 1 are equal, and not the same label
        try:
            if key not in self._known:
                if len(self._known) >= MAX_VALUES:
                    self._known.clear()
                self._known[key] = self._read(raw)
            return self._known[key]
        except TypeError:  # lists cannot be looked up
            return self._read(raw)

    def _read(self, raw: object) -> tuple[int, ...] | str:
        found: list[int] = []
        for value in _with_written(label_values(raw), self.codes):
            position = None if isinstance(value, Unknown) else self.codes.get(value)
            if position is None and value != NO_LABEL:
                shown = value.shown if isinstance(value, Unknown) else str(value)
                hint = encoding_hint(shown)
                return f"the label {_quoted(shown)} is not one of {self.shown}{f' ({hint})' if hint else ''}"
            if position in found:
                return (
                    f"the label {_quoted(raw)} names the class {self.names[position]} twice; a list holds the ids or "
                    "names of the right classes, each once"
                )
            if position is not None:
                found.append(position)
        return tuple(found)

    @property
    def shown(self) -> str:
        """The first classes, for a message: `0 World, 1 Sports`."""
        return shorten([f"{i} {name}" for i, name in zip(self.ids, self.names, strict=True)])


def _quoted(value: object) -> str:
    return repr(printable(value)[:60])


def _with_written(values: Sequence[Value | Unknown], known: Container[Value]) -> Iterator[Value | Unknown]:
    """Label values where lists written as text, as in CSV, are lists, unless a class is called so."""
    for value in values:
        listed = None if not isinstance(value, str) or value in known else written_list(value)
        yield from (value,) if listed is None else label_values(listed)


def read_classes(files: Sequence[LabelCounts], given: Names, where: str) -> Classes:
    """The class that each label value found stands for, under the names given.

    `files` hold the values of the whole source, so that a slice or a limit reads them in the same way; a file's own
    names need none, as its ids have become names. Raises InputError where the values can be read in two ways, count
    from 1, or are none of the classes, and where two names mean the same.
    """
    meanings = [label_values(name) for name in given.names]
    if len(set(meanings)) < len(meanings) or () in meanings:
        raise InputError(
            f"{where}: two of its class names mean the same, or one is empty ({shorten(given.names)}); each class "
            "needs a name of its own"
        )
    ids = given.ids or tuple(range(len(given.names)))
    if given.is_own:
        own = {value: at for at, (value,) in enumerate(meanings) if not isinstance(value, Unknown)}
        return Classes(given.names, ids, own, is_ordered=given.ids is not None)
    reader = _Reader(given, ids, files, where)
    codes = {value: at for value in reader.found if (at := reader.position(value)) is not None}
    unread = tuple(value for value in reader.found if value not in codes and value != NO_LABEL)
    if unread and not codes:
        broken = next((hint for value in unread if isinstance(value, str) and (hint := encoding_hint(value))), "")
        raise InputError(
            f"{where}: none of its labels ({shorten(unread)}) is one of the classes {shorten(given.names)}; "
            + (broken or "choose prompts and label_names of its own classes, or another --label-column")
        )
    return Classes(given.names, ids, codes, unread, given.ids is not None, reader.remark(codes))


class _Reader:
    """Reads label values under some names, having looked at all values that there are."""

    def __init__(self, given: Names, ids: Sequence[int], files: Sequence[LabelCounts], where: str) -> None:
        self._given, self._where, self._names = given, where, given.names
        self._by_name = {plain_name(name): at for at, name in enumerate(given.names)}
        self._by_id = {number: at for at, number in enumerate(ids) if number not in given.invented}
        self._by_number = {v: at for at, name in enumerate(given.names) for v in whole_numbers(label_values(name))}
        self._files = [_with_lists(file, self._by_name) for file in files]
        self.found = sum((file.values for file in self._files), Counter[Value]())
        self._numbers = whole_numbers(self.found)
        ambiguity.refuse_flags(where, given.names, self._files)
        self._by_code = self._by_id if given.is_complete else self._read_numbers()

    def position(self, value: Value) -> int | None:
        """The class of a value, None where it is none."""
        if isinstance(value, int):
            return self._by_code.get(value)
        if value in TRUTH and value not in self._by_name:
            return self._truth(value)
        return self._by_name.get(value)

    def _truth(self, word: str) -> int | None:
        """The class of true or false: the one called so, or yes and no, else the one of id 1 or 0."""
        named = {name.lower(): at for name, at in self._by_name.items()}
        for name in (word, {"true": "yes", "false": "no"}[word]):
            if name in named:
                return named[name]
        if self._given.ids is None:
            ambiguity.refuse_unnamed_ids(self._where, self._names, self._numbers or list(TRUTH))
        if not self._given.is_complete:
            ambiguity.refuse_odd_truth(self._where, self._names)
        return self._by_id.get(TRUTH[word])

    def _read_numbers(self) -> Mapping[int, int]:
        """Whether whole numbers are ids or names that are numbers; both only where they say the same."""
        as_names = {n: self._by_number[n] for n in self._numbers if n in self._by_number}
        as_ids = {n: self._by_id[n] for n in self._numbers if n in self._by_id}
        only_names, only_ids = bool(as_names.keys() - as_ids.keys()), bool(as_ids.keys() - as_names.keys())
        # A column that has names of classes in it has names.
        only_names = only_names or (bool(as_names) and any(value in self._by_name for value in self.found))
        differ = any(as_ids.get(n, at) != at for n, at in as_names.items())
        if (differ and not only_names and not only_ids) or (only_names and only_ids):
            ambiguity.refuse_two_ways(self._where, self._names, self._numbers)
        if differ:
            as_names, as_ids = (as_names, {}) if only_names else ({}, as_ids)
        if as_ids.keys() - as_names.keys() and self._given.ids is None:
            ambiguity.refuse_unnamed_ids(self._where, self._names, self._numbers)
        if not as_names:
            ambiguity.refuse_other_ids(self._where, self._names, self._files)
            ambiguity.refuse_inverted_truth(self._where, self._names, as_ids)
        if NO_LABEL not in as_names:
            ambiguity.refuse_lone_minus(self._where, self._names, self._numbers)
        return {**as_ids, **as_names}

    def remark(self, codes: Mapping[Value, int]) -> str | None:
        """What a person should know of how the labels were read."""
        if self._files and not codes:
            return f"{self._where}: no row has a label, so there is no accuracy"
        if not self._files or self._given.is_complete:
            return None
        ids = [number for number in self._numbers if number in codes and number not in self._by_number]
        return ambiguity.remark_on(self._where, self._names, self.found, ids, codes)


def _with_lists(file: LabelCounts, names: Container[Value]) -> LabelCounts:
    """The labels of a file where lists written as text are lists."""
    read = LabelCounts(Counter(), file.num_rows, file.num_flags)
    for value, num_rows in file.values.items():
        values = list(_with_written((value,), names))
        read.num_flags += num_rows * are_flags(values)
        for each in values:
            if not isinstance(each, Unknown):
                read.values[each] += num_rows
    return read
