"""A run's tables: exactly its items, prompts and model, made from the store.

Invariant: a table holds each item, prompt and label (or choice of the item) once, or is not there. Memory does not grow
with the number of items: rows meet their items in scratch files, and a chunk of items is written at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.prompts import Prompt
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt
from pipeline.storing.layout import (
    ITEM_CHOICES,
    ITEMS,
    NORMS,
    PRIORS,
    PRIORS_SCHEMA,
    REJECTED,
    SCORES_FOLDER,
    SCORES_SCHEMA,
    TASK,
    norm_sizes,
    nth_scores,
    score_files,
)
from pipeline.storing.parts import NUMBERS
from pipeline.storing.spill import Array, Spill, cut
from pipeline.storing.store import Store, num_choices, places_of
from pipeline.storing.tables import read_batches, write_table, write_until

ROWS_IN_GROUP = 1 << 16
BYTES_IN_FILE = 4 << 30  # of a score table: an object store takes 5 GB at once; a group more may be in it
EXTRA = 0  # the bucket of texts that are no items


def write_tables(
    folder: Output,
    store: Store,
    items: Path,
    prior_texts: Sequence[str],
    *,
    notebook: bool,
    rejected: Path | None = None,
) -> None:
    """Write scores, priors, items and rejected into the folder of a run, for the prompts of the store.

    Where items have a task (column `task`) the prompt of a row is that of its item, and its score is normalised by the
    task's own choice, without the blank that joins it and whatever varies.

    Raises RunError when a wanted text has no scores (no table is written then) or a file cannot be written.
    """
    ordered = sorted(store.prompts, key=lambda stored: stored.prompt.name)
    chunks = _Chunks(items, ordered)
    with ExitStack() as scratch:
        distinct = {stored.fingerprint: stored for stored in ordered}
        spills = {
            fingerprint: scratch.enter_context(_collect(store, stored, items, prior_texts, chunks))
            for fingerprint, stored in distinct.items()
        }
        columns = [_Columns(stored, spills[stored.fingerprint], chunks) for stored in ordered]
        priors = _priors([column for column in columns if not column.prompt.has_choices], prior_texts)
        _write_scores(folder, _score_tables(columns, store, items, chunks, notebook=notebook))
    with folder.writing(PRIORS) as path:
        write_table(path, PRIORS_SCHEMA, [priors])
    folder.copy(ITEMS, items)
    if rejected:
        folder.copy(REJECTED, rejected)


def _write_scores(folder: Output, tables: Iterator[pa.Table]) -> None:
    """Write the score table, in several files where one would become too large; an item's rows are in one of them."""
    first, number = next(tables, None), 0
    while first is not None or not number:
        number += 1
        with folder.writing(nth_scores(number)) as path:
            write_until(path, SCORES_SCHEMA, chain([] if first is None else [first], tables), BYTES_IN_FILE)
        first = next(tables, None)
    written = set(map(nth_scores, range(1, number + 1)))
    folder.delete_all([name for name in score_files(folder.list(SCORES_FOLDER)) if name not in written])


