"""Data sets: open one by path or hub id, find its columns, and slice it.

Invariant: a row's position is that in the source split, whatever was sliced.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.reading.columns import Column, find_column
from pipeline.reading.csv_files import looks_like_data
from pipeline.reading.formats import ENDINGS, FAMILY, PLAIN, Batch, Layout, Part, Unreadable, batched, need_format
from pipeline.reading.gold import Names
from pipeline.reading.labels import LabelCounts, count_labels, label_values, plain_name, printable, whole_numbers
from pipeline.reading.places import ALIKE, find_path
from pipeline.reading.readers import open_files, read_batches
from pipeline.reading.requests import GoldOf, as_items, holds_requests
from pipeline.reading.splits import find_files
from pipeline.templates import TEXT

DEFAULT_LABEL_COLUMN = "label"


class Row(NamedTuple):
    """A row as its source has it: a value for each column of an item, and its label where the data set is labelled.

    Behind the values of columns may stand what the row calls its choices, and the name of its task.
    """

    position: int
    values: tuple[object, ...] | Unreadable
    label: object = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened split, of which no text has been read yet."""

    name: str
    location: str  # a whole path, or the id on the hub
    split: str
    revision: str | None  # the hub's commit; None for local files
    parts: tuple[Part, ...]
    columns: tuple[Column, ...]  # of an item
    label: Column | None
    slice: "Slice"  # of the split, that was asked for
    where: tuple[tuple[Column, tuple[object, ...]], ...] = ()  # the rows that are kept: those with these values
    remarks: tuple[str, ...] = ()  # files that were passed over, and that it is unlabelled

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from; none where the hub streams it."""
        return tuple(part.file for part in self.parts if part.file is not None)

    @property
    def names(self) -> Names | None:
        """The class names of its ClassLabel feature, where it has one; without ids where its files differ in them."""
        own = [part.class_names.get(self.label.name if self.label else "") for part in self.parts]
        first = next((names for part, names in zip(self.parts, own, strict=True) if part.num_rows != 0), None)
        if first is None:
            return None
        is_alike = all(names in (None, first) for names in own)
        return Names(tuple(map(plain_name, first)), tuple(range(len(first))) if is_alike else None, is_own=True)

    def rows(self) -> Iterator[Row]:
        """A pass over the rows kept of the slice asked for."""
        return self._rows(self.slice)

    def all_rows(self) -> Iterator[Row]:
        """A pass over the rows kept of the whole source, whatever slice was asked for."""
        return self._rows(Slice())

    def _rows(self, of: "Slice") -> Iterator[Row]:
        wanted = [*self.columns, *([self.label] if self.label else []), *(column for column, _ in self.where)]
        roots = tuple(dict.fromkeys(column.root for column in wanted))
        places = [(roots.index(column.root), column) for column in wanted]
        rows = chain.from_iterable(self._batches(roots))
        num_values, num_own = len(self.columns), len(wanted) - len(self.where)
        for position, row in islice(enumerate(rows), *of.bounds(self._count_rows)):
            if isinstance(row, Unreadable):
                yield Row(position, row, row)
                continue
            values = tuple([column.read(row[place]) for place, column in places])
            if self.where and not self._is_kept(values[num_own:]):
                continue
            yield Row(position, values[:num_values], values[num_values] if self.label else None)

    def _is_kept(self, values: Sequence[object]) -> bool:
        return all(label_values(value) == kept for value, (_, kept) in zip(values, self.where, strict=True))

    def every_item(self) -> Iterator[tuple[object, ...] | Unreadable]:
        """A pass over the columns of an item in the whole source, whatever slice and rows were asked for."""
        return (row.values for row in replace(self, where=(), label=None).all_rows())

    def only(self, names: Sequence[str]) -> "Dataset":
        """The data set with these of its columns, in this order, and what is no item's column behind them."""
        by_name = {column.name: column for column in self.columns}
        return replace(self, columns=tuple(by_name[name] for name in names))

    def count_labels(self) -> list[LabelCounts]:
        """The labels of each file of the whole source, whatever slice was asked for; none where it is unlabelled.

        Of the rows kept, unless there are numbers among their labels: how these count, only all of them tell.
        """
        if self.label is None:
            return []
        kept = self._count_labels()
        if self.where and any(whole_numbers(counts.values) for counts in kept):
            return replace(self, where=())._count_labels()
        return kept

    def _count_labels(self) -> list[LabelCounts]:
        alone = replace(self, columns=())
        rows = (replace(alone, parts=(part,)).all_rows() for part in self.parts)
        return [count_labels(batched(row.label for row in each)) for each in rows]

    def values_of(self, column: Column) -> list[str]:
        """The first few values of a column, for a message."""
        rows = replace(self, columns=(column,), where=(), label=None).rows()
        found = (
            value for row in islice(rows, 100_000) if not isinstance(row.values, Unreadable) for value in row.values
        )
        return list(dict.fromkeys(map(printable, found)))

    def _batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        return chain.from_iterable(read_batches(part, columns) for part in self.parts)

    def _count_rows(self) -> int:
        """The source's rows, counted where only reading tells."""
        if all(part.num_rows is not None for part in self.parts):
            return sum(part.num_rows or 0 for part in self.parts)
        return sum(map(len, self._batches([column.root for column in self.columns[:1]])))


