"""A run takes the place of the one before in one step; whoever resolved its folder reads one run, whatever happens."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.errors import InputError, RunError
from pipeline.storing import runs
from pipeline.storing.files import TEMPORARY, Output
from pipeline.storing.history import read_history, write_history
from pipeline.storing.layout import (
    HISTORY,
    ITEMS,
    MANIFEST,
    MARKDOWN,
    PAGE,
    PREDICTIONS,
    PRIORS,
    REJECTED,
    SCORES,
    SET_ASIDE,
)
from pipeline.storing.manifest import need_manifest, read_manifest, write_manifest
from pipeline.storing.runs import begin_run, begun, new_folder, old_folders, publish, run_folders
from pipeline.storing.upkeep import status, verify
from tests.pipeline.storing.stored import ROOT, history_rows, manifest, run, texts_of, wanted, write_items

TEXTS = texts_of(23)
OLDER = "it is not what the manifest says (changed, or a run was cut short)"
CUT_SHORT = "its run is at work, or was cut short"
NO_SCORES = "its columns are not those of this version"  # of the made-up tables here, and all that is wrong with them


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def publish_texts(out: Output, name: str, num_items: int = 50, *, rejected: bool = False) -> None:
    """A run without a store: its items, and scores and predictions that name their text; old and new differ in all."""
    last = begin_run(out)
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
    write_history(folder, last.history, history_rows(name))
    publish(out, folder, manifest([wanted()], num_items, run_id=name))


def make_old(out: Output) -> None:
    """The same run as it was before there were folders."""
    publish_texts(out, "first")
    folder = need_manifest(out).folder
    for name in need_manifest(out).files:
        out.write_bytes(name, out.read_bytes(f"{folder}/{name}"))
    write_manifest(out, need_manifest(out).model_copy(update={"folder": "", "published": ""}))
    for name in out.list(folder):
        out.delete(name)
    out.path("current").unlink()


def run_ids(out: Output) -> set[str]:
    return {need_manifest(out.inside(folder)).run_id for folder in run_folders(out)}


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
        assert {f.problem for f in verify(out)} <= {CUT_SHORT, OLDER, NO_SCORES}
        with out.lock(print):
            begin_run(out)
            assert {f.problem for f in verify(out)} == {NO_SCORES}
            publish_texts(out, "third")
            assert {f.problem for f in verify(out)} == {NO_SCORES}
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert found == sorted(found)  # first, first, ..., second: there is one switch
    assert {"first", "second"} == set(found)
    assert len(found) > 15


STEPS = [(Path, "replace"), (Path, "symlink_to"), (Path, "mkdir"), (Path, "write_bytes"), (os, "fsync")]


def test_a_disk_that_fills_up_at_any_step_leaves_one_whole_run(tmp_path: Path) -> None:
    """The old run or the new one, and nothing half that the next run does not remove before it writes anything."""
    for strike in itertools.count(1):
        out = Output(tmp_path / str(strike))
        publish_texts(out, "first")
        steps = itertools.count(1)

        def full(step: Any, steps: Iterator[int] = steps, strike: int = strike) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(steps) == strike:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return step(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for owner, name in STEPS:
                patch.setattr(owner, name, full(getattr(owner, name)))
            try:
                publish_texts(out, "second")
                struck = None
            except (RunError, OSError) as error:  # OSError: of the items that the test itself writes
                struck = error
        assert isinstance(struck, RunError | OSError | None)
        assert load_run(out.root).manifest.run_id in ("first", "second")
        assert list(joins(load_run(out.root).folder)) == [(50, 0)] * 2
        assert list(joins(out.root)) == [(50, 0)] * 2
        with out.lock(print):
            begin_run(out)
            assert {f.problem for f in verify(out)} == {NO_SCORES}
            publish_texts(out, "third")
        assert load_run(out.root).manifest.run_id == "third"
        if struck is None:
            break
    assert strike > 40


def test_a_replaced_run_stays_for_a_while(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has resolved a folder can go on reading; a run that begins an hour later removes it."""
    publish_texts(out, "first")
    open_long = load_run(out.root)
    publish_texts(out, "second")
    assert list(joins(open_long.folder)) == [(50, 0)] * 2
    assert old_folders(out, need_manifest(out)) == []
    monkeypatch.setattr(runs, "GRACE", timedelta(0))
    publish_texts(out, "third")
    assert not open_long.folder.exists()
    assert run_ids(out) == {"second", "third"}


