"""Parts: the files of the store, each holding scores of some texts under one fingerprint.

Invariant: a part's name has the hash of its bytes and its footer says whose scores they are, so that no damaged,
foreign or outdated file passes for one; what else the name tells is what the footer says. In a part every text has one
row for each of the fingerprint's label words, in order, or for each of its own choices, which its hash covers.
"""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import RunError
from pipeline.storing.files import Output, hash_bytes
from pipeline.storing.fingerprint import Fingerprint, StoredPrompt, fingerprint_of
from pipeline.storing.layout import PART, PLAN, SCORES_SCHEMA, STORE
from pipeline.storing.manifest import NewerSchema
from pipeline.storing.sealed import unseal
from pipeline.storing.spill import Array, keys_of
from pipeline.storing.tables import write_table

SCHEMA_VERSION = 1
_COLUMNS = ("text_hash", "label_words", "num_tokens", "num_bytes", "logprob", "logit", "notebook_logit")
SCHEMA = pa.schema(
    [
        SCORES_SCHEMA.field(name).with_nullable(name == "notebook_logit").remove_metadata()
        for name in (*_COLUMNS, "prompt_tokens", "truncated")
    ]
)
NUMBERS = [(f.name, f.type.to_pandas_dtype()) for f in SCHEMA if f.name not in ("text_hash", "label_words")]
_FOOTER = b"labelscore.part"


@dataclass(frozen=True, slots=True)
class Part:
    """A verified part. Of several with the same text the highest `generation` is read, among equals the first name."""

    name: str
    fingerprint: Fingerprint
    model: str
    revision: str
    prompt: str
    generation: int
    notebook: bool
    num_rows: int
    num_bytes: int
    num_texts: int


class BadPart(Exception):
    """A file in the store that is no readable part; `reason` is one word, `str(error)` the sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def folder_of(digest: str) -> str:
    """The folder of a fingerprint's parts."""
    return f"{STORE}/{digest[:16]}"


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Appends parts for one fingerprint. Needs no lock and can be pickled to workers on other machines."""

    out: Output
    stored: StoredPrompt
    model: str  # this name and the next are for people and no part of the fingerprint
    revision: str
    generation: int

    def append(self, table: pa.Table) -> str:
        """Store a table with the columns of SCHEMA, in any row order; returns the part's name.

        Every text must have one finite row for each label word; `notebook_logit` is there for all rows or for none.
        Raises ValueError for a table that breaks this, RunError or InputError where it cannot be written.
        """
        fingerprint = self.stored.fingerprint
        table = _checked(table)
        has_choices = fingerprint.has_choices
        table = _together(table) if has_choices else _arranged(table, fingerprint.label_words)
        num_texts = int(_starts(keys_of(table["text_hash"].combine_chunks())).sum())
        data = self._encode(table, num_texts)
        facts = f"{hash_bytes(data)}-{self.generation}-{num_texts}"
        name = f"{folder_of(fingerprint.digest)}/{facts}.parquet"
        self.out.write_bytes(name, data)
        return name

    def _encode(self, table: pa.Table, num_texts: int) -> bytes:
        footer = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": dict(self.stored.fingerprint.parts),
            "generation": self.generation,
            "notebook": table["notebook_logit"].null_count == 0,
            "model": self.model,
            "revision": self.revision,
            "prompt": self.stored.prompt.name,
        }
        if self.stored.fingerprint.has_choices:
            footer["num_texts"] = num_texts
        table = table.replace_schema_metadata({_FOOTER: json.dumps(footer, sort_keys=True).encode()})
        stream = io.BytesIO()
        write_table(stream, table.schema, [table], use_dictionary=["text_hash", "label_words"])
        return stream.getvalue()


def _checked(table: pa.Table) -> pa.Table:
    """The columns of SCHEMA, with finite numbers."""
    table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    if not table.num_rows:
        raise ValueError("no rows: a part holds at least one text")
    if table["notebook_logit"].null_count not in (0, table.num_rows):
        raise ValueError("notebook_logit is there for some rows only")
    for name in ("logprob", "logit", "notebook_logit"):
        if not pc.all(pc.is_finite(table[name].drop_null()), min_count=0).as_py():
            raise ValueError(f"{name} holds NaN or infinity")
    return table


def _arranged(table: pa.Table, label_words: list[str]) -> pa.Table:
    """The rows by text (in order of first appearance) and label word, checked."""
    if table.num_rows % len(label_words):
        raise ValueError(f"{table.num_rows} rows cannot be whole texts with {len(label_words)} labels each")
    texts = table["text_hash"].combine_chunks().dictionary_encode()
    ranks = np.asarray(pc.fill_null(pc.index_in(table["label_words"], pa.array(label_words)), -1))
    cells = texts.indices.to_numpy() * len(label_words) + ranks
    if (ranks < 0).any() or len(np.unique(cells)) != table.num_rows:
        raise ValueError("a label word is unknown or a text has it twice")
    if table.num_rows != len(texts.dictionary) * len(label_words):
        raise ValueError("a text lacks one of the label words")
    keys_of(texts.dictionary)
    return table.take(np.argsort(cells))


def _together(table: pa.Table) -> pa.Table:
    """The rows as they are, those of a text in the order of its choices; checked to stand together."""
    keys = keys_of(table["text_hash"].combine_chunks())
    if _starts(keys).sum() != len(np.unique(keys, axis=0)):
        raise ValueError("a text's rows are not together")
    return table


def _starts(keys: Array) -> Array:
    """(rows,) bool: where another text begins."""
    starts = np.ones(len(keys), bool)
    starts[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return starts


def read_stored(out: Output, name: str, num_bytes: int, *, verify: bool = True) -> Part | dict[str, Any]:
    """The part that a file of the store is, or the plan; without `verify` only a part's footer is read.

    Raises BadPart for one that is damaged, foreign or of an older schema, NewerSchema for one of a newer.
    """
    try:
        if PurePosixPath(name).name == PLAN:
            return unseal(out.read_bytes(name))
    except ValueError as error:
        raise BadPart("damaged", str(error)) from error
    if not PART.fullmatch(name):
        raise BadPart("stray", "it is no file of the store")
    source = io.BytesIO(_verified_bytes(out, name)) if verify else out.open(name)
    with out.explain_errors(f"read {name} from"):
        try:
            with source as file:
                return _read_footer(name, num_bytes, pq.ParquetFile(file))
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, AttributeError) as error:
            if out.remote and isinstance(error, OSError) and (error.errno or type(error) is not OSError):
                raise  # of the object store: Arrow's own has neither
            raise BadPart("foreign", "it is no Parquet file of labelscore, or its footer is damaged") from error


def facts_in(name: str) -> tuple[int, int] | None:
    """The generation and the number of texts of a part, as far as its name tells them."""
    found = PART.fullmatch(name)
    return (int(found[2]), int(found[3])) if found and found[2] else None


def num_pending(plan: Mapping[str, Any], parts: Iterable[tuple[int, int]]) -> int:
    """How many of the texts that a run set out to score are not in parts of these generations and numbers of texts."""
    written = sum(num_texts for generation, num_texts in parts if generation >= plan["generation"])
    return max(0, int(plan["num_missing"]) - written)


def _verified_bytes(out: Output, name: str) -> bytes:
    sha256 = PurePosixPath(name).stem.partition("-")[0]
    data = out.fetch(name, sha256).read_bytes()
    if hash_bytes(data) != sha256:
        raise BadPart("damaged", "its bytes do not have the hash in its name (cut short, flipped bits or foreign)")
    return data


def _read_footer(name: str, num_bytes: int, file: pq.ParquetFile) -> Part:
    footer = json.loads((file.schema_arrow.metadata or {}).get(_FOOTER, b"{}"))
    version = footer.get("schema_version", 0)
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{name} has schema version {version}, this labelscore reads up to {SCHEMA_VERSION}; "
            "upgrade labelscore or use another --out"
        )
    if not version:
        raise BadPart("foreign", "it was not written by labelscore")
    if version < SCHEMA_VERSION:
        raise BadPart("old-schema", f"it has schema version {version}, which is no longer read")
    fingerprint = fingerprint_of(footer.pop("fingerprint"))
    if folder_of(fingerprint.digest) != str(PurePosixPath(name).parent):
        raise BadPart("foreign", "its fingerprint is not that of its folder")
    del footer["schema_version"]
    num_rows = file.metadata.num_rows
    if not fingerprint.has_choices:
        footer["num_texts"] = num_rows // len(fingerprint.label_words)
    if facts_in(name) not in (None, (footer["generation"], footer["num_texts"])):
        raise BadPart("foreign", "its name tells another generation or number of texts than it has")
    return Part(name, fingerprint, num_rows=num_rows, num_bytes=num_bytes, **footer)


def load_keys(out: Output, part: Part) -> Array:
    """The part's texts as keys  # (texts, 4)."""
    keys, _ = _load(out, part, ["text_hash"])
    return np.ascontiguousarray(keys[_starts(keys)])


