"""The incremental store: what has been scored under a fingerprint, and what of the wanted texts is still missing.

Invariant: a text counts as stored only where a verified part holds all its label words; whatever else lies in the store
is named, set aside (never deleted) and scored again. Memory: a few megabytes and one byte an item.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.prompts import Prompt, hash_item, same_text, shorten
from pipeline.storing.files import Finding, Output, is_gone
from pipeline.storing.fingerprint import Fingerprint, StoredPrompt
from pipeline.storing.layout import ITEM_CHOICES, PART, PLAN, SET_ASIDE
from pipeline.storing.parts import (
    NUMBERS,
    BadPart,
    Part,
    PartWriter,
    folder_of,
    keys_of_places,
    load_keys,
    load_scores,
    num_pending,
    read_stored,
)
from pipeline.storing.sealed import seal
from pipeline.storing.spill import KEY, Array, Spill, bucket_of, first_equal, keys_of, num_buckets, rebatch
from pipeline.storing.tables import ROWS_AT_ONCE, read_batches, write_table

BYTES_IN_GROUP = 64_000_000


@dataclass(frozen=True, slots=True)
class Pending:
    """A Parquet file of the `num_missing` of `num_wanted` distinct texts still to be scored: text_hash and columns."""

    path: Path
    num_missing: int
    num_wanted: int


class Store:
    """What an output holds of some prompts under a model, whose name and revision are for people.

    The caller holds the output's lock. One that `looks_only` leaves the output as it is.
    """

    def __init__(
        self, out: Output, prompts: Sequence[StoredPrompt], model: str, revision: str, *, looks_only: bool = False
    ) -> None:
        """Verify every part of the prompts' fingerprints. Raises RunError where a newer labelscore wrote one."""
        self._looks_only = looks_only
        self.out, self.prompts, self.model, self.revision = out, prompts, model, revision
        self.findings: list[Finding] = []
        self._parts: dict[str, Part] = {}
        self._plans: dict[str, dict[str, Any]] = {}  # by folder
        self._own_plans: set[str] = set()  # the folders whose plans end with this run
        self.refresh()
        self._generation = 1 + max((part.generation for part in self._parts.values()), default=0)

    def refresh(self) -> None:
        """Look for parts that were appended since, and verify them."""
        known, self._parts = self._parts, {}
        for fingerprint in dict.fromkeys(stored.fingerprint for stored in self.prompts):
            for name, size in self.out.list(folder_of(fingerprint.digest)).items():
                try:
                    part = known.get(name) or self._verified(name, size)
                except RunError as error:
                    if self.out.remote and is_gone(error):
                        continue
                    raise
                if isinstance(part, Part):
                    self._parts[name] = part
                elif part is not None:
                    self._plans[folder_of(fingerprint.digest)] = part

    def _verified(self, name: str, size: int) -> Part | dict[str, Any] | None:
        """What a file of the store is; None, and the file set aside, where it cannot be believed."""
        try:
            return read_stored(self.out, name, size)
        except BadPart as bad:
            again = ", its texts are scored again" if PART.fullmatch(name) else ""
            target = f"{SET_ASIDE}/{bad.reason}-{PurePosixPath(name).name}"
            moved = "to be moved" if self._looks_only else "moved"
            target = target if self._looks_only else self.out.move(name, target)
            self.findings.append(Finding(name, str(bad), f"{moved} to {target}{again}"))
            return None

    def narrow(self, prompts: Sequence[StoredPrompt]) -> None:
        """Look after these of its prompts alone from now on."""
        self.prompts = prompts
        self.refresh()

    def parts(self, fingerprint: Fingerprint) -> list[Part]:
        """The fingerprint's parts, the ones to be believed first first."""
        mine = [part for part in self._parts.values() if part.fingerprint == fingerprint]
        return sorted(mine, key=lambda part: (-part.generation, part.name))

    def writer(self, stored: StoredPrompt) -> PartWriter:
        """What appends parts for one of the prompts; their rows win over those stored when this store was opened."""
        return PartWriter(self.out, stored, self.model, self.revision, self._generation)

    def pending(
        self,
        items: Path,
        stored: StoredPrompt,
        *,
        notebook: bool = False,
        force: bool = False,
        extra_texts: Sequence[str] = (),
        max_chars: int | None = None,
    ) -> Pending:
        """The distinct texts of an items file (and `extra_texts`, after them) that have to be scored, staged in a file.

        Of each text no more than `max_chars` characters and its end are staged, the hash being that of all of it; all
        are where a slot reads a part of a text, as far as its mark.

        A text is missing when no part has it, or the part that is read for it has no `notebook_logit` though `notebook`
        asks for it; with `force` all are.
        """
        fingerprint = stored.fingerprint
        num_items = pq.read_metadata(items).num_rows
        extra = [] if stored.prompt.has_choices else list(extra_texts)
        missing = np.zeros(num_items + len(extra), bool)
        num_wanted = 0
        parts = [] if force else self.parts(fingerprint)
        payloads = ((load_keys(self.out, part), np.array(part.notebook)) for part in parts)
        wanted = _wanted_keys(items, stored.prompt, extra)
        num_keys = len(missing) + sum(part.num_texts for part in parts)
        for has_notebook, positions, first in _hash_join(self.out, wanted, payloads, np.dtype(bool), num_keys):
            num_wanted += len(np.unique(first))
            lacks = first >= len(has_notebook)
            if notebook:
                lacks |= ~np.append(has_notebook, np.ones(len(positions), bool))[first]
            missing[positions[lacks][np.unique(first[lacks], return_index=True)[1]]] = True
        path = self.out.work / f"pending-{fingerprint.digest[:16]}.parquet"
        with self.out.explain_errors("write scratch files in"):
            _stage(path, items, stored.prompt, missing, extra, max_chars)
        pending = Pending(path, int(missing.sum()), num_wanted)
        self._write_plan(stored, pending)
        return pending

    def _write_plan(self, stored: StoredPrompt, pending: Pending) -> None:
        """Leave for `status` and `prune` what this run set out to score.

        The plan of a run that wanted more texts and was cut short stays: it is unfinished whatever this run does.
        """
        if self._looks_only:
            return
        folder = folder_of(stored.fingerprint.digest)
        before = self._plans.get(folder)
        found = [(part.generation, part.num_texts) for part in self.parts(stored.fingerprint)]
        is_unfinished = before is not None and num_pending(before, found) > 0
        if before and is_unfinished and before["num_wanted"] > pending.num_wanted:
            return
        plan = {
            "model": self.model,
            "revision": self.revision,
            "prompt": stored.prompt.name,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "generation": self._generation,
            "num_missing": pending.num_missing,
            "num_wanted": pending.num_wanted,
        }
        if pending.num_missing or is_unfinished:
            self.out.write_bytes(f"{folder}/{PLAN}", seal(plan))
            self._plans[folder] = plan
        self._own_plans.add(folder)

    def end_plans(self) -> None:
        """The run is published: up to here `prune` keeps what it scored, as that of an unfinished run."""
        self.out.delete_all([f"{folder}/{PLAN}" for folder in self._own_plans & self._plans.keys()])
        self._plans = {folder: plan for folder, plan in self._plans.items() if folder not in self._own_plans}

    def scores(
        self, items: Path, stored: StoredPrompt, extra_texts: Sequence[str] = ()
    ) -> Iterator[tuple[Array, Array]]:
        """The stored rows of every item and extra text, in no particular order, as (positions, records).

        positions  # (n,) row in the items file; extra texts follow the last item
        records    # (n, labels) of NUMBERS, labels in the order of `fingerprint.label_words`
        With choices of the item there is a position for each choice of each item, one after the other, and no extra
        text. Positions whose text is not stored are left out.
        """
        fingerprint, has_choices = stored.fingerprint, stored.prompt.has_choices
        parts = self.parts(fingerprint)
        dtype = np.dtype((NUMBERS, (1 if has_choices else len(fingerprint.label_words),)))
        if has_choices:
            wanted = _wanted_places(items, stored.prompt)
        else:
            wanted = _wanted_keys(items, stored.prompt, extra_texts)
        num_keys = pq.read_metadata(items).num_rows + sum(part.num_texts for part in parts)
        if has_choices:
            num_keys = 2 * sum(part.num_rows for part in parts)  # about as many are wanted
        loaded = (load_scores(self.out, part) for part in parts)
        for rows, positions, first in _hash_join(self.out, wanted, loaded, dtype, num_keys):
            found = first < len(rows)
            yield positions[found], rows[first[found]]