def test_a_run_is_never_removed_early_because_a_clock_was_put_back(
    out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten minutes with a clock that was a day behind for a while, every reader outlives the run it reads."""
    started = datetime.now(UTC)

    class Clock(datetime):
        minutes = 0
        behind = timedelta(0)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return started + timedelta(minutes=cls.minutes) - cls.behind

    monkeypatch.setattr(runs, "datetime", Clock)
    read = []
    for number, days in enumerate((0, 1, 0, 0, 2, 0)):
        Clock.minutes, Clock.behind = 2 * number, timedelta(days=days)
        publish_texts(out, f"run {number}")
        read.append(load_run(out.root).folder)
        assert [list(joins(folder)) for folder in read] == [[(50, 0)] * 2] * len(read)
    Clock.minutes, Clock.behind = 100, timedelta(0)
    begin_run(out)
    assert run_ids(out) == {"run 5"}


def test_a_users_file_in_the_folder_of_a_run_outlives_it(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed unasked is what a run wrote; `verify` names the file as long as the run is there."""
    publish_texts(out, "first")
    notes = load_run(out.root).folder / "notes.txt"
    notes.write_text("mine")
    assert "notes.txt" in {Path(f.name).name for f in verify(out)}
    publish_texts(out, "second")
    monkeypatch.setattr(runs, "GRACE", timedelta(0))
    begin_run(out)
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]
    assert {f.problem for f in verify(out)} == {NO_SCORES}


def test_a_run_leaves_other_outputs_below_it_alone(out: Output) -> None:
    """`--out data` beside data/runs/sample-demo: what that run is writing now is no leftover, nor a byte of ours."""
    temporary = f"{TEMPORARY}1-{'a' * 16}"
    publish_texts(out, "first")
    ours, theirs = out.path(need_manifest(out).folder), out.path("runs/sample-demo")
    size = status(out).num_bytes
    for folder in (ours, ours / "report", theirs, theirs / "report"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / temporary).write_text("half")
    (theirs / "items.parquet").write_text("whole")
    with out.lock(print):
        begin_run(out)
    found = {folder.relative_to(out.root).as_posix() for folder in out.root.rglob(temporary)}
    assert found == {f"runs/sample-demo/{temporary}", f"runs/sample-demo/report/{temporary}"}
    assert status(out).num_bytes == size


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_a_users_own_current_is_refused_and_left_alone(kind: str, out: Output, tmp_path: Path) -> None:
    """In a new output and in one that is ours: our link goes there, and theirs is not ours to replace."""
    from pipeline.job import remake_report  # with torch, which the processes that are killed here do without

    current = out.path("current")
    for run_id in ("first", "second"):
        if kind == "file":
            current.write_text("mine")
        elif kind == "folder":
            current.mkdir()
            (current / "manifest.json").write_text("{}")
        else:
            current.symlink_to(tmp_path / ("out" if kind == "link" else "gone"))
        for write in (publish_texts, lambda out, _: remake_report(out)):
            with pytest.raises(InputError, match=r"out/current is the name of our link.*move yours elsewhere"):
                write(out, run_id)
        assert read_manifest(out) is None or run_id == "second"
        if kind == "folder":
            shutil.rmtree(current)
        else:
            current.unlink()
        publish_texts(out, run_id)
        current.unlink()


COPIES: dict[str, Callable[[Path, Path], object]] = {
    "cp -r": lambda old, new: shutil.copytree(old, new, symlinks=True),
    "links followed": shutil.copytree,
    "mv": lambda old, new: old.rename(new),
    "tar": lambda old, new: subprocess.run(f"mkdir {new}; tar c -C {old} . | tar x -C {new}", shell=True, check=True),
}


@pytest.mark.parametrize("copy", COPIES)
def test_an_output_may_be_moved_and_copied(copy: str, out: Output, tmp_path: Path) -> None:
    """It is read at its new place as it was, and the next run there publishes; the first output is not touched."""
    publish_texts(out, "first", rejected=True)
    COPIES[copy](out.root, tmp_path / "new")
    new = Output(tmp_path / "new")
    assert load_run(new.root).manifest.run_id == "first"
    assert list(joins(new.root)) == list(joins(load_run(new.root).folder)) == [(50, 0)] * 2
    assert {f.problem for f in verify(new)} == {NO_SCORES}
    publish_texts(new, "second")
    assert load_run(new.root).manifest.run_id == "second"
    assert list(joins(new.root)) == [(50, 0)] * 2
    assert {f.problem for f in verify(new)} == {NO_SCORES}
    assert new.path("current").is_symlink()
    if copy != "mv":
        assert load_run(out.root).manifest.run_id == "first"


