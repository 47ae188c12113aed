"""Joining more text hashes than memory should hold: records go to disk by bucket, and are met bucket by bucket.

Invariant: records keep the order in which they were added, so that the first of several equal keys stays the first.
Memory is that of the largest bucket, not of the number of records; a hash is compared in full.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
KEY = ("key", ">u8", (4,))  # a SHA-256 as four words
KEYS_AT_ONCE = 1 << 15
MANY = 1 << 62  # more rows than there are
MAX_BUCKETS = 1024  # beyond 33 million keys the buckets grow instead (a quarter of a byte of memory a key)


class Spill:
    """Records of one dtype in a scratch file without a name (it dies with the process), to be read back by bucket.

    They are sorted by bucket and written in runs; a bucket is read as one piece of each run.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike, num_buckets: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._dtype = np.dtype(dtype)
        self._num_buckets = num_buckets
        self._waiting: list[tuple[Array, Array]] = []
        self._num_records = 0
        self._runs: list[tuple[int, Array]] = []  # where a run begins, and each bucket in it, in records

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # on a full disk closing tries once more to write
            self._file.close()

    def add(self, buckets: Array, **fields: Array) -> None:
        """Add records, made of one array for each field, to the buckets of these numbers  # (n,)."""
        records = np.empty(len(buckets), self._dtype)
        for name, values in fields.items():
            records[name] = values
        self._waiting.append((buckets, records))
        if sum(len(waiting) for waiting, _ in self._waiting) >= KEYS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what has been added: to be called before reading."""
        if not self._waiting:
            return
        buckets = np.concatenate([buckets for buckets, _ in self._waiting])
        order = np.argsort(buckets, kind="stable")
        starts = np.searchsorted(buckets[order], np.arange(self._num_buckets + 1)).astype(np.uint32)
        self._file.write(np.concatenate([records for _, records in self._waiting])[order].tobytes())
        self._file.flush()
        self._runs.append((self._num_records, starts))
        self._num_records += len(buckets)
        self._waiting = []

    def read(self, bucket: int) -> Array:
        """All records of a bucket, in the order they were added."""
        size = self._dtype.itemsize
        pieces = []
        for base, starts in self._runs:
            start, stop = int(starts[bucket]), int(starts[bucket + 1])
            if stop > start:
                pieces.append(os.pread(self._file.fileno(), (stop - start) * size, (base + start) * size))
        return np.frombuffer(b"".join(pieces), self._dtype)


def num_buckets(num_keys: int) -> int:
    """How many buckets keep about KEYS_AT_ONCE keys in each: a power of two up to MAX_BUCKETS."""
    return min(MAX_BUCKETS, 1 << (max(0, num_keys - 1) // KEYS_AT_ONCE).bit_length())


def bucket_of(keys: Array, buckets: int) -> Array:
    """The bucket of each key, by its leading bits."""
    return ((keys[:, 0] >> np.uint64(48)).astype(np.int64) * buckets) >> 16


def keys_of(hashes: pa.Array) -> Array:
    """Hex SHA-256 strings as keys  # (n, 4) words. Raises ValueError where one is no such string."""
    strings = hashes.cast(pa.string())
    if strings.null_count or not pc.all(pc.match_substring_regex(strings, "^[0-9a-f]{64}$"), min_count=0).as_py():
        raise ValueError("text_hash is not a hex SHA-256")
    return np.frombuffer(bytes.fromhex("".join(strings.to_pylist())), ">u8").reshape(-1, 4)


def first_equal(keys: Array) -> Array:
    """For each key, the position of the first key equal to it  # (n,)."""
    if not len(keys):
        return np.zeros(0, np.int64)
    order = np.argsort(keys[:, 0].astype("=u8"), kind="stable")
    starts = _group_starts(keys[order])
    if (starts[1:] & (keys[order][1:, 0] == keys[order][:-1, 0])).any():  # different keys that share their first word
        order = np.lexsort(keys.T[::-1])
        starts = _group_starts(keys[order])
    first = np.empty(len(keys), np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def _group_starts(keys: Array) -> Array:
    starts = np.ones(len(keys), bool)
    starts[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return starts


def rebatch(batches: Iterator[pa.RecordBatch], num_rows: int, num_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables of at most about so many rows and bytes: small batches together, none of them cut."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if waiting and (rows + batch.num_rows > num_rows or size + batch.nbytes > num_bytes):
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting)


def cut(batches: Iterator[pa.RecordBatch], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """The same rows in tables of these sizes, one after the other; the last may be shorter."""
    waiting: list[pa.RecordBatch] = []
    sizes, num_waiting = iter(sizes), 0
    num_rows = next(sizes)
    for batch in batches:
        while num_waiting + batch.num_rows >= num_rows:
            waiting.append(batch.slice(0, num_rows - num_waiting))
            yield pa.Table.from_batches(waiting)
            batch = batch.slice(waiting[-1].num_rows)
            waiting, num_waiting, num_rows = [], 0, next(sizes, MANY)
        if batch.num_rows:
            waiting.append(batch)
            num_waiting += batch.num_rows
    if waiting:
        yield pa.Table.from_batches(waiting)
