"""The items of a page as data for its script: as many as there is room for, each text and name once, compressed.

Invariant: what is left out is said, in words that stand beside the table; the same items give the same bytes.
"""

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.reporting.document import Items
from pipeline.reporting.formats import excerpt, visible

MAX_TEXT = 1_000  # characters of a text shown; all of it is in items.parquet
MAX_NAME = 300  # characters of a label or a choice
MAX_OPTIONS = 100  # names to choose from in a field; of more there is none
FEW = 50  # items that are shown however little room there is
SPARE = 0.97  # of the room aimed at when items are left out, because they differ in size

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ItemData:
    """`packed`: JSON, deflated, in base64. `sentence` says which items these are, the rest what they may be chosen by.

    `disagree`: whether some are predicted alike and some are not. `has_gold`: whether right or wrong is known of any.
    """

    packed: str
    sentence: str
    golds: Sequence[str]
    predicted: Sequence[str]
    groups: Sequence[str]
    disagree: bool
    has_gold: bool
    has_margins: bool


def fit_items(items: Items, room: int) -> ItemData:
    """As many of the items as fit into `room` bytes, with the scores of all, or else of the first ones alone."""
    rows = items.rows.to_dicts()
    has_scores = any(scores for row in rows for scores in row["scores"])
    packed = pack(items, rows)
    if has_scores and len(packed) > room:
        bare = [_without_scores(row) if i >= items.num_first else row for i, row in enumerate(rows)]
        if len(fewer := pack(items, bare)) <= room:
            whose = f"only of the {items.first_are}" if items.num_first else "of none"
            return _finish(items, bare, fewer, f" Label scores are here {whose}.")
    while len(packed) > room and len(rows) > FEW:
        rows = rows[: max(FEW, int(len(rows) * SPARE * room / len(packed)))]
        packed = pack(items, rows)
    return _finish(items, rows, packed, "")


def _finish(items: Items, rows: Sequence[Row], packed: str, more: str) -> ItemData:
    predicted = [name for row in rows for name in row["predicted"]]
    differ = [len(set(row["predicted"])) > 1 for row in rows]
    return ItemData(
        packed,
        _which(items, len(rows)) + more + _cut_texts(rows),
        _options(name for row in rows for name in row["gold"] or ()),
        _options(predicted),
        _options((row["group"] for row in rows), len(rows)),
        any(differ) and not all(differ),
        any(right is not None for row in rows for right in row["correct"]),
        any(margin is not None for row in rows for margin in row["margin"]),
    )


def _which(items: Items, num_rows: int) -> str:
    """Which of the run's items are in a page."""
    if num_rows == items.num_total:
        return f"All {num_rows:,} rows are here." if num_rows > 1 else "There is one."
    which = "a random sample"
    if num_rows <= items.num_first:
        which = f"some of the {items.first_are}"
    elif items.num_first:
        which = f"the {items.num_first:,} {items.first_are} and a random sample of the others"
    return f"{num_rows:,} of {items.num_total:,} rows are here, as many as there is room for: {which}."


def _cut_texts(rows: Sequence[Row]) -> str:
    is_cut = any(len(row["text"] or "") > MAX_TEXT for row in rows)
    return f" Texts of more than {MAX_TEXT:,} characters are cut." if is_cut else ""


def _options(names: Iterable[str | None], most: int = MAX_OPTIONS) -> Sequence[str]:
    """The different names in alphabetical order; nothing where there is no choice, or too much of it."""
    found = sorted({_shown(name) for name in set(names) if name is not None})
    return found if 1 < len(found) <= most else ()


def _without_scores(row: Row) -> Row:
    return {**row, "labels": [None] * len(row["labels"]), "scores": [None] * len(row["scores"])}


def pack(items: Items, rows: Sequence[Row]) -> str:
    """`item_columns` as JSON, deflated, in base64."""
    written = json.dumps(item_columns(items, rows), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(zlib.compress(written.encode(), 9)).decode()


def item_columns(items: Items, rows: Sequence[Row]) -> dict[str, Any]:
    """A list for each column, in which a name is its place in `vocabulary` and a list of labels its place in `labels`.

    Shares are in tenths of per cent and margins and scores in hundredths, all whole numbers.
    """
    vocabulary, labels = Numbered[str](), Numbered[tuple[int | None, ...]]()

    known: dict[str | None, int | None] = {None: None}

    def name(words: str | None) -> int | None:
        if words is not None and words not in known:
            known[words] = vocabulary.number(_shown(words))
        return known[words]

    def names(several: Sequence[str] | None) -> int | None:
        return None if several is None else labels.number(tuple(map(name, several)))

    columns = {
        "ids": [row["item_id"] for row in rows],
        "texts": [visible(excerpt(row["text"] or "", MAX_TEXT, items.shows_end)) for row in rows],
        "groups": [name(row["group"]) for row in rows],
        "golds": [None if row["gold"] is None else [name(right) for right in row["gold"]] for row in rows],
        "predicted": [[name(label) for label in row["predicted"]] for row in rows],
        "correct": [[None if right is None else int(right) for right in row["correct"]] for row in rows],
        "confidence": [[_whole(share, 1_000) for share in row["confidence"]] for row in rows],
        "margins": [[_whole(margin, 100) for margin in row["margin"]] for row in rows],
        "scored": [[names(several) for several in row["labels"]] for row in rows],
        "scores": [[[_whole(score, 100) for score in scores or ()] for scores in row["scores"]] for row in rows],
    }
    told = [visible(words) for words in items.names]
    return {"names": told, "kind": items.kind, "vocabulary": list(vocabulary), "labels": list(labels), **columns}


class Numbered(dict[T, int]):
    """Values in the order in which they first came, each with its number."""

    def number(self, value: T) -> int:
        """The number of a value, which is new or was there before."""
        return self.setdefault(value, len(self))


def _shown(name: str) -> str:
    """A name as the page has it; an empty choice as `""`, because a field with nothing in it chooses nothing."""
    return visible(excerpt(name, MAX_NAME)) or '""'


def _whole(value: float | None, times: int) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value * times)
