"""Records come back by bucket in the order they were added, whatever the sizes of the runs."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storing import spill
from pipeline.storing.spill import Spill, rebatch


@given(st.lists(st.lists(st.integers(0, 6), max_size=9), max_size=6), st.integers(1, 20))
def test_a_bucket_gives_back_its_records_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], at_once: int
) -> None:
    """Against a list for each bucket, with any number of batches and runs."""
    expected: list[list[int]] = [[] for _ in range(7)]
    spill.KEYS_AT_ONCE, usual = at_once, spill.KEYS_AT_ONCE
    try:
        with Spill(tmp_path_factory.getbasetemp(), [("number", "<i8")], 7) as records:
            number = 0
            for batch in batches:
                for bucket in batch:
                    expected[bucket].append(number)
                    number += 1
                records.add(np.array(batch, np.int64), number=np.arange(number - len(batch), number))
            records.flush()
            assert [records.read(bucket)["number"].tolist() for bucket in range(7)] == expected
    finally:
        spill.KEYS_AT_ONCE = usual


def test_the_scratch_file_has_no_name(tmp_path: Path) -> None:
    """Whatever kills the process, nothing is left behind."""
    with Spill(tmp_path, [("number", "<i8")], 1) as records:
        records.add(np.zeros(10, np.int64), number=np.arange(10))
        records.flush()
        assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 7), st.integers(8, 80))
def test_rebatching_changes_the_sizes_only(sizes: list[int], num_rows: int, num_bytes: int) -> None:
    """A table is as large as rows and bytes allow, or one batch, and the rows are the same."""
    rows = list(range(sum(sizes)))
    starts = np.cumsum([0, *sizes])
    batches = [pa.record_batch({"a": pa.array(rows[a:b], pa.int64())}) for a, b in itertools.pairwise(starts)]
    most, ends = min(num_rows, num_bytes // 8), np.cumsum(sizes)
    tables = list(rebatch(iter(batches), num_rows, num_bytes))
    assert [row for table in tables for row in table["a"].to_pylist()] == rows
    assert all(table.num_rows <= most or table.num_rows in sizes for table in tables)
    stops = np.cumsum([table.num_rows for table in tables]).tolist()
    for table, stop in zip(tables, stops[:-1], strict=False):  # the next batch would have been too much
        assert table.num_rows + sizes[int(np.searchsorted(ends, stop)) + 1] > most