def _wanted_keys(items: Path, prompt: Prompt, extra_texts: Sequence[str]) -> Iterator[Array]:
    batches = read_batches(items, [prompt.hash_column])
    yield from (keys_of(batch.column(0)) for batch in batches)
    if extra_texts:
        hashes = [hash_item(prompt, same_text(prompt, text)) for text in extra_texts]
        yield keys_of(pa.array(hashes, pa.string()))


def _wanted_places(items: Path, prompt: Prompt) -> Iterator[Array]:
    """A key for each choice of each item."""
    for batch in read_batches(items, [prompt.hash_column, ITEM_CHOICES]):
        counts = num_choices(batch)
        keys = np.repeat(keys_of(batch[prompt.hash_column]), counts, axis=0)
        yield keys_of_places(keys, places_of(counts))


def num_choices(batch: pa.RecordBatch | pa.Table) -> Array:
    """How many choices each item of a batch has  # (items,)."""
    return np.asarray(pc.list_value_length(batch[ITEM_CHOICES]))


def places_of(counts: Array) -> Array:
    """0, 1, ... for each of the items that have so many choices, one item after the other  # (choices,)."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))


def _hash_join(
    out: Output,
    wanted: Iterator[Array],
    stored: Iterator[tuple[Array, Array]],
    dtype: np.dtype[np.void] | np.dtype[np.bool],
    num_keys: int,
) -> Iterator[tuple[Array, Array, Array]]:
    """Join on equal keys, bucket by bucket: payloads of the stored keys, positions of the wanted keys, `first`.

    A stored payload is one for each key, or one for all of them.

    `first` tells for each wanted key where the first key equal to it is: below len(payloads) in the payloads, from
    there on among the wanted ones themselves. Stored keys that come first win.
    """
    buckets = num_buckets(num_keys)
    with (
        Spill(out.work, [KEY, ("payload", dtype)], buckets) as left,
        Spill(out.work, [KEY, ("position", "<i8")], buckets) as right,
    ):
        with out.explain_errors("write scratch files in"):
            for keys, payload in stored:
                left.add(bucket_of(keys, buckets), key=keys, payload=payload)
            left.flush()
            start = 0
            for keys in wanted:
                right.add(bucket_of(keys, buckets), key=keys, position=np.arange(start, start + len(keys)))
                start += len(keys)
            right.flush()
        for bucket in range(buckets):
            old, new = left.read(bucket), right.read(bucket)
            first = first_equal(np.concatenate([old["key"], new["key"]]))[len(old) :]
            yield old["payload"], new["position"], first


def _stage(
    path: Path,
    items: Path,
    prompt: Prompt,
    missing: npt.NDArray[np.bool_],
    extra_texts: Sequence[str],
    max_chars: int | None,
) -> None:
    """Write what makes the missing items, in item order, in row groups of at most ROWS_AT_ONCE and BYTES_IN_GROUP."""
    types = pq.read_schema(items)
    schema = pa.schema([("text_hash", pa.string()), *((column, types.field(column).type) for column in prompt.columns)])
    num_items = len(missing) - len(extra_texts)

    def chosen() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in read_batches(items, [prompt.hash_column, *prompt.columns]):
            mask = missing[start : start + batch.num_rows]
            start += batch.num_rows
            if mask.any():
                whole = prompt.read_columns
                cut = (batch[c] if c in whole else _cut(batch[c], max_chars) for c in prompt.columns)
                columns = [batch[prompt.hash_column], *cut]
                yield pa.record_batch(columns, names=schema.names).filter(pa.array(mask)).cast(schema)
        extra = [text for text, lacks in zip(extra_texts, missing[num_items:], strict=True) if lacks]
        hashes = [hash_item(prompt, same_text(prompt, text)) for text in extra]
        if extra:
            yield pa.record_batch([hashes, *([extra] * len(prompt.columns))], schema=schema)

    write_table(path, schema, rebatch(chosen(), ROWS_AT_ONCE, BYTES_IN_GROUP))


def _cut(column: pa.Array, max_chars: int | None) -> pa.Array:
    """Strings with no more than so many characters and their end; lists, of choices or contexts, as they are."""
    if max_chars is None or pa.types.is_list(column.type) or (pc.max(pc.utf8_length(column)).as_py() or 0) <= max_chars:
        return column
    return pa.array([text if text is None else shorten(text, max_chars) for text in map(_as_py, column)], column.type)


def _as_py(text: pa.Scalar) -> Any:
    return text.as_py()
