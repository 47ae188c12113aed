"""A run takes the place of the one before in one step; whoever resolved its folder reads one run, whatever happens."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.errors import RunError
from pipeline.storing import runs
from pipeline.storing.files import Output
from pipeline.storing.history import read_history, write_history
from pipeline.storing.layout import HISTORY, ITEMS, MANIFEST, MARKDOWN, PAGE, PREDICTIONS, PRIORS, REJECTED, SCORES
from pipeline.storing.manifest import need_manifest, read_manifest
from pipeline.storing.runs import begin_run, new_folder, old_folders, publish, run_folders
from pipeline.storing.upkeep import verify
from tests.pipeline.storing.stored import ROOT, history_rows, manifest, run, texts_of, wanted, write_items

TEXTS = texts_of(23)
NO_SCORES = "its columns are not those of this version"  # of the made-up tables here, and all that is wrong with them


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def publish_texts(out: Output, name: str, num_items: int = 50, *, rejected: bool = False) -> None:
    """A run without a store: its items, and scores and predictions that name their text; old and new differ in all."""
    folder = out.inside(new_folder())
    items = folder.path(ITEMS)
    items.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.read_parquet(write_items(items, [f"{name} {i}" for i in range(num_items)]))
    for table in (SCORES, PREDICTIONS):
        with folder.writing(table) as path:
            frame.select("item_id", "text_hash", told=pl.col("text")).write_parquet(path)
    if rejected:
        folder.write_bytes(REJECTED, b"rows")
    folder.write_bytes(MARKDOWN, name.encode())
    folder.write_bytes(PAGE, name.encode())
    write_history(folder, read_history(out), history_rows(name))
    publish(out, folder, manifest([wanted()], num_items, run_id=name))


def make_old(out: Output) -> None:
    """The same run as it was before there were folders."""
    publish_texts(out, "first")
    folder = need_manifest(out).folder
    for name in (*need_manifest(out).files, MANIFEST):
        out.write_bytes(name, out.read_bytes(f"{folder}/{name}"))
    for name in out.list(folder):
        out.delete(name)
    out.path("current").unlink()


def names_in(out: Output) -> set[str]:
    return {name for name in out.list() if not name.startswith(("runs/", "store/"))}


def joins(folder: Path) -> Iterator[tuple[int, int]]:
    """The joins of the documentation through a run's folder: rows, and rows whose text is that of another item."""
    items = pl.scan_parquet(folder / ITEMS)
    for table in (SCORES, PREDICTIONS):
        joined = pl.scan_parquet(folder / table).join(items, on=["item_id", "text_hash"]).collect()
        yield joined.height, joined.filter(pl.col("told") != pl.col("text")).height


def test_a_reader_beside_publications_is_never_refused_and_never_given_a_wrong_pair(out: Output) -> None:
    """Twenty runs are published while two readers resolve, join and resolve again: every join is whole and right."""
    publish_texts(out, "first")
    done, seen, wrong = threading.Event(), [0, 0], []

    def read(reader: int) -> None:
        while not done.is_set():
            try:
                found = load_run(out.root)
                for num_rows, num_wrong in joins(found.folder):
                    if (num_rows, num_wrong) != (50, 0):
                        wrong.append((num_rows, num_wrong))
                seen[reader] += 1
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for reader in readers:
        reader.start()
    for number in range(20):
        publish_texts(out, f"run {number}")
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert min(seen) >= 3


def test_the_names_in_the_output_itself_lead_to_the_last_run(out: Output) -> None:
    """Also by a glob of the score table, in Polars and DuckDB; a file that the last run lacks is not there."""
    publish_texts(out, "first", rejected=True)
    publish_texts(out, "second")
    assert names_in(out) == {SCORES, ITEMS, PREDICTIONS, HISTORY, MARKDOWN, PAGE, MANIFEST}
    glob = str(out.path("scores") / "**/*.parquet")
    for found in (pl.read_parquet(glob), duckdb.sql(f"SELECT * FROM '{glob}'").pl()):
        assert found.height == 50
        assert found["told"].str.starts_with("second").all()
    assert out.read_bytes(PAGE) == b"second"
    assert pl.read_parquet(out.path(HISTORY))["run_id"].to_list() == ["first", "second"]


STRIKE = """
import os, signal, sys
from pipeline.storing import files
from tests.pipeline.storing.test_runs import *
out, strike = Output(sys.argv[1]), int(sys.argv[2])
steps = 0
def counted(function):
    def call(*arguments, **options):
        global steps
        steps += 1
        if steps == strike:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("replace", "unlink", "hardlink_to", "rmdir"):
    setattr(Path, name, counted(getattr(Path, name)))
publish_texts(out, "second")
print(steps)
"""


