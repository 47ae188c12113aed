"""Where outputs may lie: the owner of an environment says it, and nothing is written elsewhere."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storing.files import Output, check_location
from pipeline.storing.roots import ROOTS, refuse_outside


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where outputs may lie, beside two places of a bucket."""
    root = tmp_path / "out"
    root.mkdir()
    monkeypatch.setenv(ROOTS, f"{root}/, s3://bucket/a/,s3://whole")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    "inside",
    ["", "nightly", "new/deep", "../out/nightly", "with,comma", "file://{root}/nightly", "{root}", "{root}//x/", "./x"],
)
def test_an_output_inside_is_taken(allowed: Path, inside: str) -> None:
    """The place itself and all below it, however that is written; relative names count from where the run is."""
    refuse_outside(inside.format(root=allowed) or str(allowed))


@pytest.mark.parametrize("inside", ["s3://bucket/a", "s3://bucket/a/night", "s3a://bucket/a/b/c/", "s3://whole/x"])
def test_an_object_store_is_compared_by_whole_names(allowed: Path, inside: str) -> None:
    """s3a is the same store as s3."""
    refuse_outside(inside)


@pytest.mark.parametrize(
    "outside",
    [
        "{root}side", "..", "../outside", "/", "{root}/../other", "file://{root}side", "file:///etc", "away/x",
        "s3://bucket", "s3://bucket/ab", "s3://bucket/a/../b", "s3://bucket/a/./../../x", "s3://bucket//a", "s3://other/a",
        "s3://wholesale/x", "gs://bucket/a", "s3://bucket/a%2F..%2Fb", "s3://bucket/a?x=../b", "s3://bucket/a::file:///etc",
        "s3://key@bucket/a", "loop/x", "nul\0/x",
    ],
)  # fmt: skip
def test_an_output_outside_is_refused(allowed: Path, tmp_path: Path, outside: str) -> None:
    """A longer name is another place, links and `..` are followed, and what can be read in two ways is outside."""
    (tmp_path / "elsewhere").mkdir()
    (allowed / "away").symlink_to(tmp_path / "elsewhere")
    (allowed / "loop").symlink_to("loop")
    location = outside.format(root=allowed)
    for refuse in (refuse_outside, check_location):
        with pytest.raises(InputError, match=rf"{ROOTS} allows {allowed}/, s3://bucket/a/, s3://whole"):
            refuse(location)


def test_nothing_is_made_outside_and_nothing_there_is_written(allowed: Path, tmp_path: Path) -> None:
    """Neither a new folder nor an output that is there already, whose files may still be read."""
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(InputError, match=ROOTS):
        Output(elsewhere)
    assert not elsewhere.exists()
    elsewhere.mkdir()
    there = Output(elsewhere, create=False)
    with pytest.raises(InputError, match=ROOTS), there.lock(print):
        pass
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("roots", ["", "  "])
def test_without_places_every_output_is_taken(monkeypatch: pytest.MonkeyPatch, roots: str) -> None:
    """An empty setting is none."""
    monkeypatch.setenv(ROOTS, roots)
    refuse_outside("/anywhere")


def test_a_setting_that_names_no_whole_place_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path would be another place for each run; commas alone are no place."""
    monkeypatch.setenv(ROOTS, "data/runs")
    with pytest.raises(InputError, match="no whole path"):
        refuse_outside("data/runs/x")
    monkeypatch.setenv(ROOTS, ",")
    with pytest.raises(InputError, match="no place at all"):
        refuse_outside("data/runs/x")