class _Chunks:
    """Ranges of items with at most ROWS_IN_GROUP rows, numbered from 1; extra texts are in bucket EXTRA.

    has_tasks: whether each item is of a task. first: the first item of each chunk. positions: the first of
    `Store.scores`' positions of each chunk, which with choices of the items count these.
    """

    def __init__(self, items: Path, prompts: Sequence[StoredPrompt]) -> None:
        self.num_items = pq.read_metadata(items).num_rows
        # Requests have no column but their own two; under another prompt it is the data's.
        is_requests = all(stored.prompt.is_requests for stored in prompts)
        self.has_tasks = is_requests and TASK in pq.read_schema(items).names
        num_labels = sum(len(stored.prompt.labels) for stored in prompts)
        if num_labels:
            self.first = self.positions = np.arange(0, self.num_items, max(1, ROWS_IN_GROUP // num_labels))
        else:
            counts = (int(n) for batch in read_batches(items, [ITEM_CHOICES]) for n in num_choices(batch))
            self.first, self.positions = _cut(counts, ROWS_IN_GROUP // len(prompts))

    @property
    def sizes(self) -> list[int]:
        """How many items each chunk has."""
        return [int(size) for size in np.diff(self.first, append=self.num_items)]

    def buckets(self, positions: Array, *, has_choices: bool) -> Array:
        """The chunk of each position."""
        found = np.searchsorted(self.positions, positions, side="right")
        return found if has_choices else np.where(positions < self.num_items, found, EXTRA)


def _cut(counts: Iterable[int], most: int) -> tuple[Array, Array]:
    """The first item of each chunk with at most `most` choices (or one item), and how many choices lie before it."""
    first, before = [0], [0]
    total = 0
    for item, count in enumerate(counts):
        if total - before[-1] + count > most and item > first[-1]:
            first.append(item)
            before.append(total)
        total += count
    return np.array(first), np.array(before)


def _collect(store: Store, stored: StoredPrompt, items: Path, extra: Sequence[str], chunks: _Chunks) -> Spill:
    """The stored rows by chunk of items."""
    has_choices = stored.prompt.has_choices
    width = 1 if has_choices else len(stored.fingerprint.label_words)
    dtype = [("position", "<i8"), ("rows", NUMBERS, (width,))]
    spill = Spill(store.out.work, dtype, len(chunks.first) + 1)
    with store.out.explain_errors("write scratch files in"):
        for positions, rows in store.scores(items, stored, extra):
            spill.add(chunks.buckets(positions, has_choices=has_choices), position=positions, rows=rows)
        spill.flush()
    return spill


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one prompt for a chunk, item after item: `item` is a row of the chunk, the rest has an entry a row."""

    item: Array
    label_id: Array
    label: list[str]
    words: list[str]
    norms: Array  # (rows, norms)
    numbers: Array


class _Columns:
    """The columns of one prompt: of its labels in the order of their ids, or of the items' choices in theirs."""

    def __init__(self, stored: StoredPrompt, spill: Spill, chunks: _Chunks) -> None:
        self.prompt = stored.prompt
        self.labels = sorted(self.prompt.labels, key=lambda label: label.id)
        self._spill, self.chunks = spill, chunks
        if self.labels:
            self._order = [stored.fingerprint.label_words.index(label.words) for label in self.labels]

    def rows(self, number: int, batch: pa.Table) -> _Rows:
        """The rows of a chunk. Raises RunError where one is missing."""
        if self.prompt.has_choices:
            return self._rows_of_choices(number, batch)
        num_items, num_labels = batch.num_rows, len(self.labels)
        numbers = self.numbers(number, int(self.chunks.first[number - 1]), num_items)
        norms = np.array([norm_sizes(label.words) for label in self.labels], np.int32)
        return _Rows(
            np.repeat(np.arange(num_items), num_labels),
            np.tile(np.array([label.id for label in self.labels], np.int16), num_items),
            [label.name for label in self.labels] * num_items,
            [label.words for label in self.labels] * num_items,
            np.tile(norms, (num_items, 1)),
            numbers.reshape(-1),
        )

    def _rows_of_choices(self, number: int, batch: pa.Table) -> _Rows:
        counts, choices = num_choices(batch), _flat(batch, ITEM_CHOICES)
        if self.chunks.has_tasks:  # solved examples stand in the contexts: what is long is not read
            words = _flat(batch, self.prompt.choice_columns[0])
            sized = [choice or " " for choice in choices]  # nothing has no length to divide by
        else:
            written = [self.prompt.write(values) for values in batch.select(self.prompt.columns).to_pylist()]
            words = [words for each in written for words in each.continuations]
            sized = [text for each in written for text in each.sized]
        return _Rows(
            np.repeat(np.arange(len(counts)), counts),
            places_of(counts),
            choices,
            words,
            np.array([(len(text), len(text.encode())) for text in sized], np.int32),
            self._found(number, int(self.chunks.positions[number - 1]), int(counts.sum()))[:, 0],
        )

    def numbers(self, bucket: int, start: int, num_texts: int) -> Array:
        """Records for the texts at positions start ...  # (texts, labels). Raises RunError where one is missing."""
        return self._found(bucket, start, num_texts)[:, self._order]

    def _found(self, bucket: int, start: int, num: int) -> Array:
        """The records of a bucket in the order of their positions  # (num, stored labels)."""
        records = self._spill.read(bucket)
        if len(records) != num:
            what = "choices" if self.prompt.has_choices else "texts"
            raise RunError(
                f"prompt '{self.prompt.name}': {num - len(records)} {what} have no scores; run again to score them"
            )
        rows = np.empty(records["rows"].shape, NUMBERS)
        rows[records["position"] - start] = records["rows"]
        return rows


def _score_tables(
    columns: list[_Columns], store: Store, items: Path, chunks: _Chunks, *, notebook: bool
) -> Iterator[pa.Table]:
    last_id = -1
    wanted = _wanted([column.prompt for column in columns], has_tasks=chunks.has_tasks)
    for number, batch in enumerate(cut(read_batches(items, wanted), chunks.sizes), start=1):
        ids = batch["item_id"].to_numpy()
        if ids[0] <= last_id or (np.diff(ids) <= 0).any():
            raise RunError(f"{items}: item_id does not rise from row to row; run again")
        last_id = ids[-1]
        how = {"notebook": notebook, "has_tasks": chunks.has_tasks}
        tables = [_score_table(c.prompt, c.rows(number, batch), store, batch, **how) for c in columns]
        table = pa.concat_tables(tables)
        yield table.take(np.argsort(table["item_id"].to_numpy(), kind="stable")) if len(tables) > 1 else table


def _wanted(prompts: Sequence[Prompt], *, has_tasks: bool) -> list[str]:
    """The columns of items.parquet that the score table is made from."""
    names = ["item_id", "gold_id", *(prompt.hash_column for prompt in prompts)]
    if has_tasks:
        names += [TASK, ITEM_CHOICES, *prompts[0].choice_columns]
    elif prompts[0].has_choices:
        names += [ITEM_CHOICES, *(column for prompt in prompts for column in prompt.columns)]
    return list(dict.fromkeys(names))


def _flat(batch: pa.Table, column: str) -> list[str]:
    """The texts of a column of lists, one item after the other."""
    return [text for texts in batch[column].to_pylist() for text in texts]


def _score_table(
    prompt: Prompt, rows: _Rows, store: Store, batch: pa.Table, *, notebook: bool, has_tasks: bool
) -> pa.Table:
    num_rows, found = len(rows.item), rows.numbers["notebook_logit"]
    return pa.table(
        {
            "item_id": batch["item_id"].take(rows.item),
            "text_hash": batch[prompt.hash_column].cast(pa.string()).take(rows.item),
            "prompt": batch[TASK].take(rows.item) if has_tasks else pa.repeat(prompt.name, num_rows),
            "model": pa.repeat(store.model, num_rows),
            "revision": pa.repeat(store.revision, num_rows),
            "label_id": rows.label_id,
            "label": rows.label,
            "label_words": rows.words,
            "gold_id": batch["gold_id"].take(rows.item),
            **{name: rows.numbers[name] for name in ("num_tokens", "num_bytes")},
            **dict(zip(NORMS, rows.norms.T, strict=True)),
            **{name: rows.numbers[name] for name in ("logprob", "logit")},
            "notebook_logit": pa.array(found, mask=np.isnan(found) | (not notebook)),
            **{name: rows.numbers[name] for name in ("prompt_tokens", "truncated")},
        }
    ).cast(SCORES_SCHEMA)


def _priors(columns: list[_Columns], texts: Sequence[str]) -> pa.Table:
    """A row for each prompt with labels that all items share, text and label."""
    cells = [(column.prompt.name, text, label) for column in columns for text in texts for label in column.labels]
    found = [c.numbers(EXTRA, c.chunks.num_items, len(texts)).reshape(-1) for c in columns]
    rows = np.concatenate([np.empty(0, NUMBERS), *found])
    return pa.table(
        {
            "prompt": [name for name, _, _ in cells],
            "text": [text for _, text, _ in cells],
            "label_id": [label.id for _, _, label in cells],
            "label": [label.name for _, _, label in cells],
            "label_words": [label.words for _, _, label in cells],
            **{name: rows[name] for name in ("num_tokens", "num_bytes", "logprob", "logit")},
        }
    ).cast(PRIORS_SCHEMA)
