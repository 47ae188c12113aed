"""What an item of a run is: the columns that its prompts use, its own choices where it brings them, its gold label.

Invariant: an item that was made holds texts of valid Unicode under all of these columns; its hash under a prompt is
that of what the prompt makes it from, so that an item whose columns change is another one.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.prompts import Prompt, Values, hash_column, hash_columns, hash_text
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.columns import as_choices, as_text, check_text
from pipeline.reading.dataset import Row
from pipeline.reading.formats import Unreadable
from pipeline.reading.gold import Classes
from pipeline.reading.labels import printable
from pipeline.storing import dictionary
from pipeline.storing.dictionary import described, with_metadata
from pipeline.storing.layout import DOCUMENTS, ITEM_CHOICES, ITEMS_SCHEMA, TASK
from pipeline.templates import TEXT
from pipeline.wording import MAX_SIZE


@dataclass(frozen=True, slots=True)
class Item:
    """A sound row. gold: ids of its right classes, or places of its right choices; names: what these are called.

    choices: of its own, where it brings them, as they are called. task: that of lm-evaluation-harness it belongs to.
    """

    item_id: int
    values: Values
    gold: tuple[int, ...]
    names: tuple[str, ...]
    choices: list[str] | None = None
    task: str | None = None


class ItemShape:
    """The columns of a run's items, and how they are read from rows and kept in items.parquet."""

    def __init__(self, prompts: Sequence[Prompt], *, has_tasks: bool = False) -> None:
        """`has_tasks`: rows are requests with what their task calls the choices, and its name, behind the columns.

        Raises InputError where prompts choose among different things, or a column bears a name that is taken."""
        self._prompts, self._has_tasks = prompts, has_tasks
        self.columns = columns_of(prompts)
        self.has_choices = prompts[0].has_choices
        self._is_plain = all(prompt.is_plain for prompt in prompts)
        self._has_plain = any(prompt.is_plain for prompt in prompts)
        self._hashed = [prompt.columns for prompt in prompts if not prompt.is_plain]
        self._lists = {prompt.choices for prompt in prompts if isinstance(prompt.choices, str)}
        self._contexts = {prompt.columns[0] for prompt in prompts if prompt.is_requests}  # lists, too
        self._marked = [slot for prompt in prompts for slot in prompt.all_slots if slot.calls]
        for a, b in pairwise(prompts):
            if a.choices != b.choices:
                raise InputError(
                    f"prompts '{a.name}' and '{b.name}' choose among different things ({_source(a)}, and "
                    f"{_source(b)}); run them apart, each with an --out of its own"
                )
        taken = set(ITEMS_SCHEMA.names) - {TEXT} | {ITEM_CHOICES} | {hash_column(prompt.name) for prompt in prompts}
        for column in self.columns:
            if column in taken:
                raise InputError(
                    f"a template has {{{column}}}, and items.parquet has a column of that name of its own; rename "
                    "it in the data"
                )

    @property
    def choice_columns(self) -> tuple[str, ...]:
        return self._prompts[0].choice_columns

    @property
    def is_requests(self) -> bool:
        """Whether items are written out already."""
        return self._prompts[0].is_requests

    @property
    def schema(self) -> pa.Schema:
        """Of items.parquet."""
        if self._is_plain:
            return ITEMS_SCHEMA
        lists = pa.list_(pa.string())
        texts, several = (pa.string(), dictionary.SLOT), (lists, dictionary.CHOICES)
        in_lists = self._lists | self._contexts
        fields = [ITEMS_SCHEMA.field("item_id")]
        fields += [described(column, *(several if column in in_lists else texts)) for column in self.columns]
        fields += [ITEMS_SCHEMA.field(name) for name in ("gold_id", "gold", "text_hash", "gold_ids")]
        fields += [described(ITEM_CHOICES, lists, dictionary.ITEM_CHOICES)] if self.has_choices else []
        fields += [described(TASK, pa.string(), dictionary.TASK, nullable=False)] if self._has_tasks else []
        hashes = [prompt.hash_column for prompt in self._prompts if not prompt.is_plain]
        fields += [described(column, pa.string(), dictionary.HASH) for column in hashes]
        return with_metadata(fields, "item_id")

    def record(self, item: Item) -> tuple[Any, ...]:
        """An item as a row of items.parquet."""
        one = len(item.gold) == 1
        gold = (item.gold[0] if one else None, item.names[0] if one else None)
        several = list(item.gold) if len(item.gold) > 1 else None
        text = item.values.get(TEXT)
        text_hash = None if text is None else hash_text(str(text))
        values = tuple(item.values[column] for column in self.columns)
        if self._is_plain:
            return (item.item_id, *values, *gold, text_hash, several)
        own = ([item.choices] if self.has_choices else []) + ([item.task] if self._has_tasks else [])
        hashes = [hash_columns(columns, item.values) for columns in self._hashed]
        return (item.item_id, *values, *gold, text_hash, several, *own, *hashes)

    def read(self, row: Row, golds: Classes | ChoiceGold) -> Item | Unreadable:
        """The item that a sound row is; else what is wrong with it."""
        if isinstance(row.values, Unreadable):
            return Unreadable(row.values.reason, printable(row.values.raw))
        values = self.values(row.values)
        if isinstance(values, Unreadable):
            return values
        if not self.has_choices:
            assert isinstance(golds, Classes)
            places = golds.positions(row.label)
            if isinstance(places, str):
                return Unreadable(places, self.shown(values))
            ids, names = tuple(golds.ids[place] for place in places), tuple(golds.names[place] for place in places)
            return Item(row.position, values, ids, names)
        assert isinstance(golds, ChoiceGold)
        choices = self._prompts[0].item_choices(values)
        if too_long := self._too_long(values):
            return Unreadable(too_long, self.shown(values))
        behind = row.values[len(self.columns) :]
        if self._has_tasks:
            choices, task = cast(tuple[list[str], str], behind)
        else:
            task = None
        own = values.get(golds.column or "") or next(iter(behind), None)
        places = golds.places(row.label, choices, own)
        if isinstance(places, str):
            return Unreadable(places, self.shown(values))
        return Item(row.position, values, places, tuple(choices[place] for place in places), choices, task)

    def values(self, found: Sequence[object] | Unreadable) -> dict[str, str | list[str]] | Unreadable:
        """The columns as texts and lists of texts; else what is wrong with one of them."""
        if isinstance(found, Unreadable):
            return found
        values: dict[str, str | list[str]] = {}
        choice_columns = self.choice_columns
        for column, value in zip(self.columns, found, strict=False):
            read: str | list[str] | Unreadable
            if column in self._lists and not self._has_tasks:
                read = _as_list(column, value)
            elif column in self._contexts or self._has_tasks:  # what a task has written may be blank
                read = _as_texts(column, value if isinstance(value, list) else [value])
            elif column == TEXT and self._has_plain:
                read = check_text(value)
            else:
                read = as_text(f"'{column}'", value)
            if isinstance(read, Unreadable):
                return read
            values[column] = read
        if len(choice_columns) > 1:
            listed = as_choices(", ".join(choice_columns), [values[column] for column in choice_columns])
            if isinstance(listed, Unreadable):
                return listed
        elif not choice_columns and not any(str(value).strip() for value in values.values()):
            return Unreadable(f"{_listed(self.columns)} are empty", "")
        return self._lacks_mark(values) or values

    def _too_long(self, values: Values) -> str | None:
        """What of an item's choices the score table cannot keep."""
        sizes = (len(value) if isinstance(value, str) else sum(map(len, value)) for value in values.values())
        if sum(sizes) * 4 <= MAX_SIZE:  # in whatever letters
            return None
        for prompt in self._prompts:
            for place, words in enumerate(prompt.write(values).continuations):
                if len(words.encode()) > MAX_SIZE:
                    return f"choice {place} has {len(words.encode()):,} bytes, at most {MAX_SIZE:,} can be kept"
        return None

    def _lacks_mark(self, values: Values) -> Unreadable | None:
        """What a slot with .before or .after looks for and a column does not have."""
        for slot in self._marked:
            text = values[slot.column]
            if isinstance(text, str) and (mark := slot.lacks(text)):
                return Unreadable(f"'{slot.column}' has no {mark!r} in it", text)
        return None

    def place(self, row: Row) -> str:
        """Where a row stands, for a message."""
        if self._has_tasks and not isinstance(row.values, Unreadable):
            return f"document {row.position % DOCUMENTS} of task '{row.values[-1]}'"
        return f"row {row.position}"

    def labelled(self, rows: Iterable[Row]) -> Iterator[tuple[object, list[str]]]:
        """Label and own choices of the rows that are sound; rows hold the columns of the choices alone."""
        what = ", ".join(self.choice_columns)
        for row in rows:
            if isinstance(row.values, Unreadable):
                continue
            found = row.values[0] if self._lists else list(row.values)
            choices = as_choices(what, found) if isinstance(found, list) else None
            if isinstance(choices, list):
                yield row.label, choices

    def shown(self, values: Values) -> str:
        """An item as one text, for a message or a table of what was rejected."""
        if self._is_plain:
            return str(values[TEXT])
        return json.dumps(dict(values), ensure_ascii=False)


