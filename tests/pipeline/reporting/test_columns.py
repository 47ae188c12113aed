"""Prompts with fixed labels that read several columns: there may be no text, and each prompt has its own hash."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.prompts import hash_column
from pipeline.reporting.compare import compare_runs
from tests.pipeline.reporting import tables

PAIR = ("sentence1", "sentence2")


def write_pairs(out: Path, prompts: dict[str, tuple[str, ...]], num_items: int = 60, seed: int = 0) -> Path:
    """A run on pairs of sentences, of which three share the first; a prompt of ("text",) reads that alone, as text."""
    items = tables.make_items(num_items, np.random.default_rng(4))
    first = items["text"].gather([i // 3 for i in range(num_items)])
    pairs = items.with_columns(first.alias("sentence1"), pl.col("text").alias("sentence2"))
    keys = {
        name: [tables.hash_text(repr(row)) for row in pairs.select(columns).rows()]
        for name, columns in prompts.items()
        if columns != ("text",)
    }
    keys |= {name: [tables.hash_text(text) for text in first] for name in prompts if name not in keys}
    tables.write_run(out, prompts=tuple(prompts), seed=seed, items=items)
    file = out / "scores" / "scores.parquet"
    hashes = pl.concat(
        pl.DataFrame({"item_id": items["item_id"], "prompt": [name] * num_items, "text_hash": keys[name]})
        for name in prompts
    )
    scores = pl.read_parquet(file).drop("text_hash").join(hashes, on=["item_id", "prompt"], maintain_order="left")
    scores.select(tables.SCORE_SCHEMA.keys()).write_parquet(file)
    has_text = ("text",) in prompts.values()
    text = {"text": first, "text_hash": [tables.hash_text(text) for text in first]} if has_text else {}
    own = {hash_column(name): keys[name] for name, columns in prompts.items() if columns != ("text",)}
    table = pairs.drop("text").with_columns(pl.lit(None, pl.String).alias("text_hash"))
    table.with_columns(pl.Series(name, values) for name, values in {**text, **own}.items()).write_parquet(
        out / "items.parquet"
    )
    records = tables.need_manifest(tables.Output(out)).model_dump(mode="json")["prompts"]
    tables.change_manifest(out, prompts=[record | {"columns": prompts[record["name"]]} for record in records])
    return out


def test_a_run_without_a_text_is_reported_with_its_columns(tmp_path: Path) -> None:
    """All rules and figures of fixed labels are there; a wrong item shows both sentences, escaped."""
    report = tables.write_report(write_pairs(tmp_path, {"answer": PAIR}))
    assert "pmi" in report.rules
    assert report.confusion.height > 0
    assert not report.repeats
    assert report.wrong.height > 0
    items = {row["item_id"]: row for row in pl.read_parquet(tmp_path / "items.parquet").to_dicts()}
    for row in report.wrong.iter_rows(named=True):
        item = items[row["item_id"]]
        assert row["text"] == f"sentence1: {item['sentence1']}\nsentence2: {item['sentence2']}"
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "sentence1: Article" in markdown
    assert "<script" not in markdown


def test_prompts_of_other_columns_are_compared_on_their_items(tmp_path: Path) -> None:
    """One reads the first sentence as its text, which three items share; the other tells all of them apart."""
    report = tables.write_report(write_pairs(tmp_path, {"answer": ("text",), "both": PAIR}))
    copies = load_run(tmp_path).predictions.group_by("prompt").agg(pl.col("copies").unique()).collect()
    assert dict(copies.iter_rows()) == {"answer": [3], "both": [1]}
    effective = report.headline.select("prompt", "num_distinct", "num_effective").rows()
    assert effective == [("answer", 20, 20.0), ("both", 60, 60.0)]
    assert (report.num_distinct, report.texts_of) == (20, "answer")
    (row,) = report.verdict.pairs.to_dicts()
    assert row["n"] == 60
    assert row["design_effect"] >= 3
    shown = report.wrong.group_by("prompt", maintain_order=True).agg(pl.col("text").first()).rows()
    assert shown[0][1].startswith("Article")
    assert shown[1][1].startswith("sentence1: Article")


@pytest.mark.parametrize("prompts", [{"answer": PAIR}, {"answer": ("text",), "both": PAIR}])
def test_two_runs_of_several_columns_are_compared(tmp_path: Path, prompts: dict[str, tuple[str, ...]]) -> None:
    runs = []
    for seed, name in enumerate("ab"):
        out = write_pairs(tmp_path / name, prompts, seed=seed)
        tables.write_report(out)
        runs.append(load_run(out))
    found = compare_runs(*runs)
    assert found.num_common == 60
    assert found.comparisons["prompt_a"].to_list() == list(prompts)
    assert found.flips["text"].null_count() == 0
    assert compare_runs(runs[0], runs[0]).flips.is_empty()
