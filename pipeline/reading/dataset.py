"""Data sets: open one by path or hub id, find its columns, and slice it.

Invariant: a row's position is that in the source split, whatever was sliced.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.reading.gold import Names
from pipeline.reading.labels import LabelCounts, count_labels, plain_name
from pipeline.reading.places import ALIKE, find_path
from pipeline.reading.readers import ENDINGS, PLAIN, Layout, format_of, looks_like_data
from pipeline.reading.sources import Source, open_files
from pipeline.reading.splits import find_files

DEFAULT_TEXT_COLUMN = "text"
DEFAULT_LABEL_COLUMN = "label"


class RowBatch(NamedTuple):
    """Consecutive rows: the first one's position, their texts and, where the data set is labelled, their labels."""

    first_id: int
    texts: list[object]
    labels: list[object] | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened split, of which no text has been read yet."""

    name: str
    location: str  # a whole path, or the id on the hub
    split: str
    source: Source
    text_column: str
    label_column: str | None
    cut: "Cut | None"
    num_rows: int | None  # of the slice asked for, where known without reading it
    remarks: tuple[str, ...] = ()  # files that were passed over, and that it is unlabelled

    @property
    def revision(self) -> str | None:
        """The hub's commit; None for local files."""
        return self.source.revision

    @property
    def names(self) -> Names | None:
        """The class names of its ClassLabel feature, where it has one."""
        if self.label_column is None or self.label_column not in self.source.class_names:
            return None
        names = tuple(map(plain_name, self.source.class_names[self.label_column]))
        ids = None if self.label_column in self.source.reordered else tuple(range(len(names)))
        return Names(names, ids, is_own=True)

    def rows(self) -> Iterator[RowBatch]:
        """A pass over the slice asked for."""
        start, stop = self.cut.bounds(self._num_all_rows()) if self.cut else (0, None)
        columns = [self.text_column, *([self.label_column] if self.label_column else [])]
        position = 0
        for texts, *rest in self.source.read(columns):
            labels = rest[0] if rest else None
            low, high = max(start - position, 0), len(texts) if stop is None else max(stop - position, 0)
            if texts[low:high]:
                yield RowBatch(position + low, texts[low:high], None if labels is None else labels[low:high])
            position += len(texts)
            if stop is not None and position >= stop:
                return

    def all_texts(self) -> Iterator[list[object]]:
        """A pass over the texts of the whole source, whatever slice was asked for."""
        return (batch[0] for batch in self.source.read([self.text_column]))

    def count_labels(self) -> list[LabelCounts]:
        """The labels of each file of the whole source, whatever slice was asked for; none where it is unlabelled."""
        if self.label_column is None:
            return []
        column = self.label_column
        return [count_labels(batch[0] for batch in read([column])) for read in self.source.read_each]

    def _num_all_rows(self) -> int | None:
        """The source's rows, counted where only reading tells and the slice needs to know."""
        if self.source.num_rows is not None or self.cut is None or not self.cut.needs_num_rows:
            return self.source.num_rows
        return sum(map(len, self.all_texts()))