def open_dataset(
    name_or_path: str | Path,
    *,
    split: str = "test",
    subset: str | None = None,
    revision: str | None = None,
    columns: Sequence[str] = (TEXT,),
    text_column: str = TEXT,
    label_column: str | None = DEFAULT_LABEL_COLUMN,
    where: Mapping[str, object] = MappingProxyType({}),
    layout: Layout = PLAIN,
    class_names: tuple[str, ...] | None = None,
    is_requests: bool = False,
    gold_of: GoldOf | None = None,
    no_slots: Sequence[str] = (),
) -> Dataset:
    """A data set from a file, a directory of files, or a hub id; no row is read yet.

    `columns` are what an item is made of, as templates name them; `text_column` is what the one named "text" is called
    here. `where` keeps the rows with these values in other columns. `class_names` name the ids of a local label column,
    where the data set's description does. With `is_requests` rows are read as `pipeline.reading.requests` says,
    which asks `gold_of`.
    `no_slots` are what templates have in braces as text, which must be no columns.

    `split` may carry a slice as in `datasets`: "test[:50]", "test[10:20]", "test[-5:]", "test[:10%]". A missing column
    named "label" means unlabelled, unless another is called nearly so; any other missing column is an error.

    Raises InputError for a path, column, split or revision that is not there, RunError where the hub fails.
    """
    name = location = place = str(name_or_path)
    split_name, row_slice = _parse_split(split)
    path = find_path(place, ENDINGS)
    called = {column: text_column if column == TEXT else column for column in columns}
    looked_for = [*called.values(), *([label_column] if label_column else []), *where]
    looked_for = [] if is_requests else looked_for
    remarks = tuple[str, ...]()
    if path is not None:
        name, location = path.resolve().name, str(path.resolve())
        found = find_files(path, split_name)
        split = found.split + split.removeprefix(split_name)
        remarks, revision = found.remarks, None
        described = {label_column: class_names} if class_names and label_column else {}
        parts = open_files(found.files, looked_for, layout, described)
    else:
        # `datasets` takes a second to import, which local files need not wait for
        from pipeline.reading.hub_data import open_hub_split

        if layout != PLAIN:
            raise InputError(f"{place}: --encoding and --columns are for local files; leave them out")
        revision, parts = open_hub_split(place, split_name, subset, revision, looked_for)
    if is_requests:
        parts = (as_items(parts, place, gold_of),)
    finder = _Finder(parts, place)
    own = tuple(replace(finder.need(by, _asked_by(name)), name=name) for name, by in called.items())
    finder.refuse_no_slots(no_slots, columns)
    label = finder.label(label_column, [column.root for column in own]) if label_column else None
    if label is None and label_column:
        remarks += (f"{place}: no column '{label_column}', so no accuracy; name another with --label-column",)
    kept = tuple((finder.need(by, "choose one with --where"), label_values(value)) for by, value in where.items())
    return Dataset(name, location, split, revision, parts, own, label, row_slice, kept, remarks)


# Columns


def _asked_by(name: str) -> str:
    return "choose one with --text-column" if name == TEXT else "name one of them in its place"


