"""Damaged and foreign files, seen through the command: named, set aside or refused, and scored again; never believed.

What each byte cut off a part does is held by the store's own tests; here a run meets the damage.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.storing.files import LOCK, WORK, Output
from pipeline.storing.layout import SCORES
from pipeline.storing.upkeep import verify
from tests.flows.conftest import Command
from tests.flows.runs import Nursery

PUBLISHED = (
    SCORES,
    "items.parquet",
    "priors.parquet",
    "history.parquet",
    "report/predictions.parquet",
    "report/report.md",
)
RUN = ("run", "--limit", "20", "--shard-size", "4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Path:
    """An output of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    run = nursery.start([*RUN, "--out", str(folder / "out")], folder / "log")
    assert run.wait() == 0, run.said()
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; its names in OUT/ lead to the files in the run's folder."""
    return Path(shutil.copytree(finished, tmp_path / "out", symlinks=True))


def parts(out: Path) -> list[Path]:
    """The parts of the store."""
    return sorted(path for path in out.glob("store/*/*.parquet") if "set-aside" not in path.parts)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """A sound part under the name of another one."""
    other = next(part for part in parts(path.parents[2]) if part != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, empty, swap])
def test_a_damaged_part_is_named_set_aside_and_scored_again(
    damage: Callable[[Path], None], out: Path, labelscore: Command
) -> None:
    """`verify` tells it; the next run moves it to store/set-aside, scores its texts again and publishes the same."""
    before = pl.read_parquet(out / SCORES)
    part = parts(out)[0]
    damage(part)
    content = part.read_bytes()
    told = labelscore("verify", str(out))
    assert told.code == 1
    assert part.name in told.out + told.err
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0, done
    assert part.name in done.err
    assert "4 to score" in done.err or "3 to score" in done.err
    (aside,) = (out / "store" / "set-aside").iterdir()
    assert aside.read_bytes() == content
    assert labelscore("verify", str(out)).code == 0
    after = pl.read_parquet(out / SCORES)
    assert after.drop("logprob", "logit").equals(before.drop("logprob", "logit"))
    assert after["logprob"].to_list() == pytest.approx(before["logprob"].to_list(), rel=1e-6, abs=1e-5)


def test_a_stray_file_in_the_store_is_named_and_moved_not_deleted(out: Path, labelscore: Command) -> None:
    """What somebody put beside the parts is no score and not ours to delete."""
    stray = parts(out)[0].with_name("notes.txt")
    stray.write_text("mine")
    assert labelscore("verify", str(out)).code == 1
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0
    assert "notes.txt" in done.err
    assert "nothing to score" in done.err
    (aside,) = (out / "store" / "set-aside").iterdir()
    assert aside.read_text() == "mine"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_published_file_is_told_and_published_anew(name: str, out: Path, labelscore: Command) -> None:
    """The manifest knows the hash of every file; a run makes them again from the store, without scoring."""
    flip(out / name)
    told = labelscore("verify", str(out))
    assert told.code == 1
    assert name in told.out + told.err
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0, done
    assert "nothing to score" in done.err
    assert labelscore("verify", str(out)).code == 0


def test_a_missing_manifest_is_told_and_written_again(out: Path, labelscore: Command) -> None:
    """Without it nothing published can be trusted; the store can."""
    (out / "manifest.json").unlink()
    assert labelscore("verify", str(out)).code == 1
    for command in ("report", "prune"):
        done = labelscore(command, str(out))
        assert done.code in (1, 2)
        assert len(done.complaints) == 1
        assert "no finished run" in done.complaints[0]
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0
    assert "nothing to score" in done.err
    assert labelscore("verify", str(out)).code == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema_version": "x"}', b"\x00\xff"])
def test_a_manifest_that_is_none_is_set_aside(content: bytes, out: Path, labelscore: Command) -> None:
    """Readers refuse it in one line; a run names it, moves it aside and writes a new one."""
    (out / "manifest.json").write_bytes(content)
    for command in ("report", "status", "prune"):
        done = labelscore(command, str(out))
        assert done.code == 1
        assert len(done.complaints) == 1
        assert "manifest.json is damaged or was edited" in done.complaints[0]
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0
    assert "manifest.json" in done.err
    assert (out / "store" / "set-aside" / "damaged-manifest.json").read_bytes() == content
    assert labelscore("verify", str(out)).code == 0


