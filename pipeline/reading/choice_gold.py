"""Which of an item's own choices is right, under whatever its label calls it: a place, the choice's text, or a name.

Invariant: how labels are read is decided over the whole source. What could be read in two ways is refused with what to
write, never given to the likelier choice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError
from pipeline.reading.formats import short
from pipeline.reading.labels import NO_LABEL, Unknown, Value, label_values, printable, shorten

Way = Literal["place", "text", "name", "own name", "flags"]
NUM_NAMED = 50
# Where so many labels, of those that one reading explains, have a meaning in the other, too, nobody can tell.
LIKELY = 0.8
FLAGS: dict[object, bool] = {0: False, 1: True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class ChoiceGold:
    """How the label of an item is read.

    way: as a choice's place, counted from 0; as its text; as one of `names`, which stand for places; as one of the
    names that a column of the row gives its choices ("own name"); or as a list with true or 1 for each right choice
    ("flags"). constant: the place that is right in every item. column: that with the row's own names.
    """

    way: Way
    names: Mapping[Value, int] | None = None
    constant: int | None = None
    column: str | None = None
    remark: str | None = None

    def places(self, raw: object, choices: Sequence[str], own_names: object = None) -> tuple[int, ...] | str:
        """The places of an item's right choices, none where it has no label; a string says what is wrong."""
        if self.constant is not None:
            if self.constant < len(choices):
                return (self.constant,)
            return f"gold = {self.constant} counts from 0, and it has {len(choices)} choices"
        values = label_values(raw)
        if self.way == "flags":
            if values and not _are_flags(values, choices):
                return (
                    f"the label {printable(raw)[:60]!r} has not one of 0 and 1 for each of its {len(choices)} choices"
                )
            return tuple(place for place, value in enumerate(values) if FLAGS[value])
        if len(set(values)) < len(values):
            return f"the label {printable(raw)[:60]!r} names a choice twice"
        found: list[int] = []
        for written, value in zip(_elements(raw), values, strict=True):
            places = self._find(written, value, choices, own_names)
            if not places and value != NO_LABEL:
                shown = value.shown if isinstance(value, Unknown) else str(value)
                of = f"{self._kind} of its {len(choices)} choices ({shorten(short(choice, 30) for choice in choices)})"
                return f"the label {shown[:60]!r} is {of}"
            found += [place for place in places if place not in found]
        return tuple(found)

    @property
    def _kind(self) -> str:
        return {"place": "not the place (from 0)", "text": "not the text"}.get(self.way, "not the name")

    def _find(self, written: object, value: Value | Unknown, choices: Sequence[str], own_names: object) -> list[int]:
        if isinstance(value, Unknown):
            return []
        if self.way == "place":
            return [value] if isinstance(value, int) and 0 <= value < len(choices) else []
        if self.way == "text":
            return _equal(written, value, choices)
        if self.way == "own name":
            names = own_names if isinstance(own_names, list) else []
            return [place for place in _equal(written, value, names)[:1] if place < len(choices)]
        place = (self.names or {}).get(value)
        return [place] if place is not None and place < len(choices) else []


def _elements(raw: object) -> list[object]:
    """The labels of a cell as they are written, one for each of `label_values`."""
    if isinstance(raw, list | tuple):
        return [written for element in raw for written in _elements(element)]
    return [raw] if label_values(raw) else []


def _equal(written: object, value: Value, texts: Sequence[object]) -> list[int]:
    """The places of the texts that a label is: letter by letter, else of those that mean the same; all equal ones."""
    exact = [place for place, text in enumerate(texts) if text == written and isinstance(text, str)]
    return exact or [place for place, text in enumerate(texts) if label_values(text) == (value,)]


def _are_flags(values: Sequence[Value | Unknown], choices: Sequence[str]) -> bool:
    """Whether the labels of a row say of each choice whether it is right."""
    return len(values) == len(choices) and all(value in FLAGS for value in values)


def read_gold(
    rows: Iterable[tuple[object, Sequence[str]]],
    where: str,
    *,
    names: Sequence[str] | Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
) -> ChoiceGold:
    """How the labels of a source are read, from all its (label, choices).

    `names`: what a label calls the choices in their order, if the configuration says so, or by id. `class_names`: what
    the file itself calls its ids, which are read as these names already. `column_names`: the columns that the choices
    come from, whose names labels may be. Raises InputError where labels can be read in two ways, count from 1, or are
    nothing known.
    """
    if names is not None:
        keys = names if isinstance(names, Mapping) else {name: name for name in names}
        return ChoiceGold("name", _places_by_name(keys))
    seen = _Seen()
    own = _places_by_name({name: name for name in class_names or column_names or ()})
    for raw, choices in rows:
        values = label_values(raw)
        seen.add_flags(values, choices)
        for written, value in zip(_elements(raw), values, strict=True):
            seen.add(written, value, choices, own)
    return seen.decide(where, own, is_named=class_names is not None)


