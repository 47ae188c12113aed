"""A run's tables: exactly its items, prompts and model, made from the store.

Invariant: a table holds each item, prompt and label once, or is not there. Memory does not grow with the number of
items: rows meet their items in scratch files, and a chunk of items is written at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import Fingerprint, StoredPrompt
from pipeline.storing.layout import ITEMS, NORMS, PRIORS, PRIORS_SCHEMA, REJECTED, SCORES, SCORES_SCHEMA, norm_sizes
from pipeline.storing.parts import NUMBERS
from pipeline.storing.spill import Array, Spill, rebatch
from pipeline.storing.store import Store
from pipeline.storing.tables import read_batches, write_table

ROWS_IN_GROUP = 1 << 16
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

    Raises RunError when a wanted text has no scores (no table is written then) or a file cannot be written.
    """
    ordered = sorted(store.prompts, key=lambda stored: stored.prompt.name)
    num_items = pq.read_metadata(items).num_rows
    chunk = max(1, ROWS_IN_GROUP // sum(len(stored.prompt.labels) for stored in ordered))
    with ExitStack() as scratch:
        spills = {
            fingerprint: scratch.enter_context(_collect(store, fingerprint, items, prior_texts, num_items, chunk))
            for fingerprint in dict.fromkeys(stored.fingerprint for stored in ordered)
        }
        columns = [_Columns(stored, spills[stored.fingerprint]) for stored in ordered]
        priors = _priors(columns, prior_texts, num_items)
        with folder.writing(SCORES) as path:
            write_table(path, SCORES_SCHEMA, _score_tables(columns, store, items, chunk, notebook=notebook))
    with folder.writing(PRIORS) as path:
        write_table(path, PRIORS_SCHEMA, [priors])
    folder.copy(ITEMS, items)
    if rejected:
        folder.copy(REJECTED, rejected)


def _collect(
    store: Store, fingerprint: Fingerprint, items: Path, extra: Sequence[str], num_items: int, chunk: int
) -> Spill:
    """The stored rows by chunk of items, from 1 on; those of the extra texts are in bucket EXTRA."""
    dtype = [("position", "<i8"), ("rows", NUMBERS, (len(fingerprint.label_words),))]
    spill = Spill(store.out.work, dtype, num_items // chunk + 2)
    with store.out.explain_errors("write scratch files in"):
        for positions, rows in store.scores(items, fingerprint, extra):
            buckets = np.where(positions < num_items, positions // chunk + 1, EXTRA)
            spill.add(buckets, position=positions, rows=rows)
        spill.flush()
    return spill


class _Columns:
    """The columns of one prompt's labels, in the order of their ids."""

    def __init__(self, stored: StoredPrompt, spill: Spill) -> None:
        self.prompt = stored.prompt
        self.labels = sorted(self.prompt.labels, key=lambda label: label.id)
        self._order = [stored.fingerprint.label_words.index(label.words) for label in self.labels]
        self._spill = spill

    def rows(self, bucket: int, start: int, num_texts: int) -> Array:
        """Records for the texts at positions start ...  # (texts, labels). Raises RunError where one is missing."""
        records = self._spill.read(bucket)
        if len(records) != num_texts:
            raise RunError(
                f"prompt '{self.prompt.name}': {num_texts - len(records)} texts have no scores; run again to score them"
            )
        rows = np.empty((num_texts, len(self._order)), NUMBERS)
        rows[records["position"] - start] = records["rows"][:, self._order]
        return rows


def _score_tables(
    columns: list[_Columns], store: Store, items: Path, chunk: int, *, notebook: bool
) -> Iterator[pa.Table]:
    last_id, start = -1, 0
    batches = read_batches(items, ["item_id", "text_hash", "gold_id"], chunk)
    for number, batch in enumerate(rebatch(batches, chunk), start=1):
        ids = batch["item_id"].to_numpy()
        if ids[0] <= last_id or (np.diff(ids) <= 0).any():
            raise RunError(f"{items}: item_id does not rise from row to row; run again")
        last_id = ids[-1]
        rows = np.concatenate([c.rows(number, start, len(ids)) for c in columns], axis=1)  # (items, prompts x labels)
        start += len(ids)
        yield _score_table(columns, store, batch, rows, notebook=notebook)


def _score_table(columns: list[_Columns], store: Store, batch: pa.Table, rows: Array, *, notebook: bool) -> pa.Table:
    labels = [(c.prompt.name, label) for c in columns for label in c.labels]
    norms = np.array([norm_sizes(label.words) for _, label in labels], np.int32).T  # (norms, labels)
    num_items, num_labels = rows.shape
    flat = rows.reshape(-1)
    found = flat["notebook_logit"]
    item = np.repeat(np.arange(num_items), num_labels)
    return pa.table(
        {
            "item_id": batch["item_id"].take(item),
            "text_hash": batch["text_hash"].cast(pa.string()).take(item),
            "prompt": _tiled([name for name, _ in labels], num_items),
            "model": _tiled([store.model] * num_labels, num_items),
            "revision": _tiled([store.revision] * num_labels, num_items),
            "label_id": np.tile(np.array([label.id for _, label in labels], np.int16), num_items),
            "label": _tiled([label.name for _, label in labels], num_items),
            "label_words": _tiled([label.words for _, label in labels], num_items),
            "gold_id": batch["gold_id"].take(item),
            **{name: flat[name] for name in ("num_tokens", "num_bytes")},
            **{name: np.tile(sizes, num_items) for name, sizes in zip(NORMS, norms, strict=True)},
            **{name: flat[name] for name in ("logprob", "logit")},
            "notebook_logit": pa.array(found, mask=np.isnan(found) | (not notebook)),
            **{name: flat[name] for name in ("prompt_tokens", "truncated")},
        }
    ).cast(SCORES_SCHEMA)


def _tiled(values: list[str], times: int) -> pa.Array:
    return pa.array(values, pa.string()).take(np.tile(np.arange(len(values)), times))


def _priors(columns: list[_Columns], texts: Sequence[str], num_items: int) -> pa.Table:
    cells = [(column.prompt.name, text, label) for column in columns for text in texts for label in column.labels]
    rows = np.concatenate([column.rows(EXTRA, num_items, len(texts)).reshape(-1) for column in columns])
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