def load_scores(out: Output, part: Part) -> tuple[Array, Array]:
    """The part's texts as keys  # (texts, 4), and their rows as records of NUMBERS  # (texts, labels).

    With choices of the text each row is one of its own: (rows, 4) keys as `keys_of_places` makes them, (rows, 1)
    records. A missing `notebook_logit` is NaN. The bytes are verified again, so that what is published is what was
    stored.
    """
    keys, table = _load(out, part, SCHEMA.names)
    rows = np.zeros(table.num_rows, NUMBERS)
    for name, _ in NUMBERS:
        rows[name] = table[name].to_numpy()
    starts = _starts(keys)
    if part.fingerprint.has_choices:
        first = np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
        return keys_of_places(keys, np.arange(len(keys)) - first), rows[:, None]
    return np.ascontiguousarray(keys[starts]), rows.reshape(starts.sum(), -1)


def keys_of_places(keys: Array, places: Array) -> Array:
    """Keys of the choices of texts, by place: SHA-256 is as good as random, so no two of them meet by chance."""
    mixed = keys.astype(np.uint64)
    mixed[:, 0] += places.astype(np.uint64)  # the first word, by which they are sorted
    return mixed.astype(">u8")


def _load(out: Output, part: Part, columns: list[str]) -> tuple[Array, pa.Table]:
    """Each row's key  # (rows, 4), and the columns."""
    try:
        # On this thread alone: one of Arrow's that lets go of Python's bytes while Python ends would abort the process.
        source = pa.BufferReader(_verified_bytes(out, part.name))
        table = pq.ParquetFile(source).read(columns, use_threads=False)
        keys = keys_of(table["text_hash"].combine_chunks())
        if _starts(keys).sum() != part.num_texts:
            raise ValueError("a text's rows are not together")
    except (BadPart, ValueError, pa.ArrowException) as error:
        raise RunError(f"{out}: {part.name} changed or is no part: {error}; run `labelscore verify {out}`") from error
    return keys, table
