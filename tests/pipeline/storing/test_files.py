"""Files are complete or absent, one run at a time holds the lock, and nothing leaves the output."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.storing.files import LOCK, TEMPORARY, Output
from tests.pipeline.storing.stored import ROOT, start


def all_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    """What is written under a name is what that name holds, and listing shows it with its size."""
    out = Output(tmp_path / "deep" / "out")
    out.write_bytes("a/b.txt", b"one")
    out.write_bytes("a/b.txt", b"three")
    assert out.read_bytes("a/b.txt") == b"three"
    assert out.list() == {"a/b.txt": 5}
    assert out.exists("a/b.txt")
    assert not out.exists("a/c.txt")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """An error inside `writing` replaces nothing and removes its temporary file."""
    out = Output(tmp_path)
    out.write_bytes("table", b"old")
    with pytest.raises(ZeroDivisionError), out.writing("table") as path:
        path.write_text(f"half {1 / 0}")
    assert out.read_bytes("table") == b"old"
    assert all_files(tmp_path) == {"table"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", "..", "a\0b"])
def test_names_cannot_leave_the_output(tmp_path: Path, name: str) -> None:
    """A name is relative and goes down only."""
    out = Output(tmp_path / "out")
    for use in (out.read_bytes, out.exists, out.delete, lambda n: out.write_bytes(n, b"x")):
        with pytest.raises(InputError, match="no name inside"):
            use(name)
    assert all_files(tmp_path) == set()


def test_moving_never_overwrites(tmp_path: Path) -> None:
    """A file set aside twice under one name is there twice."""
    out = Output(tmp_path)
    for content in (b"1", b"2"):
        out.write_bytes("x", content)
        out.move("x", "aside/x")
    assert out.read_bytes("aside/x") + out.read_bytes("aside/x-2") == b"12"
    assert not out.exists("x")


def test_deleting_is_idempotent_and_takes_empty_folders_along(tmp_path: Path) -> None:
    """A deleted file may be deleted again; a folder goes with its last file, never with another."""
    out = Output(tmp_path)
    out.write_bytes("a/b/x", b"")
    out.write_bytes("a/y", b"")
    for _ in range(2):
        out.delete("a/b/x")
    assert not (tmp_path / "a/b").exists()
    assert out.exists("a/y")


@pytest.mark.parametrize("location", ["file/out", "/proc/labelscore", "/dev/null/out", "ftp://host/out", "out\0"])
def test_a_location_that_cannot_be_used_is_an_input_error(tmp_path: Path, location: str) -> None:
    """A path below a file, a read-only place, or a store whose PUT is not atomic: one line that says what to do."""
    (tmp_path / "file").write_text("")
    where = location if location.startswith(("/", "ftp")) else tmp_path / location
    with pytest.raises(LabelscoreError, match=r"choose another --out|use a directory") as error:
        Output(where)
    assert "\n" not in str(error.value)


def test_a_reader_does_not_create_what_it_should_read(tmp_path: Path) -> None:
    """Opening an output that is not there, to read it, says so and makes nothing."""
    with pytest.raises(InputError, match="no such output directory"):
        Output(tmp_path / "gone", create=False)
    assert not (tmp_path / "gone").exists()


def test_file_urls_are_local_directories(tmp_path: Path) -> None:
    """file:///x is the directory /x."""
    Output(f"file://{tmp_path}/out").write_bytes("x", b"")
    assert (tmp_path / "out/x").exists()


DISK_FULL = """
import resource, sys
from pipeline.errors import RunError
from pipeline.storing.files import Output
out = Output(sys.argv[1])
out.write_bytes("kept", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    out.write_bytes("kept", b"x" * 2000)
except RunError as error:
    print(error)
"""


def run_code(code: str, *arguments: str | Path) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "pipeline")])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_full_disk_is_one_line_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    """With a limit on file sizes (a full disk to the program) the old file stays and nothing lies beside it."""
    line = run_code(DISK_FULL, tmp_path)
    assert "File too large; free some space and run again" in line
    assert line.count("\n") == 1
    assert all_files(tmp_path) == {"kept"}
    assert Output(tmp_path).read_bytes("kept") == b"old"


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux")
def test_a_really_full_disk_is_one_line_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    """The same on a tmpfs of 64 KB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        out = Output(tmp_path)
        out.write_bytes("kept", b"old")
        with pytest.raises(RunError, match="No space left on device; free some space"):
            out.write_bytes("kept", b"x" * 100_000)
        assert all_files(tmp_path) == {"kept"}
        assert out.read_bytes("kept") == b"old"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_lock_waits_for_its_holder_and_says_for_whom(tmp_path: Path) -> None:
    """A second process waits, with one line that names the first, and goes on when the first lets go."""
    first = start("hold", tmp_path)
    assert first.stdout
    assert first.stdout.readline() == "held\n"
    second = start("hold", tmp_path)
    assert second.stdout
    try:
        line = second.stdout.readline()
        assert f"process {first.pid} (since 2" in line
        assert "waiting for it to finish" in line
        first.send_signal(signal.SIGKILL)  # a dead process does not block: the kernel has freed its lock
        assert second.stdout.readline() == "held\n"
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_lock_file_of_another_time_does_not_block(tmp_path: Path) -> None:
    """The file is only where the lock lives; whatever a dead holder wrote into it is no lock."""
    (tmp_path / LOCK).write_text('{"pid": 1, "started": "2020-01-01"}')
    lines: list[str] = []
    with Output(tmp_path).lock(lines.append):
        pass
    assert lines == []


def test_taking_the_lock_removes_what_killed_processes_left(tmp_path: Path) -> None:
    """Temporary files and scratch folders go; complete files stay."""
    out = Output(tmp_path)
    out.write_bytes("store/x/part", b"")
    for name in (f"{TEMPORARY}1-{'a' * 16}", f"store/x/{TEMPORARY}23-{'0' * 16}"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f"{TEMPORARY}mine").write_bytes(b"of the user")
    (out.work / "join").mkdir()
    (out.work / "join" / "3").write_bytes(b"scratch")
    assert set(out.list()) == {"store/x/part"}
    with out.lock(lambda line: None):
        assert all_files(tmp_path) == {"store/x/part", LOCK, f"{TEMPORARY}mine"}


def test_an_error_inside_the_lock_frees_it_unchanged(tmp_path: Path) -> None:
    """What fails under the lock is told as it is, and the lock is free again."""
    out = Output(tmp_path)
    with pytest.raises(FileNotFoundError), out.lock(lambda line: None):
        raise FileNotFoundError("mine")
    with out.lock(pytest.fail):
        pass


KILL_MID_WRITE = """
import os, signal, sys
from pipeline.storing.files import Output
out = Output(sys.argv[1])
out.write_bytes("table", b"old")
with out.writing("table") as path:
    path.write_bytes(b"new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """After SIGKILL in the middle of a write the name still holds the old content, and the next holder cleans up."""
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_code(KILL_MID_WRITE, tmp_path)
    assert error.value.returncode == -signal.SIGKILL
    out = Output(tmp_path)
    assert out.read_bytes("table") == b"old"
    assert out.list() == {"table": 3}
    with out.lock(lambda line: None):
        assert all_files(tmp_path) == {"table", LOCK}
