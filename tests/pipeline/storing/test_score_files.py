"""A score table of several files is one table: to readers, to verify, and when a smaller one takes its place."""

import shutil
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.analysis import scan_score_files
from pipeline.storing import runs, score_tables
from pipeline.storing.files import Output
from pipeline.storing.layout import SCORES, nth_scores, score_files
from pipeline.storing.manifest import need_manifest
from pipeline.storing.runs import open_run
from pipeline.storing.upkeep import prune, verify
from tests.pipeline.storing.stored import ANSWER, TOPIC, expected_scores, run, texts_of

TEXTS = texts_of(23)


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some items to a row group, and a file for each of them."""
    monkeypatch.setattr(score_tables, "ROWS_IN_GROUP", 40)
    monkeypatch.setattr(score_tables, "BYTES_IN_FILE", 1)


def rows(table: pl.DataFrame) -> list[tuple[int, str, int, float]]:
    return table.select("item_id", "prompt", "label_id", "logprob").rows()


def test_the_names_sort_as_they_count() -> None:
    """So that a reader of sorted names gets the rows in order; a user's names are none of them."""
    names = [nth_scores(number) for number in (1, 2, 3, 10, 11, 99_999)]
    assert sorted(names) == names == score_files(reversed(names))
    assert names[0] == SCORES
    assert score_files(["scores/mine.parquet", "scores/scores_2.parquet", "scores.parquet"]) == []


def test_the_files_are_one_table_to_every_reader(out: Output, small: None) -> None:
    """In the folder of the run and by the names in the output; no item is in two of them."""
    run(out, TEXTS, [ANSWER, TOPIC])
    folder, manifest = open_run(out)
    files = score_files(manifest.files)
    assert len(files) == 5
    assert rows(scan_score_files(folder).collect()) == expected_scores(TEXTS, [ANSWER, TOPIC])
    for place in (out, folder):
        glob = f"{place}/scores/*.parquet"
        assert rows(pl.read_parquet(glob)) == expected_scores(TEXTS, [ANSWER, TOPIC])
        assert len(duckdb.sql(f"SELECT * FROM '{glob}'").fetchall()) == 8 * 23
    items = [set(pq.read_table(folder.path(name))["item_id"].to_pylist()) for name in files]
    assert sum(map(len, items)) == len(set().union(*items)) == 23
    assert verify(out) == []


def test_a_smaller_run_leaves_none_of_a_larger_ones_files(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer, more and one again; replaced runs go with all their files."""
    monkeypatch.setattr(score_tables, "ROWS_IN_GROUP", 40)
    monkeypatch.setattr(runs, "GRACE", -runs.GRACE)
    for texts, num_bytes, num_files in ((TEXTS, 1, 3), (TEXTS[:12], 1, 2), (TEXTS, 1, 3), (TEXTS, 1 << 30, 1)):
        monkeypatch.setattr(score_tables, "BYTES_IN_FILE", num_bytes)
        run(out, texts)
        assert len(list(out.path("scores").iterdir())) == num_files
        assert rows(pl.read_parquet(f"{out}/scores/*.parquet")) == expected_scores(texts)
        assert verify(out) == []
    prune(out, dry_run=False)
    (left,) = out.path("runs").iterdir()
    assert left.name in need_manifest(out).folder


def test_no_reader_of_a_glob_sees_a_part_of_a_table(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the switch is made: what a glob finds at each step is the old table, or the new one, or has a name whose
    file is not there (yet, or any more), which no reader takes for a table.
    """
    monkeypatch.setattr(score_tables, "ROWS_IN_GROUP", 40)
    monkeypatch.setattr(score_tables, "BYTES_IN_FILE", 1)
    run(out, TEXTS[:12])
    tables, point = [], Output.point

    def looked_at(self: Output, name: str, target: str) -> bool:
        done = point(self, name, target)
        found = sorted(out.path("scores").glob("*.parquet"))
        if all(path.exists() for path in found):
            tables.append(rows(pl.read_parquet(found)))
        return done

    monkeypatch.setattr(Output, "point", looked_at)
    run(out, TEXTS)
    run(out, TEXTS[:12])
    whole = [expected_scores(TEXTS[:12]), expected_scores(TEXTS)]
    assert tables
    assert all(table in whole for table in tables)


@pytest.mark.parametrize("gone", [SCORES, nth_scores(2)])
def test_verify_misses_a_file_and_finds_rows_out_of_order(out: Output, small: None, gone: str) -> None:
    """Each file is as the manifest says, and the rows rise from file to file."""
    run(out, TEXTS)
    folder, manifest = open_run(out)
    first, second = folder.path(SCORES), folder.path(nth_scores(2))
    kept = shutil.copy(folder.path(gone), out.path("kept"))
    folder.path(gone).unlink()
    assert {finding.problem for finding in verify(out) if finding.name.endswith(gone)} == {"it is missing"}
    shutil.move(kept, folder.path(gone))
    first.rename(out.path("first"))
    second.rename(first)
    out.path("first").rename(second)
    files = {name: digest for name, digest in manifest.files.items() if name not in (SCORES, nth_scores(2))}
    runs.publish(out, folder, manifest.model_copy(update={"files": files}))
    assert ["twice or out of order" in finding.problem for finding in verify(out)] == [True]
