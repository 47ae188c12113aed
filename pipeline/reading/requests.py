"""Requests: files in which another tool has written each context and continuation out, and wants them scored.

Either a row for each (item, choice, context, continuation, gold), the rows of an item standing together, or what
lm-evaluation-harness logs with --log_samples: a row for each document, its requests in `arguments`.

Invariant: what comes out are parts like those of any data set, one row for each item: lists of contexts and of
continuations in the order of the choices, and its gold label where one can be told.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.errors import InputError
from pipeline.reading.formats import Part, Unreadable, Values, batched
from pipeline.reading.labels import label_values, printable
from pipeline.reading.readers import read_batches

COLUMNS = ("context", "continuation", "gold")
ROWS = ("item", "choice", "context", "continuation", "gold")
MUTUAL = "acc_mutual_info"  # its tasks ask for each continuation once more without a context
FILTER = "filter"  # a task with several of them logs each document as often
DOCUMENT, TASK = "doc", "task"
SAMPLES = ("arguments", "target")
LOGGED = (*SAMPLES, MUTUAL, FILTER, DOCUMENT)
_LOG = re.compile(r"samples_(.+?)(_\d{4}-\d\d-\d\dT.*)?\.jsonl")  # of a task

Item = tuple[list[str], list[str], object]
Record = dict[str, Any] | Unreadable
GoldOf: TypeAlias = Callable[[str, Mapping[str, Any]], int | None]
"""The place of the right context, of a task and one of its documents."""


def holds_requests(columns: Collection[str]) -> bool:
    """Whether these are the columns of a file of requests."""
    return set(SAMPLES) <= set(columns) or {"context", "continuation"} <= set(columns)


def as_items(parts: Sequence[Part], place: str, gold_of: GoldOf | None = None) -> Part:
    """One part with a row for each item of all of them. Raises InputError where one of them holds no requests.

    `gold_of` is asked where a log does not say which of an item's contexts is right.
    """
    is_log = set(SAMPLES) <= set(parts[0].columns)
    needed, known = (SAMPLES, LOGGED) if is_log else (("item", "context", "continuation"), ROWS)
    for part in parts:
        if missing := [name for name in needed if name not in part.columns]:
            raise InputError(
                f"{part.file or place}: holds no requests: no column '{missing[0]}'; it has "
                f"{', '.join(part.columns[:20])}; write rows of {', '.join(ROWS)}, or give the harness' samples_*.jsonl"
            )

    def read(columns: Sequence[str]) -> Iterator[list[Values]]:
        records = chain.from_iterable(
            _records(part, [name for name in known if name in part.columns]) for part in parts
        )
        places = [COLUMNS.index(column) for column in columns]
        for batch in batched(_of_samples(records, gold_of) if is_log else _of_rows(place, records)):
            yield [item if isinstance(item, Unreadable) else tuple(item[at] for at in places) for item in batch]

    return Part(None, COLUMNS, read)


def _records(part: Part, names: Sequence[str]) -> Iterator[Record]:
    rows = chain.from_iterable(read_batches(part, names))
    task = _task_of(part.file)
    return (row if isinstance(row, Unreadable) else {**dict(zip(names, row, strict=True)), TASK: task} for row in rows)


def _task_of(file: Path | None) -> str | None:
    """The task that a log is of, by its name."""
    match = _LOG.fullmatch(file.name) if file else None
    return match[1] if match else None


# A row for each document, as the harness logs it


def _of_samples(records: Iterable[Record], gold_of: GoldOf | None) -> Iterator[Item | Unreadable]:
    first = None  # the filter of the first record
    for record in records:
        if isinstance(record, Unreadable):
            yield record
            continue
        first = first or str(record.get(FILTER))
        if str(record.get(FILTER)) == first:
            yield _sample(record, gold_of)


def _sample(record: dict[str, Any], gold_of: GoldOf | None) -> Item | Unreadable:
    arguments = record["arguments"]
    given = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not isinstance(given, list):
        return Unreadable("its arguments are no list of requests", printable(arguments))
    pairs = [list(each.values()) if isinstance(each, dict) else each for each in given]
    if record.get(MUTUAL) is not None:
        pairs = pairs[: len(pairs) // 2]
    if not all(isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in pairs):
        what = "its arguments are no pairs of context and continuation, as tasks that generate have none"
        return Unreadable(what, printable(arguments))
    contexts, continuations = [context for context, _ in pairs], [continuation for _, continuation in pairs]
    gold = _item(contexts, continuations, record["target"])[2]
    task, document = record[TASK], record.get(DOCUMENT)
    if gold is None and gold_of and task and isinstance(document, dict) and len(set(contexts)) > 1:
        place = gold_of(task, document)
        gold = place if place is not None and 0 <= place < len(contexts) else None
    return contexts, continuations, gold


def _item(contexts: list[str], continuations: list[str], gold: object) -> Item:
    """Where only contexts differ, a gold label that is a text is the continuation of all choices and says nothing."""
    is_place = all(isinstance(value, int) for value in label_values(gold))
    is_text = str(gold).strip() == continuations[0].strip() or not is_place
    return contexts, continuations, None if is_text and len(set(continuations)) == 1 else gold


# A row for each choice


def _of_rows(place: str, records: Iterable[Record]) -> Iterator[Item | Unreadable]:
    """Item by item. A row that cannot be read may be of the item before it or behind it: neither is whole."""
    seen: set[int] = set()
    for item, rows in groupby(_with_items(records), lambda pair: pair[0]):
        group = [row for _, row in rows]
        broken = next((row for row in group if isinstance(row, Unreadable)), None)
        yield broken or _finished(place, item, [row for row in group if isinstance(row, dict)], seen)


def _with_items(records: Iterable[Record]) -> Iterator[tuple[object, Record]]:
    """Each row with its item; one that cannot be read goes with the item before it, and with the one behind it."""
    item: object = object()
    broken: Unreadable | None = None
    for record in records:
        if isinstance(record, Unreadable):
            broken = record
            yield item, record
            continue
        if record["item"] is None or record["item"] != item:
            item = object() if record["item"] is None else record["item"]
            if broken:
                yield item, broken
        broken = None
        yield item, record


def _finished(place: str, item: object, group: list[dict[str, Any]], seen: set[int]) -> Item | Unreadable:
    """Raises InputError where the item was there before."""
    if group[0]["item"] is None:
        return Unreadable("a row of requests has no item; number the items", printable(group[0]))
    if hash(str(item)) in seen:
        raise InputError(f"{place}: the rows of item {item} do not stand together; sort them by item and choice")
    seen.add(hash(str(item)))
    return _choices(str(item), group)


def _choices(item: str, rows: list[dict[str, Any]]) -> Item | Unreadable:
    numbers = [label_values(row["choice"]) for row in rows if "choice" in row]
    if numbers and numbers != [(number,) for number in range(len(rows))]:
        return Unreadable(f"the choices of item {item} are not numbered 0, 1, 2, ... in this order", printable(numbers))
    golds = {printable(row.get("gold")): row.get("gold") for row in rows}
    if len(golds) > 1:
        return Unreadable(f"the rows of item {item} do not agree on its gold label ({', '.join(golds)})", "")
    for name in ("context", "continuation"):
        if not all(isinstance(row[name], str) for row in rows):
            return Unreadable(f"a {name} of item {item} is not a string", printable([row[name] for row in rows]))
    return _item([row["context"] for row in rows], [row["continuation"] for row in rows], next(iter(golds.values())))
