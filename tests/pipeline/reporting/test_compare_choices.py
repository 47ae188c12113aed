"""Two runs of items with columns and choices of their own: paired only where a hash proves that they are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import Run, load_run
from pipeline.errors import InputError
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.markdown import render_markdown
from tests.pipeline.reporting import choices, tables


def make_run(out: Path, items: pl.DataFrame, seed: int, **how: Any) -> Run:
    tables.write_report(choices.write_run(out, items=items, seed=seed, **how))
    return load_run(out)


@pytest.fixture
def items() -> pl.DataFrame:
    return choices.make_items(60, np.random.default_rng(0), several=0.2)


def with_text(items: pl.DataFrame) -> pl.DataFrame:
    """The items as a run has them in which a prompt reads `{text}` alone."""
    text = pl.format("text {}", "item_id")
    hashed = text.map_elements(tables.hash_text, return_dtype=pl.String)
    return items.with_columns(text=text, text_hash=hashed)


def test_items_meet_by_all_that_their_prompts_read_wherever_they_stand(tmp_path: Path, items: pl.DataFrame) -> None:
    """Rows that moved are paired; one whose passage changed is the same only to the prompt that does not read it."""
    moved = items.sample(fraction=1.0, shuffle=True, seed=7).with_columns(item_id=pl.int_range(pl.len()) + 500)
    edited = moved.with_columns(passage=pl.when(pl.col("item_id") < 510).then(pl.lit("another")).otherwise("passage"))
    a, b = make_run(tmp_path / "a", items, seed=1), make_run(tmp_path / "b", edited, seed=2)
    found = compare_runs(a, b)
    assert dict(found.comparisons.select("prompt_a", "n").iter_rows()) == {"whole": 50, "short": 60}
    questions = dict(items.select("question", "item_id").iter_rows())
    pairs = {row["item_id"]: questions[row["question"]] for row in edited.to_dicts()}
    assert found.flips.height > 20
    for flip in found.flips.iter_rows(named=True):
        assert pairs[flip["item_id_b"]] == flip["item_id_a"]
        assert flip["text"].startswith("question: Question")
        assert ("\npassage: " in flip["text"]) == (flip["prompt"] == "whole")
    words = render_markdown(compare_document(found))
    assert "In both: 50 items, by all that their prompts read" in words
    assert "<script" not in words


def test_right_choices_are_compared_by_their_text(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items, seed=1)
    other = items.with_columns(gold_id=pl.when(pl.col("gold_id") == 0).then(1).otherwise("gold_id").cast(pl.Int16))
    b = make_run(tmp_path / "b", other, seed=1)
    same = {row["item_id"]: row for row in items.to_dicts()}
    moved = [row for row in same.values() if row["gold_id"] == 0 and row["item_choices"][0] != row["item_choices"][1]]
    assert compare_runs(a, b).num_gold_differs == len(moved) > 5
    assert compare_runs(a, a).num_gold_differs == 0


def test_prompts_that_read_other_columns_meet_by_row_and_text(tmp_path: Path, items: pl.DataFrame) -> None:
    """An item whose row is the same and its text too; a row that holds another text now is none."""
    a = make_run(tmp_path / "a", with_text(items), seed=1, prompts={"p": ("text",)})
    shifted = with_text(items).with_columns(
        text_hash=pl.when(pl.col("item_id") < 5).then(pl.lit("0" * 64)).otherwise("text_hash")
    )
    b = make_run(tmp_path / "b", shifted, seed=2, prompts={"q": ("text", "passage")})
    found = compare_runs(a, b)
    assert (found.num_common, found.paired_by) == (55, "by their row and its text")
    assert all(a == b for a, b in found.flips.select("item_id_a", "item_id_b").iter_rows())


def test_what_is_not_known_to_be_the_same_is_refused_or_named(tmp_path: Path, items: pl.DataFrame) -> None:
    """No hash in common and no text: that a row has the same number proves nothing."""
    a = make_run(tmp_path / "a", items, seed=1, prompts={"p": ("question",)})
    b = make_run(tmp_path / "b", items, seed=2, prompts={"p": ("passage",)})
    with pytest.raises(InputError, match="have no text in common; compare runs over the same data set and columns"):
        compare_runs(a, b)
    both = {"p": ("question",), "q": ("question", "passage")}
    other = {"p": ("question",), "q": ("passage",)}
    c, d = (make_run(tmp_path / n, items, seed=3, prompts=p) for n, p in (("c", both), ("d", other)))
    found = compare_runs(c, d)
    assert found.comparisons["prompt_a"].to_list() == ["p"]
    assert found.unpaired == ["'q' in A and 'q' in B"]
    assert "Left out, as they read other columns" in render_markdown(compare_document(found))


def test_other_choices_are_another_item(tmp_path: Path, items: pl.DataFrame) -> None:
    """Choices belong to what a prompt's hash covers."""
    first = pl.col("item_id") < 10
    edited = items.with_columns(
        item_choices=pl.when(first).then(pl.concat_list("item_choices", pl.lit("one more"))).otherwise("item_choices")
    )
    a, b = make_run(tmp_path / "a", items, seed=1), make_run(tmp_path / "b", edited, seed=1)
    found = compare_runs(a, b)
    assert found.num_common == 50
    changed = changed_predictions(a.predictions, b.predictions)
    assert changed["num_common"].unique().to_list() == [50]


def test_runs_of_before_are_compared_with_the_rules_of_today(tmp_path: Path) -> None:
    """Their stored predictions under `mean_byte` counted the blank, and there were none under `mean_char`."""
    names = ("World", "Sports", "Business", "Sci")
    how: dict[str, Any] = {"words": [f" {name}" for name in names], "label_names": names, "num_items": 80}
    new, old = (tables.write_run(tmp_path / name, **how) for name in ("new", "old"))
    for out in (new, old):
        tables.write_report(out)
    scores = pl.read_parquet(old / "scores" / "scores.parquet")
    scores.drop("norm_chars", "norm_bytes").write_parquet(old / "scores" / "scores.parquet")
    file = old / "report" / "predictions.parquet"
    wrong = pl.when(pl.col("rule") == "mean_byte").then(pl.lit("nonsense")).otherwise("predicted").alias("predicted")
    pl.read_parquet(file).filter(pl.col("rule") != "mean_char").with_columns(wrong).write_parquet(file)
    a, b = load_run(new), load_run(old)
    for rule in ("sum", "mean_char", "mean_byte"):
        found = compare_runs(a, b, rule)
        assert found.flips.is_empty()
        assert found.comparisons["n"].to_list() == [80, 80]
    changed = changed_predictions(b.predictions, a.predictions)
    assert changed["num_changed"].unique().to_list() == [0]
    assert not {"mean_char", "mean_byte"} & set(changed["rule"])
