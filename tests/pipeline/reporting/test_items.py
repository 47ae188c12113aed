"""Texts that repeat and several right classes, as items.parquet has them, against loops over its rows."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import load_run
from pipeline.reporting.items import CHARS_SHOWN, item_texts, read_item_facts, read_repeats, text_key
from tests.pipeline.reporting.tables import hash_text, write_report, write_run

SCHEMA = {"item_id": pl.Int64, "text_hash": pl.String, "gold_id": pl.Int16, "gold_ids": pl.List(pl.Int16)}
NO_GOLD, ONE, SEVERAL = "none", "one", "several"

rows_of_items = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([NO_GOLD, ONE, SEVERAL])), max_size=40)


def make_items(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (i, hash_text(text), 1 if kind == ONE else None, [0, 2] if kind == SEVERAL else None)
            for i, (text, kind) in enumerate(rows)
        ],
        schema=SCHEMA,
        orient="row",
    )


@settings(max_examples=50, deadline=None)
@given(rows_of_items)
def test_copies_are_the_labelled_rows_that_share_a_text(rows: list[tuple[str, str]]) -> None:
    """Rows without a gold label count for nobody."""
    items = make_items(rows)
    found = read_repeats(items.lazy(), text_key()).count_copies(items, text_key())
    labelled = Counter(text for text, kind in rows if kind != NO_GOLD)
    assert found.dtype == pl.Int32
    assert found.to_list() == [max(1, labelled[text]) for text, _ in rows]


@settings(max_examples=50, deadline=None)
@given(rows_of_items)
def test_what_is_kept_of_repeats_are_the_repeated_texts_only(rows: list[tuple[str, str]]) -> None:
    labelled = Counter(text for text, kind in rows if kind != NO_GOLD)
    found = read_repeats(make_items(rows).lazy(), text_key()).rows.tolist()
    assert sorted(found) == sorted(n for n in labelled.values() if n > 1)


@pytest.mark.parametrize("kinds", [[ONE, NO_GOLD], [ONE, SEVERAL]])
def test_several_right_classes_are_looked_for_only_where_there_are_any(kinds: list[str]) -> None:
    """A block gets those of its own items; a table without the column, or with nothing in it, has none."""
    items = make_items([(text, kind) for text in "abc" for kind in kinds])
    found = read_item_facts(items.lazy(), ()).gold_ids((2, 4))
    assert found.rows() == ([(3, [0, 2])] if SEVERAL in kinds else [])
    assert read_item_facts(items.lazy().drop("gold_ids"), ()).gold_ids((0, 6)).is_empty()


@pytest.mark.parametrize(
    ("columns", "task", "expected"),
    [
        (("text",), None, "a" * CHARS_SHOWN),
        (("text", "more"), None, f"text: {'a' * CHARS_SHOWN}\nmore: b"),
        (("contexts",), "boolq", "z" * CHARS_SHOWN),
    ],
)
def test_texts_that_are_shown_do_not_keep_whole_texts_in_memory(
    tmp_path: Path, columns: tuple[str, ...], task: str | None, expected: str
) -> None:
    """What Polars cuts off a string is a view that holds all of it."""
    write_report(write_run(tmp_path))
    prompt = load_run(tmp_path).manifest.prompts[0].model_copy(update={"columns": columns, "task": task})
    whole = pl.DataFrame(
        {"item_id": [0, 1], "text": ["a" * 1_000_000] * 2, "more": ["b"] * 2, "contexts": [["z" * 1_000_000] * 2] * 2}
    )
    found = item_texts(whole.lazy(), prompt).collect(engine="streaming")["text"]
    assert found.to_list() == [expected] * 2
    held = found.to_arrow(compat_level=pl.CompatLevel.newest()).buffers()
    assert sum(buffer.size for buffer in held if buffer) < 10_000