def test_a_manifest_that_was_edited_is_not_believed(out: Path, labelscore: Command) -> None:
    """It carries a hash of itself."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["model"]["name"] = "a better model"
    (out / "manifest.json").write_text(json.dumps(manifest))
    done = labelscore("report", str(out))
    assert done.code == 1
    assert "was edited" in done.complaints[0]


def test_a_manifest_of_a_newer_version_is_refused_and_kept(out: Path, labelscore: Command) -> None:
    """Neither readers nor a run touch what a newer labelscore wrote."""
    manifest = json.loads((out / "manifest.json").read_text())
    written = json.dumps({**manifest, "schema_version": 99})
    (out / "manifest.json").write_text(written)
    for arguments in (("report", str(out)), ("status", str(out)), (*RUN, "--out", str(out))):
        done = labelscore(*arguments)
        assert done.code == 1, done
        assert len(done.complaints) == 1
        assert "schema version 99" in done.complaints[0]
        assert "upgrade labelscore" in done.complaints[0]
    assert (out / "manifest.json").read_text() == written


def test_a_manifest_that_contradicts_the_store_is_told(out: Path, labelscore: Command) -> None:
    """Scores that the manifest vouches for and the store lost are scored again; nothing is taken for granted."""
    lost = parts(out)[0]
    lost.unlink()
    shutil.copy(out / "items.parquet", out / SCORES)
    assert labelscore("verify", str(out)).code == 1
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0
    assert "to score" in done.err
    assert labelscore("verify", str(out)).code == 0


# Directories of somebody else


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the lock that a run leaves in its output."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


WRONG = ("--dataset", "missing.csv")
FINGERPRINT = "0123456789abcdef"


@pytest.mark.parametrize("command", [("report", "{}"), ("prune", "{}", "--yes"), ("run", *WRONG, "--out", "{}")])
@pytest.mark.parametrize(
    "name",
    [
        "store/work/thesis.txt",
        "store/x/plan.json",
        f"store/{FINGERPRINT}/plan.json",
        f"store/{FINGERPRINT}/notes.txt",
        "store/notes.txt",
        ".lock",
    ],
)
def test_a_command_that_fails_leaves_what_is_not_ours(
    name: str, command: tuple[str, ...], tmp_path: Path, labelscore: Command
) -> None:
    """Names like those of our scratch files, plans and lock do not make a file ours to clean up."""
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    done = labelscore(*(word.format(out) for word in command))
    assert done.code == 2, done
    assert contents(out) == {name: b"mine"}
    assert not (out / LOCK).exists()


@pytest.mark.parametrize("beside", ["manifest.json", "store/notes.txt"])
@pytest.mark.parametrize("name", ["items.parquet", "report/report.html", "report/report.md", "report/metrics.parquet"])
def test_a_run_does_not_replace_the_files_of_others(
    name: str, beside: str, tmp_path: Path, labelscore: Command
) -> None:
    """A manifest of something else, or a folder called store, does not make a directory ours to write into."""
    for path in (tmp_path / beside, tmp_path / name):
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"name": "my web app"}')
    before = contents(tmp_path)
    done = labelscore(*RUN, "--out", str(tmp_path))
    assert done.code == 2, done
    (line,) = done.complaints
    assert "no run of labelscore wrote there" in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["status", "history", "verify", "report", "prune"])
def test_a_directory_that_is_no_output_is_refused(
    command: str, tmp_path: Path, labelscore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are neither counted nor checked; nor are those of the current directory for want of a name."""
    (tmp_path / "prices.csv").write_text("1,2")
    monkeypatch.chdir(tmp_path)
    for where, words in ((str(tmp_path), "holds no finished run"), ("", "is empty")):
        done = labelscore(command, where)
        assert done.code == 2, done
        (line,) = done.complaints
        assert words in line
        assert done.out == ""


def test_the_status_of_a_run_that_never_finished_is_shown(out: Path, labelscore: Command) -> None:
    """A first run that was killed leaves a store and no manifest; it is an output all the same."""
    for path in (*out.glob("*.*"), *out.glob("*/*.*"), out / "current"):
        path.unlink()
    shutil.rmtree(out / "runs")
    done = labelscore("status", str(out))
    assert done.code == 0, done
    assert "unfinished" in done.out


def test_a_link_to_nothing_is_told_as_one(tmp_path: Path, labelscore: Command) -> None:
    """'File exists' would be true and of no help."""
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for where in ("dangling", "dangling/out"):
        done = labelscore("run", "--out", str(tmp_path / where))
        assert done.code == 2
        (line,) = done.complaints
        assert "dangling is a link to nothing" in line


# A publication that was cut short


@pytest.mark.parametrize("name", [SCORES, "items.parquet", "priors.parquet"])
def test_a_publication_cut_short_is_no_finished_run(
    name: str, out: Path, tmp_path: Path, labelscore: Command, nursery: Nursery
) -> None:
    """A table of another run beside the manifest, as a kill left it when a run had no folder: no report of both."""
    other = tmp_path / "other"
    run = nursery.start(["run", "--limit", "24", "--prompt", "topic", "--out", str(other)], tmp_path / "log")
    assert run.wait() == 0, run.said()
    shutil.copy(other / name, out / name)
    before = contents(out)
    done = labelscore("report", str(out))
    assert done.code == 1, done
    (line,) = done.complaints
    assert name in line
    assert "cut short" in line
    assert "run again" in line
    assert contents(out) == before
    assert labelscore(*RUN, "--out", str(out)).code == 0
    assert labelscore("report", str(out)).code == 0