def test_without_links_what_is_read_alone_is_copied_and_nothing_old_stays(
    out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an object store: tables are found through the manifest, and none of an older layout stands for new ones."""
    make_old(out)

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        patch.setattr(Path, "hardlink_to", refuse)
        publish_texts(out, "second")
    assert names_in(out) == {HISTORY, MARKDOWN, PAGE, MANIFEST}
    assert out.read_bytes(PAGE) == b"second"
    assert list(joins(load_run(out.root).folder)) == [(50, 0)] * 2
    assert {f.problem for f in verify(out)} == {NO_SCORES}
    publish_texts(out, "third")
    assert list(joins(out.root)) == [(50, 0)] * 2


def test_the_folder_of_a_run_is_no_output_to_write_into(out: Output) -> None:
    """A report made there would change what the manifest vouches for; it is read as any output."""
    from pipeline.job import remake_report

    publish_texts(out, "first")
    found = load_run(out.root)
    for where in (found.folder, out.path("current")):
        for write in (begin_run, remake_report):
            with pytest.raises(
                InputError, match="is the folder of a finished run, which stays as it is; give the output"
            ):
                write(Output(where))
        assert list(joins(load_run(where).folder)) == [(50, 0)] * 2
    assert {f.problem for f in verify(out)} == {NO_SCORES}


def test_a_reader_of_the_link_stays_in_the_run_that_it_led_to(out: Output) -> None:
    """load_run(OUT/current) is not carried along when the link is."""
    publish_texts(out, "first")
    found = load_run(out.path("current"))
    publish_texts(out, "second")
    assert found.items.collect()["text"].str.starts_with("first").all()
    assert list(joins(found.folder)) == [(50, 0)] * 2


def test_readers_need_not_write(out: Output) -> None:
    """A run is opened, looked at and verified where nothing may be written, and nothing is."""
    publish_texts(out, "first")
    folders = [out.root, *(path for path in out.root.rglob("*") if path.is_dir() and not path.is_symlink())]
    before = {path: path.stat().st_mtime_ns for path in out.root.rglob("*")}
    for folder in folders:
        folder.chmod(0o555)
    try:
        for where in (out.root, out.path("current")):
            assert list(joins(load_run(where).folder)) == [(50, 0)] * 2
        assert {f.problem for f in verify(Output(out.root, create=False))} == {NO_SCORES}
        assert status(Output(out.root, create=False)).published
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in out.root.rglob("*")} == before


def test_the_name_of_a_new_folder_is_on_disk_before_anything_names_it(
    out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the manifest may not name a folder that the file system has not got."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    folder = out.inside(new_folder())
    folder.write_bytes(MARKDOWN, b"first")
    assert {str(path) for path in (out.root, out.path("runs"), folder.root, folder.path("report"))} <= set(synced)


def test_only_folders_that_a_run_made_are_removed(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other outputs may lie in a folder called runs; what a killed run began goes, also when it is the newest."""
    out.write_bytes("runs/sample-demo/manifest.json", b"somebody else's")
    out.write_bytes("runs/20990101T000000-0123456789/items.parquet", b"not one of our names")
    out.write_bytes("runs/20990101T000000-01234567/items.parquet", b"begun")
    out.write_bytes("current-notes.txt", b"mine")
    monkeypatch.setattr(runs, "GRACE", timedelta(0))
    publish_texts(out, "first")
    assert "current-notes.txt" in {f.name for f in verify(out)}
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


@pytest.mark.parametrize("nth", [0, 1])
def test_a_store_that_fails_once_does_not_make_a_manifest_damaged(
    out: Output, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """It stays where it is, and the run ends with what the store said."""
    run(out, TEXTS)
    before = out.read_bytes(MANIFEST)
    read, reads = Output.read_bytes, iter(range(100))

    def fails_once(self: Output, name: str) -> bytes:
        if name == MANIFEST and next(reads) == nth:
            raise RunError("the store did not answer in time")
        return read(self, name)

    monkeypatch.setattr(Output, "read_bytes", fails_once)
    with pytest.raises(RunError, match="did not answer in time"):
        begin_run(out)
    monkeypatch.setattr(Output, "read_bytes", read)
    assert out.read_bytes(MANIFEST) == before
    assert not out.list(SET_ASIDE)


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
    ((name, is_finished),) = run_folders(out).items()
    assert (name, is_finished) == (need_manifest(out).folder, True)
    assert abs(datetime.now(UTC) - begun(name)) < timedelta(minutes=1)
    assert out.exists(f"{name}/{PRIORS}") is False
