"""Data sets: open one by path or hub id, and pull its items into a Parquet file.

Invariant: an item's id is its row's position in the source split, whatever was sliced, limited or rejected; and
items.parquet is either complete or absent.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.reading.hub import existing_path
from pipeline.reading.readers import SUFFIXES, Rows, Unreadable
from pipeline.reading.rows import check_row, printable
from pipeline.reading.sources import Source, find_files, open_files
from pipeline.reading.stream_table import StreamTable

NUM_BAD_ROWS_SHOWN = 5
DEFAULT_LABEL_COLUMN = "label"


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


ITEMS_SCHEMA = _schema(
    item_id=pa.int64(), text=pa.string(), gold_id=pa.int16(), gold=pa.string(), text_hash=pa.string()
)
REJECTED_SCHEMA = _schema(item_id=pa.int64(), reason=pa.string(), text=pa.string(), label=pa.string())


class RowBatch(NamedTuple):
    """Consecutive rows: the first one's position, their texts and, where the data set is labelled, their labels."""

    first_id: int
    texts: list[object]
    labels: list[object] | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened split: what is known of it, and `rows`, which starts a new pass over it."""

    name: str
    split: str
    revision: str | None  # the hub's commit; None for local files
    label_names: tuple[str, ...] | None  # of its ClassLabel feature, where it has one
    num_rows: int | None  # of the slice asked for, where known without reading it
    rows: Callable[[], Iterator[RowBatch]]


@dataclass(frozen=True, slots=True)
class PullSummary:
    """What `pull_items` did."""

    num_items: int
    num_rejected: int
    num_rows_read: int


def open_dataset(
    name_or_path: str | Path,
    *,
    split: str = "test",
    subset: str | None = None,
    revision: str | None = None,
    text_column: str = "text",
    label_column: str = DEFAULT_LABEL_COLUMN,
) -> Dataset:
    """A data set from a .parquet, .jsonl or .csv file, a directory of them, or a hub id; no text is read yet.

    `split` may carry a slice as in `datasets`: "test[:50]", "test[10:20]", "test[-5:]", "test[:10%]". For local files
    its name only matters where a directory holds files of several splits. A missing column named "label" means
    unlabelled; any other missing column is an error.

    Raises InputError for a path, column, split or revision that is not there, RunError where the hub fails.
    """
    split_name, cut = _parse_split(split)
    path = existing_path(name_or_path)
    if path is not None or _looks_local(str(name_or_path)):
        path = path or Path(name_or_path)
        source = open_files(path.name, find_files(path, split_name))
    else:
        from pipeline.reading.hub_data import (
            open_hub_split,  # takes `datasets` along, a second that local files need not wait
        )

        source = open_hub_split(str(name_or_path), split_name, subset, revision)
    columns = _choose_columns(source, str(name_or_path), text_column, label_column)
    return _slice(source, split, cut, columns)


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix in SUFFIXES


def _choose_columns(source: Source, where: str, text_column: str, label_column: str) -> tuple[str, str | None]:
    listed = ", ".join(column if len(column) <= 40 else column[:39] + "…" for column in source.columns[:20])
    for column, option in ((text_column, "--text-column"), (label_column, "--label-column")):
        if source.columns.count(column) > 1:
            raise InputError(
                f"{where}: has {source.columns.count(column)} columns named '{column}'; rename all but one"
            )
        if column in source.partial_columns:
            raise InputError(f"{where}: some of its files have a column '{column}' and some have not; make them alike")
        if column not in source.columns and (option == "--text-column" or column != DEFAULT_LABEL_COLUMN):
            raise InputError(f"{where}: no column '{column}'; it has {listed}; choose one with {option}")
    return text_column, label_column if label_column in source.columns else None


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
    found = re.fullmatch(r"([\w.\-]+)(?:\[(-?[0-9]{1,15}%?)?:(-?[0-9]{1,15}%?)?\])?", split)
    if found is None:
        raise InputError(
            f"split '{split}': write a name such as test, or a slice of it such as test[:50] or test[:10%]"
        )
    name, *bounds = found.groups()
    if "[" not in split:
        return name, None
    start, stop = (None if b is None else int(b.removesuffix("%")) for b in bounds)
    return name, Cut(start, stop, (str(bounds[0]).endswith("%"), str(bounds[1]).endswith("%")))


def _slice(source: Source, split: str, cut: Cut | None, columns: tuple[str, str | None]) -> Dataset:
    num_rows = source.num_rows
    if num_rows is None and cut is not None and cut.needs_num_rows:
        num_rows = sum(len(texts) for texts, _ in source.read(columns[0], None))
    start, stop = cut.bounds(num_rows) if cut else (0, None)
    if num_rows is not None:
        num_rows = max(0, min(num_rows, num_rows if stop is None else stop) - start)
    label_names = source.class_names.get(columns[1]) if columns[1] else None
    rows = partial(_rows_between, partial(source.read, *columns), start, stop, -1 if label_names else None)
    return Dataset(source.name, split, source.revision, label_names, num_rows, rows)


def _rows_between(read: Callable[[], Rows], start: int, stop: int | None, unlabelled: int | None) -> Iterator[RowBatch]:
    position = 0
    for texts, labels in read():
        low, high = max(start - position, 0), len(texts) if stop is None else max(stop - position, 0)
        if labels is not None and unlabelled is not None:
            labels = [None if label == unlabelled else label for label in labels]  # a ClassLabel's -1 means no label
        if texts[low:high]:
            yield RowBatch(position + low, texts[low:high], None if labels is None else labels[low:high])
        position += len(texts)
        if stop is not None and position >= stop:
            return


# Pulling


def pull_items(
    dataset: Dataset,
    *,
    label_names: tuple[str, ...],
    limit: int | None,
    on_bad_row: Literal["fail", "skip"],
    items_path: Path,
    rejected_path: Path,
) -> PullSummary:
    """Stream the first `limit` rows of a data set into items.parquet, checking every text and label.

    With "fail", one bad row and nothing is written; with "skip", bad rows go to rejected.parquet (written only if
    there are any). Labels may be ids or names of `label_names`, or null. Memory holds one row group at a time.

    Raises InputError for bad rows, an empty split, a split of which every row was rejected, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: give a number of rows, 1 or more")
    gold_ids = {name: i for i, name in enumerate(label_names)}
    num_rows = num_items = num_bad = 0
    shown: list[str] = []
    with StreamTable(items_path, ITEMS_SCHEMA) as items, StreamTable(rejected_path, REJECTED_SCHEMA) as rejected:
        for item_id, text, label in _first_rows(dataset, limit):
            num_rows += 1
            row = check_row(text, label, label_names, gold_ids)
            if isinstance(row, Unreadable):
                num_bad += 1
                if on_bad_row == "skip":
                    rejected.add((item_id, row.reason, row.raw, None if label is None else printable(label)))
                elif len(shown) < NUM_BAD_ROWS_SHOWN:
                    shown.append(f"row {item_id}: {row.reason}")
            elif num_bad == 0 or on_bad_row == "skip":
                num_items += 1
                items.add((item_id, *row))
        _refuse(dataset, num_rows, num_items, num_bad, shown)
        items.complete()
        if num_bad:
            rejected.complete()
    if not num_bad:
        rejected_path.unlink(missing_ok=True)  # of an earlier pull
    return PullSummary(num_items, num_bad, num_rows)


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


def _refuse(dataset: Dataset, num_rows: int, num_items: int, num_bad: int, shown: list[str]) -> None:
    where = f"{dataset.name} ({dataset.split})"
    if num_rows == 0:
        raise InputError(f"{where}: no rows; choose another split or slice")
    if shown:
        more = f"; and {num_bad - len(shown)} more" if num_bad > len(shown) else ""
        raise InputError(
            f"{where}: {num_bad} of {num_rows} rows cannot be used: {'; '.join(shown)}{more}; "
            "mend them, or leave them out with --on-bad-row skip"
        )
    if num_items == 0:
        raise InputError(f"{where}: all {num_rows} rows were rejected; check --text-column and --label-column")