def test_a_kill_at_any_step_leaves_one_whole_run(tmp_path: Path) -> None:
    """Before the switch the old run, from it on the new one, whole in its folder; the next run tidies up."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    found = []
    for strike in itertools.count(1):
        out = Output(tmp_path / str(strike))
        publish_texts(out, "first")
        command = [sys.executable, "-c", STRIKE, str(out), str(strike)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        found.append(load_run(out.root).manifest.run_id)
        assert list(joins(load_run(out.root).folder)) == [(50, 0)] * 2
        assert list(joins(out.root)) == [(50, 0)] * 2  # the names in OUT/ itself are of one run, too
        assert {f.problem for f in verify(out)} <= {"its run was cut short", "it is not the last run's", NO_SCORES}
        with out.lock(print):
            begin_run(out)
            assert {f.problem for f in verify(out)} <= {"its run was cut short", NO_SCORES}
            publish_texts(out, "third")
            assert {f.problem for f in verify(out)} == {NO_SCORES}
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert found == sorted(found)  # first, first, ..., second: there is one switch
    assert {"first", "second"} == set(found)
    assert len(found) > 15


def test_a_replaced_run_stays_for_a_while(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has resolved a folder can go on reading; after an hour the next run removes it."""
    publish_texts(out, "first")
    open_long = load_run(out.root)
    publish_texts(out, "second")
    assert list(joins(open_long.folder)) == [(50, 0)] * 2
    assert old_folders(out, need_manifest(out).folder) == []
    monkeypatch.setattr(runs, "GRACE", timedelta(0))
    publish_texts(out, "third")
    assert not open_long.folder.exists()
    assert {need_manifest(out.inside(folder)).run_id for folder, _ in run_folders(out)} == {"third"}


def test_only_folders_that_a_run_made_are_removed(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other outputs may lie in a folder called runs; what a killed run began goes, also when it is the newest."""
    out.write_bytes("runs/sample-demo/manifest.json", b"somebody else's")
    out.write_bytes("runs/20990101T000000-0123456789/items.parquet", b"not one of our names")
    out.write_bytes("runs/20990101T000000-01234567/items.parquet", b"begun")
    monkeypatch.setattr(runs, "GRACE", timedelta(0))
    publish_texts(out, "first")
    kept = {name for name in out.list("runs") if not name.startswith(need_manifest(out).folder)}
    assert kept == {"runs/sample-demo/manifest.json", "runs/20990101T000000-0123456789/items.parquet"}


def test_an_output_of_before_there_were_folders_gets_one(out: Output) -> None:
    """Its files lie in OUT/ itself: they are read there, then from a folder, and nobody misses them meanwhile."""
    make_old(out)
    assert need_manifest(out).folder == ""
    assert list(joins(load_run(out.root).folder)) == [(50, 0)] * 2
    assert [f.problem for f in verify(out)] == [NO_SCORES]
    last = begin_run(out)
    assert (last.findings, last.manifest and last.manifest.run_id) == ((), "first")
    moved = load_run(out.root).folder
    assert moved.parent == out.path("runs")
    publish_texts(out, "second")
    assert list(joins(moved)) == [(50, 0)] * 2
    assert list(joins(out.root)) == [(50, 0)] * 2
    assert all(out.path(name).is_symlink() for name in names_in(out) - {MANIFEST})
    assert read_history(out)["run_id"].to_pylist() == ["first", "second"]


def test_predictions_that_are_not_the_manifests_are_not_compared_with(out: Output) -> None:
    """The count of changed predictions leans on them: one flipped bit, and it is left out with a line."""
    publish_texts(out, "first")
    folder = load_run(out.root).folder
    assert begin_run(out).predictions == folder / PREDICTIONS
    data = bytearray((folder / PREDICTIONS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / PREDICTIONS).write_bytes(bytes(data))
    last = begin_run(out)
    assert last.predictions is None
    assert "what changed since that run is not counted" in str(last.findings[0])


def test_a_run_sets_a_damaged_manifest_aside_and_refuses_a_newer_one(out: Output) -> None:
    """What cannot be read is kept and named; what a newer labelscore wrote is not overwritten."""
    run(out, TEXTS)
    assert begin_run(out).findings == ()
    out.write_bytes(MANIFEST, b"torn")
    (finding,) = begin_run(out).findings
    assert "manifest.json: it is damaged or was edited; moved to store/set-aside/damaged-manifest.json" in str(finding)
    assert out.read_bytes("store/set-aside/damaged-manifest.json") == b"torn"
    assert read_manifest(out) is None
    run(out, TEXTS)
    assert read_history(out).num_rows == 2
    out.write_bytes(MANIFEST, b'{"schema_version": 7}')
    with pytest.raises(RunError, match="upgrade labelscore"):
        begin_run(out)


def test_history_grows_by_a_run_once(out: Output) -> None:
    """A run that is recorded twice (its task was retried) has one line."""
    for run_id in ("a", "b", "b", "c"):
        write_history(out, read_history(out), history_rows(run_id))
    assert pl.read_parquet(out.path(HISTORY))["run_id"].to_list() == ["a", "b", "c"]


def test_a_damaged_history_is_set_aside_and_a_new_one_begun(out: Output) -> None:
    """Nothing is lost, and nothing damaged is carried on."""
    run(out, TEXTS)
    data = out.read_bytes(HISTORY)
    out.path(HISTORY).write_bytes(data[: len(data) // 2])
    run(out, TEXTS)
    assert read_history(out).num_rows == 1
    (kept,) = out.list("store/set-aside")
    assert out.read_bytes(kept) == data[: len(data) // 2]


def test_the_folder_of_a_run_says_when_it_was_begun(out: Output) -> None:
    """In UTC, to the second, so that folders are in order of time."""
    publish_texts(out, "first")
    ((name, begun),) = run_folders(out)
    assert name == need_manifest(out).folder
    assert abs(datetime.now(UTC) - begun) < timedelta(minutes=1)
    assert out.exists(f"{name}/{PRIORS}") is False
