"""Pulling: a data set's rows, checked and streamed into items.parquet.

Invariant: an item's id is its row's position in the source split, whatever was sliced, limited or rejected; and
items.parquet is either complete or absent.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import InputError
from pipeline.items import Item, ItemShape
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.dataset import Dataset, Row
from pipeline.reading.formats import Unreadable
from pipeline.reading.gold import Classes
from pipeline.reading.labels import printable, shorten
from pipeline.storing.layout import REJECTED_SCHEMA
from pipeline.storing.tables import writing_rows
from pipeline.wording import with_split

if TYPE_CHECKING:
    from pipeline.harness.tasks import Tasks

NUM_BAD_ROWS_SHOWN = 5
ADVICE_ON_TASKS = "mend its data, or run it with `labelscore lm-eval`"
NUM_LOST_LABELS = 1000
NUM_ROWS_TRIED = 10_000


@dataclass(frozen=True, slots=True)
class PullSummary:
    """What `pull_items` did. `max_choices`: the most that an item brings of its own. `remarks`: what leaving out rows
    did to the classes.
    """

    num_items: int
    num_rejected: int
    num_rows_read: int
    max_choices: int = 0
    remarks: tuple[str, ...] = ()


def pull_items(
    dataset: "Dataset | Tasks",
    *,
    golds: Classes | ChoiceGold,
    shape: ItemShape,
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
    tally = _Tally(golds, shape)
    with writing_rows(items_path, shape.schema) as add, writing_rows(rejected_path, REJECTED_SCHEMA) as reject:
        for row in islice(dataset.rows(), limit):
            found = shape.read(row, golds)
            tally.add(row, found)
            if isinstance(found, Item):
                if tally.num_bad == 0 or on_bad_row == "skip":
                    add(shape.record(found))
            elif on_bad_row == "skip":
                label = None if row.label is None or isinstance(row.label, Unreadable) else printable(row.label)
                reject((row.position, found.reason, found.raw, label))
        _refuse(dataset, tally, on_bad_row)
    if not tally.num_bad:
        rejected_path.unlink()
    return PullSummary(tally.num_good, tally.num_bad, tally.num_rows, tally.max_choices, tuple(tally.remarks()))


def refuse_bad_rows(dataset: Dataset, *, golds: Classes | ChoiceGold, shape: ItemShape, limit: int | None) -> None:
    """Look at the first rows, and raise what `pull_items` would where one of them is bad; writes nothing."""
    tally = _Tally(golds, shape)
    for row in islice(dataset.rows(), limit):
        tally.add(row, shape.read(row, golds))
        if tally.num_rows == NUM_ROWS_TRIED and not tally.num_bad:
            return
    _refuse(dataset, tally, "fail")


class _Tally:
    """What became of the rows, and of the classes by them."""

    def __init__(self, golds: Classes | ChoiceGold, shape: ItemShape) -> None:
        self._shape = shape
        self._classes = golds if isinstance(golds, Classes) else None  # choices of an item are lost with it
        self.num_good = self.num_bad = self.max_choices = 0
        self.shown: list[str] = []  # the first bad rows
        self.num_bad_labels = 0
        self._kept: set[str] = set()
        self._lost: Counter[str] = Counter()

    @property
    def num_rows(self) -> int:
        return self.num_good + self.num_bad

    @property
    def vanished(self) -> dict[str, int]:
        """How many rows were lost of each label that no row is left of."""
        return {name: n for name, n in self._lost.most_common() if name not in self._kept}

    def add(self, row: Row, found: Item | Unreadable) -> None:
        """Count one row."""
        if isinstance(found, Item):
            self.num_good += 1
            self.max_choices = max(self.max_choices, len(found.choices or ()))
            if len(found.names) == 1:
                self._kept.add(found.names[0])
            return
        self.num_bad += 1
        if len(self.shown) < NUM_BAD_ROWS_SHOWN:
            self.shown.append(f"{self._shape.place(row)}: {found.reason}")
        if isinstance(row.label, Unreadable) or self._classes is None:
            return
        gold = self._classes.positions(row.label)
        if isinstance(gold, str):
            self.num_bad_labels += 1
            if len(self._lost) < NUM_LOST_LABELS:
                self._lost[f"label {printable(row.label)[:60]!r}"] += 1
        else:
            self._lost.update(self._classes.names[position] for position in gold[:1])

    def remarks(self) -> Iterator[str]:
        """What leaving out the bad rows did to the classes."""
        if self.vanished:
            each = ", ".join(f"{name} ({n:,} rows)" for name, n in list(self.vanished.items())[:NUM_BAD_ROWS_SHOWN])
            more = len(self.vanished) - NUM_BAD_ROWS_SHOWN
            yield f"by leaving out bad rows nothing is left of {each}{f' and {more} more' if more > 0 else ''}"


def _refuse(dataset: "Dataset | Tasks", tally: _Tally, on_bad_row: str) -> None:
    where = with_split(dataset.name, dataset.split)
    if tally.num_rows == 0:
        if isinstance(dataset, Dataset) and dataset.where:
            asked = " and ".join(f"{column.name} = {', '.join(map(str, kept))}" for column, kept in dataset.where)
            held = "; ".join(f"{c.name} holds {shorten(dataset.values_of(c)) or 'nothing'}" for c, _ in dataset.where)
            raise InputError(f"{where}: where {asked} keeps no row; {held}")
        raise InputError(f"{where}: no rows; choose another split or slice")
    if tally.num_bad and on_bad_row == "fail":
        more = f"; and {tally.num_bad - len(tally.shown)} more" if tally.num_bad > len(tally.shown) else ""
        raise InputError(
            f"{where}: {tally.num_bad} of {tally.num_rows} rows cannot be used: {'; '.join(tally.shown)}{more}; "
            f"{_advice(tally) if isinstance(dataset, Dataset) else ADVICE_ON_TASKS}"
        )
    if tally.num_good == 0:
        raise InputError(
            f"{where}: all {tally.num_rows} rows were rejected ({tally.shown[0]}); check --text-column, "
            "the columns of the prompts, and --label-column"
        )


def _advice(tally: _Tally) -> str:
    """To leave rows out is no advice where a class would go with them."""
    if tally.num_bad_labels:
        return "mend them, or give their labels a class with label_names and prompts for it"
    if tally.vanished:
        return f"mend them: without them nothing is left of {next(iter(tally.vanished))}"
    return "mend them, or leave them out with --on-bad-row skip"
