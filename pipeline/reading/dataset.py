"""Data sets: open one by path or hub id, and pull its items into a Parquet file.

Invariant: an item's id is its row's position in the source split, whatever was sliced, limited or rejected; and
items.parquet is either complete or absent.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from pipeline.bundled import SAMPLE
from pipeline.errors import InputError
from pipeline.reading.gold import Classes, Names
from pipeline.reading.labels import LabelCounts, count_labels, plain_name, printable
from pipeline.reading.places import find_path
from pipeline.reading.readers import ENDINGS, PLAIN, Layout, Unreadable, format_of, looks_like_data
from pipeline.reading.rows import Row, check_row
from pipeline.reading.sources import Source, find_files, open_files
from pipeline.reading.stream_table import StreamTable

NUM_BAD_ROWS_SHOWN = 5
DEFAULT_TEXT_COLUMN = "text"
DEFAULT_LABEL_COLUMN = "label"
NUM_LOST_LABELS = 1000
NUM_ROWS_TRIED = 10_000
ALIKE = 0.8  # from which ratio of equal letters on one name is taken for a slip of another


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


ITEMS_SCHEMA = _schema(
    item_id=pa.int64(),
    text=pa.string(),
    gold_id=pa.int16(),
    gold=pa.string(),
    text_hash=pa.string(),
    gold_ids=pa.list_(pa.int16()),
)
REJECTED_SCHEMA = _schema(item_id=pa.int64(), reason=pa.string(), text=pa.string(), label=pa.string())


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
        return Names(names, None if self.label_column in self.source.reordered else tuple(range(len(names))), True)

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


@dataclass(frozen=True, slots=True)
class PullSummary:
    """What `pull_items` did. `remarks`: what leaving out rows did to the classes."""

    num_items: int
    num_rejected: int
    num_rows_read: int
    remarks: tuple[str, ...] = ()


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
    path = find_path(str(name_or_path), ENDINGS, bundled=(SAMPLE,))
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


# Pulling


def pull_items(
    dataset: Dataset,
    *,
    classes: Classes,
    limit: int | None,
    on_bad_row: Literal["fail", "skip"],
    items_path: Path,
    rejected_path: Path,
) -> PullSummary:
    """Stream the first `limit` rows of a data set into items.parquet, checking every text and label.

    With "fail", one bad row and nothing is written; with "skip", bad rows go to rejected.parquet (written only if
    there are any). Memory holds one row group at a time.

    Raises InputError for bad rows, an empty split, a split of which every row was rejected, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: give a number of rows, 1 or more")
    tally = _Tally()
    with StreamTable(items_path, ITEMS_SCHEMA) as items, StreamTable(rejected_path, REJECTED_SCHEMA) as rejected:
        for item_id, text, label in _first_rows(dataset, limit):
            row = check_row(text, label, classes)
            tally.add(item_id, row, label, classes)
            if isinstance(row, Unreadable):
                if on_bad_row == "skip":
                    rejected.add((item_id, row.reason, row.raw, _shown(label)))
            elif tally.num_bad == 0 or on_bad_row == "skip":
                items.add((item_id, *row))
        _refuse(dataset, tally, on_bad_row)
        items.complete()
        if tally.num_bad:
            rejected.complete()
    if not tally.num_bad:
        rejected_path.unlink(missing_ok=True)  # of an earlier pull
    return PullSummary(tally.num_good, tally.num_bad, tally.num_rows, tuple(tally.remarks()))


def _shown(label: object) -> str | None:
    return None if label is None or isinstance(label, Unreadable) else printable(label)


def refuse_bad_rows(dataset: Dataset, *, classes: Classes, limit: int | None) -> None:
    """Look at the first rows, and raise what `pull_items` would where one of them is bad; writes nothing."""
    tally = _Tally()
    for item_id, text, label in _first_rows(dataset, limit):
        tally.add(item_id, check_row(text, label, classes), label, classes)
        if tally.num_rows == NUM_ROWS_TRIED and not tally.num_bad:
            return
    _refuse(dataset, tally, "fail")


class _Tally:
    """What became of the rows, and of the classes by them."""

    def __init__(self) -> None:
        self.num_good = self.num_bad = 0
        self.shown: list[str] = []  # the first bad rows
        self.num_bad_labels = 0
        self._kept: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    @property
    def num_rows(self) -> int:
        return self.num_good + self.num_bad

    @property
    def vanished(self) -> dict[str, int]:
        """How many rows were lost of each label that no row is left of."""
        return {name: n for name, n in self._lost.most_common() if name not in self._kept}

    def add(self, item_id: int, row: Row | Unreadable, label: object, classes: Classes) -> None:
        """Count one row."""
        if isinstance(row, Row):
            self.num_good += 1
            if row.gold is not None:
                self._kept[row.gold] += 1
            return
        self.num_bad += 1
        if len(self.shown) < NUM_BAD_ROWS_SHOWN:
            self.shown.append(f"row {item_id}: {row.reason}")
        if isinstance(label, Unreadable):
            return
        found = classes.positions(label)
        if isinstance(found, str):
            self.num_bad_labels += 1
            if len(self._lost) < NUM_LOST_LABELS:
                self._lost[f"label {printable(label)[:60]!r}"] += 1
        else:
            self._lost.update(classes.names[position] for position in found[:1])

    def remarks(self) -> Iterator[str]:
        """What leaving out the bad rows did to the classes."""
        if self.vanished:
            each = ", ".join(f"{name} ({n:,} rows)" for name, n in list(self.vanished.items())[:NUM_BAD_ROWS_SHOWN])
            more = len(self.vanished) - NUM_BAD_ROWS_SHOWN
            yield f"by leaving out bad rows nothing is left of {each}{f' and {more} more' if more > 0 else ''}"


def _first_rows(dataset: Dataset, limit: int | None) -> Iterator[tuple[int, object, object]]:
    left = limit
    for first_id, texts, labels in dataset.rows():
        texts = texts if left is None else texts[:left]
        for offset, text in enumerate(texts):
            yield first_id + offset, text, labels[offset] if labels is not None else None
        if left is not None:
            left -= len(texts)
            if left == 0:
                return


def _refuse(dataset: Dataset, tally: _Tally, on_bad_row: str) -> None:
    where = f"{dataset.name} ({dataset.split})"
    if tally.num_rows == 0:
        raise InputError(f"{where}: no rows; choose another split or slice")
    if tally.num_bad and on_bad_row == "fail":
        more = f"; and {tally.num_bad - len(tally.shown)} more" if tally.num_bad > len(tally.shown) else ""
        raise InputError(
            f"{where}: {tally.num_bad} of {tally.num_rows} rows cannot be used: {'; '.join(tally.shown)}{more}; "
            f"{_advice(tally)}"
        )
    if tally.num_good == 0:
        raise InputError(
            f"{where}: all {tally.num_rows} rows were rejected ({tally.shown[0]}); check --text-column and "
            "--label-column"
        )


def _advice(tally: _Tally) -> str:
    """To leave rows out is no advice where a class would go with them."""
    if tally.num_bad_labels:
        return "mend them, or give their labels a class with label_names and prompts for it"
    if tally.vanished:
        return f"mend them: without them nothing is left of {next(iter(tally.vanished))}"
    return "mend them, or leave them out with --on-bad-row skip"