def open_dataset(
    name_or_path: str | Path,
    *,
    split: str = "test",
    subset: str | None = None,
    revision: str | None = None,
    text_column: str = DEFAULT_TEXT_COLUMN,
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
    split_name, cut = _parse_split(split)
    path = find_path(str(name_or_path), ENDINGS)
    remarks, location = tuple[str, ...](), str(name_or_path)
    if path is not None:
        location = str(path.resolve())
        found = find_files(path, split_name)
        split = found.split + split.removeprefix(split_name)
        remarks = (found.remark,) if found.remark else ()
        described = {label_column: class_names} if class_names else {}
        source = open_files(path.resolve().name, found.files, (text_column, label_column), layout, described)
    else:
        # `datasets` takes a second to import, which local files need not wait for
        from pipeline.reading.hub_data import open_hub_split

        if layout != PLAIN:
            raise InputError(f"{name_or_path}: --encoding and --columns are for local files; leave them out")
        source = open_hub_split(str(name_or_path), split_name, subset, revision, (text_column, label_column))
    text_column, labelled_by = _choose_columns(source, str(name_or_path), text_column, label_column)
    num_rows = _count_rows(source.num_rows, cut)
    if labelled_by is None:
        unlabelled = f"{name_or_path}: no column '{label_column}', so no accuracy; name another with --label-column"
        remarks = (*remarks, unlabelled)
    return Dataset(source.name, location, split, source, text_column, labelled_by, cut, num_rows, remarks)


def _choose_columns(source: Source, where: str, text_column: str, label_column: str) -> tuple[str, str | None]:
    listed = ", ".join(f"'{c}'" if c != c.strip() or not c else c[:40] for c in source.columns[:20])
    for column, option in ((text_column, "--text-column"), (label_column, "--label-column")):
        if source.columns.count(column) > 1:
            raise InputError(
                f"{where}: has {source.columns.count(column)} columns named '{column}'; rename all but one"
            )
        if column in source.partial_columns:
            raise InputError(f"{where}: some of its files have a column '{column}' and some have not; make them alike")
        if column in source.columns:
            continue
        near = _near_miss(column, [c for c in source.columns if c != text_column])
        if option == "--text-column" or column != DEFAULT_LABEL_COLUMN or near is not None:
            hint = "" if near is None else f"did you mean '{near}'? "
            header = _no_header(source) if near is None else ""
            raise InputError(f"{where}: no column '{column}'; {hint}it has {listed}; choose one with {option}{header}")
    return text_column, label_column if label_column in source.columns else None


def _near_miss(wanted: str, columns: Sequence[str]) -> str | None:
    """The column that differs from the wanted one by case, blanks, a plural or a slip of the pen."""
    bare = {column: column.strip(" \t_-").casefold() for column in columns}
    for column, name in bare.items():
        if name in (wanted.casefold(), f"{wanted.casefold()}s"):
            return column
    close = get_close_matches(wanted.casefold(), [name for name in bare.values() if name], n=1, cutoff=ALIKE)
    return next((column for column, name in bare.items() if close == [name]), None)


def _no_header(source: Source) -> str:
    found = format_of(source.files[0]) if source.files else None
    if found is None or found.kind not in ("csv", "tsv"):
        return ""
    seen = "its first line looks like data: " if looks_like_data(source.columns) else "where there is no header, "
    return f"; {seen}name the columns by --columns A,B,..."


# Slices


class Cut(NamedTuple):
    """The part of a split between two bounds; a bound is a row number, a percentage, or open."""

    start: int | None
    stop: int | None
    percent: tuple[bool, bool]

    @property
    def needs_num_rows(self) -> bool:
        return any(p or (b or 0) < 0 for b, p in zip((self.start, self.stop), self.percent, strict=True))

    def bounds(self, num_rows: int | None) -> tuple[int, int | None]:
        """Row positions [start, stop) as Python slices count them; percentages round to the nearest row."""
        if num_rows is None:
            return self.start or 0, self.stop
        given = zip((self.start, self.stop), self.percent, strict=True)
        start, stop = (round(b * num_rows / 100) if p and b is not None else b for b, p in given)
        return slice(start, stop).indices(num_rows)[:2]


def _parse_split(split: str) -> tuple[str, Cut | None]:
    found = re.fullmatch(r"([^\[\]]+)(?:\[(-?[0-9]{1,15}%?)?:(-?[0-9]{1,15}%?)?\])?", split)
    if found is None:
        raise InputError(
            f"split '{split}': write a name such as test, or a slice of it such as test[:50] or test[:10%]"
        )
    name, *bounds = found.groups()
    if "[" not in split:
        return name, None
    start, stop = (None if b is None else int(b.removesuffix("%")) for b in bounds)
    return name, Cut(start, stop, (str(bounds[0]).endswith("%"), str(bounds[1]).endswith("%")))


def _count_rows(num_all: int | None, cut: Cut | None) -> int | None:
    if num_all is None or cut is None:
        return num_all
    start, stop = cut.bounds(num_all)
    return max(0, min(num_all, num_all if stop is None else stop) - start)
