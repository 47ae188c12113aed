"""The order in which items are asked about."""

import hashlib
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.choosing import order as module
from pipeline.choosing.order import OrderedItems, draw_order
from pipeline.storing.layout import ITEMS_SCHEMA

Gold = int | list[int] | None


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_items(path: Path, rows: list[tuple[str, Gold]]) -> Path:
    """An items.parquet of plain texts, with one right class, several, or none."""
    table = {
        "item_id": [10 * number for number in range(len(rows))],
        "text": [text for text, _ in rows],
        "gold_id": [gold if isinstance(gold, int) else None for _, gold in rows],
        "gold": [str(gold) if isinstance(gold, int) else None for _, gold in rows],
        "text_hash": [hash_of(text) for text, _ in rows],
        "gold_ids": [gold if isinstance(gold, list) else None for _, gold in rows],
    }
    pq.write_table(pa.table(table, ITEMS_SCHEMA), path, row_group_size=3, write_page_checksum=True)
    return path


ROWS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 1), st.just([0, 1]), st.just([1, 0]))),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_each_text_stands_once_and_none_that_rows_disagree_about(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, Gold]]
) -> None:
    """Of a text with one gold label the first labelled row; counts of all that is left out add up to the file."""
    items = write_items(tmp_path_factory.mktemp("items") / "items.parquet", rows)
    golds, first = defaultdict(set), {}
    for number, (text, gold) in enumerate(rows):
        if gold is not None:
            golds[text].add(tuple(sorted(gold)) if isinstance(gold, list) else gold)
            first.setdefault(text, number)
    good = {text for text, found in golds.items() if len(found) == 1}
    order = draw_order(items, ["text_hash"], seed=0)
    assert sorted(order.rows.tolist()) == sorted(first[text] for text in good)
    assert order.num_without_gold == sum(gold is None for _, gold in rows)
    assert order.num_disputed == len(golds) - len(good)
    assert len(order.rows) + order.num_without_gold + order.num_disputed + order.num_repeats == len(rows)


def test_the_order_is_of_the_texts_and_not_of_their_rows(tmp_path: Path) -> None:
    """Shuffled rows, rows that were added, and other columns' hashes change nothing in the order of the texts."""
    texts = [f"text {number}" for number in range(200)]
    rows: list[tuple[str, Gold]] = [(text, 0) for text in texts]
    own = draw_order(write_items(tmp_path / "a.parquet", rows), ["text_hash"], seed=7)
    by_order = [texts[row] for row in own.rows]
    more = [*rows, *((f"more {number}", 1) for number in range(100))]
    random.Random(1).shuffle(more)
    other = draw_order(write_items(tmp_path / "b.parquet", more), ["text_hash"], seed=7)
    found = [more[row][0] for row in other.rows]
    assert [text for text in found if text.startswith("text")] == by_order
    assert draw_order(tmp_path / "a.parquet", ["text_hash"], seed=8).rows.tolist() != own.rows.tolist()


def test_the_order_is_as_good_as_random(tmp_path: Path) -> None:
    """Over seeds each text comes to each quarter of the order about as often: chi-squared over 400 draws."""
    items = write_items(tmp_path / "items.parquet", [(f"{number}", 0) for number in range(8)])
    places = np.array([np.argsort(draw_order(items, ["text_hash"], seed).rows) // 2 for seed in range(400)])
    counts = np.array([(places == quarter).sum(axis=0) for quarter in range(4)])  # (quarters, texts)
    assert ((counts - 100) ** 2 / 100).sum() < 60  # 24 degrees of freedom: p < 1e-4 beyond


def test_a_text_is_all_that_the_prompts_read(tmp_path: Path) -> None:
    """Equal texts are different items where a second column, under its own hash, differs."""
    path = write_items(tmp_path / "items.parquet", [("same", 0), ("same", 1), ("same", 0)])
    table = pq.read_table(path).append_column("hash_two", pa.array([hash_of(each) for each in "aba"]))
    pq.write_table(table, path, write_page_checksum=True)
    assert draw_order(path, ["text_hash"], 0).num_disputed == 1
    both = draw_order(path, ["hash_two", "text_hash"], 0)
    assert (sorted(both.rows.tolist()), both.num_disputed, both.num_repeats) == ([0, 1], 0, 1)


def test_nothing_to_ask_about(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.parquet", [("a", None), ("b", None)])
    order = draw_order(items, ["text_hash"], 0)
    assert (len(order.rows), order.num_without_gold) == (0, 2)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_blocks_hold_the_items_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Whatever is in memory at once, also across its borders and backwards; an item's id is its place in the order."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    rows: list[tuple[str, Gold]] = [
        (f"text {number}", [0, 2] if number % 5 == 0 else number % 3) for number in range(40)
    ]
    path = write_items(tmp_path / "items.parquet", rows)
    table = pq.read_table(path)
    table = table.append_column(
        "hash_of it", pa.array([hash_of(f"other {text}") for text in table["text"].to_pylist()])
    )
    pq.write_table(table, path, row_group_size=3, write_page_checksum=True)
    order = draw_order(path, ["text_hash"], 3)
    items = OrderedItems(path, order, {"text_hash", "hash_of it"})
    for start, stop in ((0, 5), (5, 12), (30, 40), (2, 31)):
        hashes = {"text_hash": "text_hash", "hash_of it": "text_hash", "hash_more": "hash_of it"}
        items.write(tmp_path / "block.parquet", start, stop, hashes)
        block = pq.read_table(tmp_path / "block.parquet").to_pylist()
        assert [row["item_id"] for row in block] == list(range(start, stop))
        wanted = [rows[row] for row in order.rows[start:stop]]
        assert [(row["text"], row["gold_ids"] or row["gold_id"]) for row in block] == wanted
        # A candidate's column is what was asked for, also where a prompt has one of its name.
        assert all(row["text_hash"] == row["hash_of it"] == hash_of(row["text"]) for row in block)
        assert all(row["hash_more"] == hash_of(f"other {row['text']}") for row in block)