def test_a_report_is_not_made_with_a_damaged_history(out: Path, labelscore: Command) -> None:
    """It would show a past that was not; one line, and the next run mends it."""
    flip(out / "history.parquet")
    done = labelscore("report", str(out))
    assert done.code == 1, done
    (line,) = done.complaints
    assert "history.parquet is not the one that manifest.json names" in line
    assert "run again" in line


def test_the_folder_of_a_run_is_no_out(out: Path, labelscore: Command) -> None:
    """A run or report there would change what readers of it hold; both are refused before anything is made."""
    folder = labelscore("path", str(out)).out.strip()
    before = contents(out)
    for arguments in (("report", folder), (*RUN, "--out", folder), ("report", str(out / "current"))):
        done = labelscore(*arguments)
        assert done.code == 2, done
        (line,) = done.complaints
        assert "is the folder of a finished run" in line
        assert "give the output that holds it" in line
    assert contents(out) == before


def test_a_copy_for_which_links_were_followed_goes_on(finished: Path, tmp_path: Path, labelscore: Command) -> None:
    """rsync -L, a zip, a cloud folder: `current` is a folder then, and each file is there three times."""
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    assert labelscore("report", str(out)).code == 0
    done = labelscore(*RUN, "--out", str(out))
    assert done.code == 0, done
    assert "nothing to score" in done.err
    assert (out / "current").is_symlink()
    assert labelscore("verify", str(out)).code == 0


def test_a_single_finding_is_counted_as_one(out: Path, labelscore: Command) -> None:
    """`verify` ends with their number, in English."""
    empty(out / "report" / "report.md")
    assert labelscore("verify", str(out)).out.splitlines()[-1] == "1 finding"


# A disk that is full, or may not be written


@pytest.mark.parametrize("max_file_bytes", [2_000, 6_000, 200_000])
def test_a_file_that_cannot_grow_ends_the_run_in_one_line(
    max_file_bytes: int, tmp_path: Path, nursery: Nursery
) -> None:
    """RLIMIT_FSIZE stops the pulling, the scores or the report: one line, no torn file, and the next run goes on."""
    out = tmp_path / "out"
    run = nursery.start([*RUN, "--out", str(out)], tmp_path / "log", max_file_bytes=max_file_bytes)
    assert run.wait() == 1
    assert "Traceback" not in run.said()
    assert [line for line in run.said().splitlines() if "error:" in line and "File too large" in line]
    _goes_on(out, tmp_path, nursery)


def test_a_page_that_cannot_be_written_whole_leaves_the_one_before(out: Path, tmp_path: Path, nursery: Nursery) -> None:
    """`compare --html` with RLIMIT_FSIZE below its size: one line, the old page, and nothing beside it."""
    page = tmp_path / "pages" / "page.html"
    page.parent.mkdir()
    page.write_text("the old page")
    command = ["compare", str(out), str(out), "--html", str(page)]
    run = nursery.start(command, tmp_path / "log", max_file_bytes=20_000)
    assert run.wait() == 2
    assert run.said().startswith(f"labelscore: error: cannot write '{page}': File too large")
    assert [path.read_text() for path in page.parent.iterdir()] == ["the old page"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_in_one_line(small_disk: Path, tmp_path: Path, nursery: Nursery) -> None:
    """The report's page does not fit; what is scored is kept, and with more room the next run only adds the rest."""
    out = small_disk / "out"
    run = nursery.start([*RUN, "--out", str(out)], tmp_path / "log")
    assert run.wait() == 1
    (line,) = (line for line in run.said().splitlines() if "error:" in line)
    assert "No space left on device" in line
    assert "free some space" in line
    assert "Traceback" not in run.said()
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    _goes_on(out, tmp_path, nursery)


def test_a_disk_that_became_read_only_is_told(small_disk: Path, tmp_path: Path, nursery: Nursery) -> None:
    """One line, and exit code 2: the place is wrong, not the run."""
    out = small_disk / "out"
    out.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    run = nursery.start([*RUN, "--out", str(out)], tmp_path / "log")
    assert run.wait() == 2
    (line,) = run.said().splitlines()
    assert "Read-only file system" in line
    assert "--out" in line


def _goes_on(out: Path, folder: Path, nursery: Nursery) -> None:
    for path in out.rglob("*.parquet"):
        if WORK not in path.parts and not path.name.startswith(".tmp-"):
            pl.read_parquet(path)
    again = nursery.start([*RUN, "--out", str(out)], folder / "again")
    assert again.wait() == 0, again.said()
    assert pl.read_parquet(out / SCORES).height == 80
    assert verify(Output(out)) == []
