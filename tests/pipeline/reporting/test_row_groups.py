"""predictions.parquet for those who read it: row groups of one rule each, and outputs of before there were any."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from pipeline.analysis import load_run
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.rules import RULES
from tests.pipeline.reporting import tables, tasks

FILE = "report/predictions.parquet"
KEY = ("rule", "item_id", "prompt")
PROMPTS = ("topic", "answer", "described")  # not in the order of the alphabet


def rules_of(file: Path) -> list[str]:
    """The one rule of each row group, by its statistics, which is all that a reader looks at to pass over it."""
    metadata = pq.read_metadata(file)
    rules = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
        assert columns["rule"].min == columns["rule"].max
        assert [group.column(c.column_index).path_in_schema for c in group.sorting_columns] == list(KEY)
        rules.append(columns["rule"].min)
    return rules


@pytest.mark.parametrize(("rows_in_group", "num_rounds"), [(1 << 16, 1), (100, 2), (1, 10)])
def test_each_row_group_has_one_rule_in_the_order_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_in_group: int, num_rounds: int
) -> None:
    """However many blocks of items make one; the rows are the same as in one block."""
    whole = tables.write_run(tmp_path / "whole", 50, PROMPTS)
    tables.write_report(whole)
    out = tables.write_run(tmp_path / "cut", 50, PROMPTS)
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 60)  # five items of three prompts and four labels
    monkeypatch.setattr("pipeline.reporting.predictions.ROWS_IN_GROUP", rows_in_group)
    report = tables.write_report(out)
    assert rules_of(out / FILE) == [*report.rules] * num_rounds
    with pq.ParquetFile(out / FILE) as file:
        groups = [pl.DataFrame(file.read_row_group(i)) for i in range(file.num_row_groups)]
    for rows in groups:
        assert_frame_equal(rows, rows.sort(KEY))
    assert_frame_equal(pl.concat(groups).sort(KEY), pl.read_parquet(whole / FILE).sort(KEY), rel_tol=1e-12)


def test_long_names_of_choices_wait_in_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that fill the memory set aside for them are written before there are enough of them."""
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 60)
    monkeypatch.setattr("pipeline.reporting.predictions.BYTES_WAITING", 1)
    out = tables.write_run(tmp_path, 50, PROMPTS)
    report = tables.write_report(out)
    assert rules_of(out / FILE) == [*report.rules] * 10


def test_readers_that_trust_the_sorting_find_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one rule come back several times in a file: what Polars asks of it is what it asks of plain rows."""
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 60)
    monkeypatch.setattr("pipeline.reporting.predictions.ROWS_IN_GROUP", 30)
    out = tables.write_run(tmp_path, 50, PROMPTS)
    tables.write_report(out)
    stored, plain = pl.scan_parquet(out / FILE), pl.LazyFrame(pl.read_parquet(out / FILE).to_dicts())
    for engine in ("in-memory", "streaming"):
        for query in (
            lambda rows: rows.sort(KEY).select(KEY),
            lambda rows: rows.filter(pl.col("rule") == "pmi", pl.col("item_id") < 12).select(KEY).sort(KEY),
            lambda rows: rows.group_by("rule", "item_id").len().sort("rule", "item_id"),
            lambda rows: rows.select(pl.col("rule").unique().sort()),
            lambda rows: rows.select(pl.col("item_id").max(), pl.col("rule").min(), last=pl.col("rule").max()),
            lambda rows: rows.join(rows, on=["item_id", "prompt"]).group_by("rule").len().sort("rule"),
        ):
            assert_frame_equal(query(stored).collect(engine=engine), query(plain).collect(), check_dtypes=False)


def test_tasks_have_row_groups_of_one_rule_too(tmp_path: Path) -> None:
    out = tasks.write_run(tmp_path)
    report = tables.write_report(out)
    assert rules_of(out / FILE) == [*report.rules]


def test_margins_are_those_of_the_scores_to_seven_digits(tmp_path: Path) -> None:
    """Whole differences of scores in double precision, beside what is stored; no margin but a tie's is 0."""
    out = tables.write_run(tmp_path, 200, ("answer",))
    file = out / "scores" / "scores.parquet"
    scores = pl.read_parquet(file)
    close = pl.when(pl.col("label_id") == 1).then(np.nextafter(np.float32(-1e-3), np.float32(-1))).otherwise(-1e-3)
    near = pl.when(pl.col("item_id") < 20).then(close.cast(pl.Float32)).otherwise("logprob").alias("logprob")
    scores.with_columns(near).filter(pl.col("label_id") < 4).write_parquet(file)
    tables.write_report(out)
    rows = load_run(out).predictions.filter(pl.col("rule") == "sum").sort("item_id").collect()
    scores = pl.read_parquet(file)
    for row, (_, own) in zip(rows.iter_rows(named=True), scores.group_by("item_id", maintain_order=True), strict=True):
        first, second = sorted(map(float, own["logprob"]), reverse=True)[:2]
        assert row["margin"] == pytest.approx(first - second, rel=1e-7)
        assert (row["margin"] == 0) == row["tie"] == (first == second)


def as_before(out: Path) -> Path:
    """The predictions of a run in the order and types of before: by item, prompt and rule, margins in float64."""
    rank = pl.col("rule").replace_strict(list(RULES), range(len(RULES)))
    rows = pl.read_parquet(out / FILE).sort("item_id", "prompt", rank)
    rows.cast({"margin": pl.Float64}).write_parquet(out / FILE, row_group_size=1 << 16)
    assert pq.read_metadata(out / FILE).metadata.keys() == {b"ARROW:schema"}
    return out


def test_outputs_of_before_are_compared_and_gone_on_from(tmp_path: Path) -> None:
    """A comparison with one, and the count of what changed since, are those of the same rows as written now."""
    a, b, old = (tables.write_run(tmp_path / f"{i}", 80, PROMPTS, seed=seed) for i, seed in enumerate((1, 2, 1)))
    for out in (a, b, old):
        tables.write_report(out)
    as_before(old)
    now, then = (compare_runs(load_run(out), load_run(b)) for out in (a, old))
    assert_frame_equal(now.flips, then.flips)
    assert_frame_equal(now.comparisons, then.comparisons)
    assert now.flips.height > 0
    changes = [changed_predictions(load_run(out).predictions, load_run(b).predictions) for out in (a, old)]
    assert_frame_equal(*changes)
    assert changes[0]["num_changed"].sum() > 0
    reports = [tables.write_report(out) for out in (a, old)]  # each against its own, of which nothing changed
    assert reports[1].history_rows["num_changed"].unique().to_list() == [0]
    assert_frame_equal(*(report.metrics for report in reports))
    assert rules_of(old / FILE) == rules_of(a / FILE)