class _Finder:
    """Finds columns in the parts of a split, which must all have them."""

    def __init__(self, parts: Sequence[Part], place: str) -> None:
        self._first, self._place = parts[0], place
        self._every = [part.columns for part in parts]
        self._there = [column for column in self._every[0] if all(column in columns for columns in self._every)]

    def find(self, name: str) -> Column | None:
        """The column; None where no part has it. Raises InputError where only some have it, or two are called so."""
        found = find_column(name, self._there)
        root = found.root if found else name
        if self._there.count(root) > 1:
            raise InputError(f"{self._place}: has {self._there.count(root)} columns named '{root}'; rename all but one")
        if found is None and any(find_column(name, columns) for columns in self._every):
            raise InputError(
                f"{self._place}: some of its files have a column '{name}' and some have not; make them alike"
            )
        return found

    def need(self, name: str, asked_by: str) -> Column:
        """The column. Raises InputError where it is not there, with what there is."""
        found = self.find(name)
        if found is None:
            raise self._missing(name, asked_by, _near_miss(name, self._there))
        return found

    def refuse_no_slots(self, texts: Sequence[str], others: Sequence[str]) -> None:
        """Text in braces that begins with a column: another tool's slot, or a name that no slot can have."""
        for text in texts:
            word = re.match(r"\w*", text)
            name = next((each for each in (text, word[0] if word else "") if each in (*self._there, *others)), None)
            if name:
                raise InputError(
                    f"{self._place}: a template has '{text}' in braces as text, and there is a column '{name}'; write "
                    "{COLUMN}, {COLUMN.key} or {COLUMN[0]} with nothing else in or around the braces (a name of "
                    "letters, digits and underscores), or other words"
                )

    def label(self, name: str, others: Collection[str]) -> Column | None:
        """The label's column; None where the one that it has by default is not there, nor one that is nearly it."""
        found = self.find(name)
        near = _near_miss(name, [column for column in self._there if column not in others])
        if found is None and (name != DEFAULT_LABEL_COLUMN or near is not None):
            raise self._missing(name, "choose one with --label-column", near)
        return found

    def _missing(self, name: str, asked_by: str, near: str | None) -> InputError:
        hint, header = ("", self._no_header()) if near is None else (f"did you mean '{near}'? ", "")
        if holds_requests(self._there):
            header = "; these look like requests: score them as they stand with --prompt requests"
        listed = ", ".join(f"'{c}'" if c != c.strip() or not c else c[:40] for c in self._there[:20])
        return InputError(f"{self._place}: no column '{name}'; {hint}it has {listed}; {asked_by}{header}")

    def _no_header(self) -> str:
        if self._first.file is None or FAMILY[need_format(self._first.file).kind] != "csv":
            return ""
        seen = "its first line looks like data: " if looks_like_data(self._there) else "where there is no header, "
        return f"; {seen}name the columns by --columns A,B,..."


def _near_miss(wanted: str, columns: Sequence[str]) -> str | None:
    """The column that differs from the wanted one by case, blanks, a plural or a slip of the pen."""
    wanted = wanted.casefold()
    bare = {column: column.strip(" \t_-").casefold() for column in columns}
    close = get_close_matches(wanted, filter(None, bare.values()), n=1, cutoff=ALIKE)
    for likely in ([wanted, f"{wanted}s"], close):
        for column, name in bare.items():
            if name in likely:
                return column
    return None


# Slices


class Slice(NamedTuple):
    """The part of a split between two bounds, each as it is written: a row number, a percentage, or nothing."""

    start: str = ""
    stop: str = ""

    def bounds(self, count_rows: Callable[[], int]) -> tuple[int, int | None]:
        """Row positions [start, stop) as Python slices count them; percentages round to the nearest row."""
        if not any(mark in bound for mark in "%-" for bound in self):
            return int(self.start or 0), int(self.stop) if self.stop else None
        num_rows = count_rows()
        numbers = [int(bound.removesuffix("%")) if bound else None for bound in self]
        numbers = [
            round(number * num_rows / 100) if number is not None and bound.endswith("%") else number
            for bound, number in zip(self, numbers, strict=True)
        ]
        return slice(*numbers).indices(num_rows)[:2]


def _parse_split(split: str) -> tuple[str, Slice]:
    found = re.fullmatch(r"([^\[\]]+)(?:\[(-?[0-9]{1,15}%?)?:(-?[0-9]{1,15}%?)?\])?", split)
    if found is None:
        raise InputError(
            f"split '{split}': write a name such as test, or a slice of it such as test[:50] or test[:10%]"
        )
    name, start, stop = found.groups(default="")
    return name, Slice(start, stop)