def _places_by_name(keys: Mapping[str, str]) -> dict[Value, int]:
    """The places that names stand for: in the order of their ids where these are numbers, else in that given.

    Raises InputError where a name stands for two.
    """
    ids = [label_values(key) for key in keys]
    given = list(keys.items())
    if all(len(each) == 1 and isinstance(each[0], int) for each in ids):
        given = [pair for _, pair in sorted(zip(ids, given, strict=True))]
        numbers = sorted(int(each[0]) for each in ids if isinstance(each[0], int))
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise InputError(f"label_names: the ids {shorten(numbers)} have a gap; name the choice of each place")
    places: dict[Value, int] = {}
    for place, pair in enumerate(given):
        for value in (value for name in pair for value in label_values(name) if not isinstance(value, Unknown)):
            if places.setdefault(value, place) != place:
                raise InputError(f"label_names: '{value}' is what two choices are called; give each a name of its own")
    return places


class _Seen:
    """What the labels of a source could mean."""

    def __init__(self) -> None:
        self._num = Counter[str]()
        self._values: dict[Value, None] = {}
        self._example = ""

    def add_flags(self, values: Sequence[Value | Unknown], choices: Sequence[str]) -> None:
        """Count a row whose labels may say of each choice whether it is right; as places none would be there twice."""
        self._num["rows"] += bool(values) and values != (NO_LABEL,)
        if _are_flags(values, choices):
            self._num["flags"] += 1
            self._num["sure flags"] += len(set(values)) < len(values)

    def add(self, written: object, value: Value | Unknown, choices: Sequence[str], own: Mapping[Value, int]) -> None:
        """Count one label."""
        if value == NO_LABEL:
            return
        self._num["all"] += 1
        if isinstance(value, Unknown):
            return
        if len(self._values) < NUM_NAMED:
            self._values[value] = None
        texts = _equal(written, value, choices)
        is_place = isinstance(value, int) and 0 <= value < len(choices)
        self._num["place"] += is_place
        self._num["text"] += bool(texts)
        if value in own and own[value] < len(choices):
            self._num["name"] += 1
            if texts and own[value] not in texts:
                self._num["name differs"] += 1
        self._num["from 1"] += isinstance(value, int) and 1 <= value <= len(choices)
        self._num["zero"] += value == 0
        self._num["last"] += value == len(choices)
        if is_place and texts and value not in texts:
            self._num["differ"] += 1
            self._example = self._example or f"{value} is choice {shorten(map(str, texts))} by its text"

    def decide(self, where: str, own: Mapping[Value, int], *, is_named: bool) -> ChoiceGold:
        num = self._num
        if not num["all"]:
            return ChoiceGold("place", remark=f"{where}: no row has a label, so there is no accuracy")
        if num["sure flags"] and (num["flags"] == num["rows"] or 2 * num["sure flags"] > num["rows"]):
            return ChoiceGold("flags")
        if num["flags"] == num["rows"]:
            raise InputError(
                f"{where}: its labels are pairs of 0 and 1, which may say of each choice whether it is right, or name "
                "both; write the place of the right choice instead"
            )
        if num["name differs"] and (is_named or num["name"] == num["all"]):
            raise InputError(
                f"{where}: its labels ({shorten(self._values)}) are names of places and texts of other choices; write "
                "label_names with the names in the choices' order, or the choices' own column where they are texts"
            )
        if own and (is_named or num["name"] == num["all"]):
            return ChoiceGold("name", own)
        best: Way = "place" if num["place"] >= num["text"] else "text"
        most, least = sorted((num["place"], num["text"]), reverse=True)
        if num["differ"] and least >= LIKELY * most:
            raise InputError(
                f"{where}: its labels ({shorten(self._values)}) are places of choices and texts of others "
                f'({self._example}); write label_names = ["0", "1", ...] for places, or the choices\' column '
                '(label_names = "COLUMN") for texts'
            )
        if not num["zero"] and num["last"] and num["from 1"] > most:
            raise InputError(
                f"{where}: its labels ({shorten(self._values)}) count from 1, and places count from 0; write what they "
                'call the choices in their order: label_names = ["1", "2", ...]'
            )
        if not num[best]:
            raise InputError(
                f"{where}: its labels ({shorten(self._values)}) are neither places (from 0) nor texts of an item's "
                'choices; write what they call the choices in their order, such as label_names = ["A", "B", "C", "D"], '
                "or the column that says it"
            )
        other = {"place": "texts of choices", "text": "places"}[best]
        remark = f"{where}: labels are read as {best}s of choices; {num['differ']:,} of {num['all']:,} could be {other}"
        return ChoiceGold(best, remark=remark if num["differ"] else None)
