"""Data sets: open one by path or hub id, find its columns, and slice it.

Invariant: a row's position is that in the source split, whatever was sliced.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.reading.csv_files import looks_like_data
from pipeline.reading.formats import ENDINGS, FAMILY, PLAIN, Batch, Layout, Part, Unreadable, need_format
from pipeline.reading.gold import Names
from pipeline.reading.labels import LabelCounts, count_labels, plain_name
from pipeline.reading.places import ALIKE, find_path
from pipeline.reading.readers import open_files, read_batches
from pipeline.reading.splits import find_files

DEFAULT_LABEL_COLUMN = "label"


class Row(NamedTuple):
    """A row as its source has it. What could not be read is an `Unreadable` in both columns."""

    position: int
    text: object
    label: object = None  # where the data set is labelled


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened split, of which no text has been read yet."""

    name: str
    location: str  # a whole path, or the id on the hub
    split: str
    revision: str | None  # the hub's commit; None for local files
    parts: tuple[Part, ...]
    text_column: str
    label_column: str | None
    slice: "Slice"  # of the split, that was asked for
    remarks: tuple[str, ...] = ()  # files that were passed over, and that it is unlabelled

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from; none where the hub streams it."""
        return tuple(part.file for part in self.parts if part.file is not None)

    @property
    def names(self) -> Names | None:
        """The class names of its ClassLabel feature, where it has one; without ids where its files differ in them."""
        own = [part.class_names.get(self.label_column or "") for part in self.parts]
        first = next((names for part, names in zip(self.parts, own, strict=True) if part.num_rows != 0), None)
        if first is None or self.label_column is None:
            return None
        is_alike = all(names in (None, first) for names in own)
        return Names(tuple(map(plain_name, first)), tuple(range(len(first))) if is_alike else None, is_own=True)

    def rows(self) -> Iterator[Row]:
        """A pass over the slice asked for."""
        columns = [self.text_column, *([self.label_column] if self.label_column else [])]
        rows = chain.from_iterable(self._batches(columns))
        for position, row in islice(enumerate(rows), *self.slice.bounds(self._count_rows)):
            yield Row(position, row, row) if isinstance(row, Unreadable) else Row(position, *row)

    def all_texts(self) -> Iterator[list[object]]:
        """A pass over the texts of the whole source, whatever slice was asked for."""
        return map(_only_values, self._batches([self.text_column]))

    def count_labels(self) -> list[LabelCounts]:
        """The labels of each file of the whole source, whatever slice was asked for; none where it is unlabelled."""
        column = self.label_column
        return [count_labels(map(_only_values, read_batches(part, [column]))) for part in self.parts] if column else []

    def _batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        return chain.from_iterable(read_batches(part, columns) for part in self.parts)

    def _count_rows(self) -> int:
        """The source's rows, counted where only reading tells."""
        if all(part.num_rows is not None for part in self.parts):
            return sum(part.num_rows or 0 for part in self.parts)
        return sum(map(len, self.all_texts()))


def _only_values(batch: Batch) -> list[object]:
    """Those of rows of one column."""
    return [row if isinstance(row, Unreadable) else row[0] for row in batch]


def open_dataset(
    name_or_path: str | Path,
    *,
    split: str = "test",
    subset: str | None = None,
    revision: str | None = None,
    text_column: str = "text",
    label_column: str = DEFAULT_LABEL_COLUMN,
    layout: Layout = PLAIN,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """A data set from a file, a directory of files, or a hub id; no text is read yet.

    `class_names` name the ids of a local label column, where the data set's description does.

    `split` may carry a slice as in `datasets`: "test[:50]", "test[10:20]", "test[-5:]", "test[:10%]". A missing column
    named "label" means unlabelled, unless another is called nearly so; any other missing column is an error.

    Raises InputError for a path, column, split or revision that is not there, RunError where the hub fails.
    """
    name = location = where = str(name_or_path)
    split_name, row_slice = _parse_split(split)
    path = find_path(where, ENDINGS)
    columns, remarks = (text_column, label_column), tuple[str, ...]()
    if path is not None:
        name, location = path.resolve().name, str(path.resolve())
        found = find_files(path, split_name)
        split = found.split + split.removeprefix(split_name)
        remarks, revision = found.remarks, None
        parts = open_files(found.files, columns, layout, {label_column: class_names} if class_names else {})
    else:
        # `datasets` takes a second to import, which local files need not wait for
        from pipeline.reading.hub_data import open_hub_split

        if layout != PLAIN:
            raise InputError(f"{where}: --encoding and --columns are for local files; leave them out")
        revision, parts = open_hub_split(where, split_name, subset, revision, columns)
    labelled_by = label_column if _has_columns(parts, where, text_column, label_column) else None
    if labelled_by is None:
        remarks += (f"{where}: no column '{label_column}', so no accuracy; name another with --label-column",)
    return Dataset(name, location, split, revision, parts, text_column, labelled_by, row_slice, remarks)


# Columns


def _has_columns(parts: Sequence[Part], where: str, text_column: str, label_column: str) -> bool:
    """Whether there are labels beside the texts. Raises InputError where a column is missing that is needed."""
    every = [part.columns for part in parts]
    there = [column for column in every[0] if all(column in columns for columns in every)]
    for column, option in ((text_column, "--text-column"), (label_column, "--label-column")):
        if there.count(column) > 1:
            raise InputError(f"{where}: has {there.count(column)} columns named '{column}'; rename all but one")
        if column in there:
            continue
        if any(column in columns for columns in every):
            raise InputError(f"{where}: some of its files have a column '{column}' and some have not; make them alike")
        near = _near_miss(column, [c for c in there if c != text_column])
        if option == "--text-column" or column != DEFAULT_LABEL_COLUMN or near is not None:
            hint, header = ("", _no_header(parts[0], there)) if near is None else (f"did you mean '{near}'? ", "")
            listed = ", ".join(f"'{c}'" if c != c.strip() or not c else c[:40] for c in there[:20])
            raise InputError(f"{where}: no column '{column}'; {hint}it has {listed}; choose one with {option}{header}")
    return label_column in there


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


def _no_header(part: Part, columns: Sequence[str]) -> str:
    if part.file is None or FAMILY[need_format(part.file).kind] != "csv":
        return ""
    seen = "its first line looks like data: " if looks_like_data(columns) else "where there is no header, "
    return f"; {seen}name the columns by --columns A,B,..."


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
