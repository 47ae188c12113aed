"""What is kept in the user's cache: it saves time and decides on nothing else."""

from pathlib import Path

import pytest

from pipeline.storing.cache import cached_text

TEXT = "a \N{SNOWMAN} and more\r\n" * 1000


def make_twice() -> tuple[list[str], int]:
    """The text asked for twice, and how often it was made."""
    made: list[str] = []

    def make() -> str:
        made.append(TEXT)
        return TEXT

    return [cached_text("text-1", make) for _ in range(2)], len(made)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/labelscore/text-1.gz"


def test_it_is_made_once(tmp_path: Path, kept: Path) -> None:
    """And is the same, line ends and all; nothing but the text stays."""
    assert make_twice() == ([TEXT, TEXT], 1)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert make_twice() == ([TEXT, TEXT], 0)


@pytest.mark.parametrize("damage", ["", "cut", "turned", "foreign"])
def test_what_is_damaged_is_made_again(tmp_path: Path, kept: Path, damage: str) -> None:
    """Whatever lies there: nothing of it is ever handed out."""
    make_twice()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    kept.write_bytes(
        {
            "": b"",
            "cut": whole[:middle],
            "turned": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "foreign": b"no gzip at all",
        }[damage]
    )
    assert make_twice() == ([TEXT, TEXT], 1)
    assert kept.read_bytes() == whole


def test_where_nothing_can_be_kept_it_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that is a file, and a user without a home."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert make_twice() == ([TEXT, TEXT], 2)
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert make_twice() == ([TEXT, TEXT], 2)
