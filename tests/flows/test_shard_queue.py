"""Which shard is handed out next."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.shard_queue import ShardQueue
from pipeline.sharding import Shard, count_characters, cut_shards


def pending_of(folder: Path, lengths: list[int], name: str = "pending") -> Path:
    path = folder / f"{name}.parquet"
    pl.DataFrame({"text_hash": ["h"] * len(lengths), "text": ["x" * length for length in lengths]}).write_parquet(path)
    return path


def all_of(queue: ShardQueue) -> list[Shard]:
    found = []
    while queue:
        found.append(queue.pop())
    return found


def test_characters_are_counted_for_each_shard(tmp_path: Path) -> None:
    """Shards of one file, in any order, and of several files."""
    one, two = pending_of(tmp_path, [1, 2, 3, 4, 5], "one"), pending_of(tmp_path, [10], "two")
    shards = [*reversed(cut_shards("p", one, 2)), *cut_shards("q", two, 2)]
    assert count_characters(shards) == [5, 7, 3, 10]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=80),
    shard_size=st.integers(1, 30),
    num_workers=st.integers(1, 5),
)
def test_every_text_is_handed_out_once(tmp_path: Path, lengths: list[int], shard_size: int, num_workers: int) -> None:
    """However shards are cut, under names of their own."""
    shards = cut_shards("p", pending_of(tmp_path, lengths), shard_size)
    found = all_of(ShardQueue(shards, num_workers))
    assert sorted(row for shard in found for row in range(shard.start, shard.stop)) == list(range(len(lengths)))
    assert len({shard.name for shard in found}) == len(found)
    assert all(0 < shard.stop - shard.start <= shard_size for shard in found)


def test_the_dearest_go_first_and_the_last_are_small(tmp_path: Path) -> None:
    """So that no worker is left with a long shard when the others are done."""
    shards = cut_shards("p", pending_of(tmp_path, [10] * 1000 + [500] * 1000), 200)
    sizes = [(shard.start >= 1000, shard.stop - shard.start) for shard in all_of(ShardQueue(shards, 2))]
    assert sizes[0] == (True, 200)
    assert [is_long for is_long, _ in sizes] == sorted((is_long for is_long, _ in sizes), reverse=True)
    assert sizes[-1][1] <= 200 // 4


@pytest.mark.parametrize("num_workers", [4, 16])
def test_more_workers_than_shards_all_have_work(tmp_path: Path, num_workers: int) -> None:
    """Shards are cut from the start where there are few."""
    shards = cut_shards("p", pending_of(tmp_path, [100] * 4000), 2000)
    assert len(all_of(ShardQueue(shards, num_workers))) >= num_workers