def _as_texts(column: str, values: Sequence[object]) -> list[str] | Unreadable:
    """Texts that may be empty."""
    read = [as_text(f"'{column}' {place}", value) for place, value in enumerate(values)]
    return next((text for text in read if isinstance(text, Unreadable)), [str(text) for text in read])


def columns_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The columns that prompts use, each once."""
    return tuple(dict.fromkeys(column for prompt in prompts for column in prompt.columns))


def _as_list(column: str, value: object) -> list[str] | Unreadable:
    if value is None:
        return Unreadable(f"'{column}' is null", "")
    if not isinstance(value, list):
        text = as_text(f"'{column}'", value)
        raw = text.raw if isinstance(text, Unreadable) else text
        return Unreadable(f"'{column}' is no list of choices{_instead(column, value)}", raw)
    return as_choices(f"'{column}'", value)


def _instead(column: str, value: object) -> str:
    """What a column holds instead of a list, where that says what to write."""
    if isinstance(value, dict):
        lists = [str(key) for key, each in value.items() if isinstance(each, list)]
        named = f'; choices = "{column}.{lists[0]}" names one in it' if lists else ""
        return f" but a record of {', '.join(map(str, value))}{named}"
    if isinstance(value, str):
        return " but a text; name a column for each choice, or write lists into a .jsonl or .parquet file"
    return ""


def _source(prompt: Prompt) -> str:
    return _listed(prompt.choice_columns) if prompt.has_choices else "its labels"


def _listed(columns: Sequence[str]) -> str:
    return " and ".join(map(repr, columns))
