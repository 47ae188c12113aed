"""The bundled items: what they promise, and that they are found."""

import itertools
import json
import re
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline import bundled
from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS
from tests.conftest import ROOT


def read_rows(split: str) -> list[dict[str, object]]:
    lines = bundled.sample_path(split).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_texts(split: str) -> list[str]:
    return [str(row["text"]) for row in read_rows(split)]


def plain_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@pytest.mark.parametrize("split", bundled.SPLITS)
def test_items_have_ag_news_form(split: str) -> None:
    """Each line holds a text of 20 to 50 words and a class id, and nothing else."""
    for row in read_rows(split):
        assert row.keys() == {"text", "label"}
        assert isinstance(row["text"], str)
        assert row["text"] == row["text"].strip()
        assert 20 <= len(row["text"].split()) <= 50
        assert row["label"] in range(len(AG_NEWS))


@pytest.mark.parametrize(("split", "at_least"), [("test", 240), ("train", 80)])
def test_classes_are_even_from_the_first_row_on(split: str, at_least: int) -> None:
    """A limit of any size sees each class about as often as the others."""
    labels = [row["label"] for row in read_rows(split)]
    assert len(labels) >= at_least
    assert set(Counter(labels).values()) == {len(labels) // len(AG_NEWS)}
    assert set(Counter(labels[:40]).values()) == {10}


def test_no_item_occurs_twice() -> None:
    """Over both splits every text is a text of its own, whatever its case and punctuation."""
    texts = [" ".join(plain_words(text)) for split in bundled.SPLITS for text in read_texts(split)]
    assert len(set(texts)) == len(texts)


def test_no_run_of_eight_words_of_a_held_out_item_was_trained_on() -> None:
    """Held-out items share words with the training text, but no passage."""

    def passages(texts: list[str]) -> set[tuple[str, ...]]:
        words = [plain_words(text) for text in texts]
        return {tuple(ws[i : i + 8]) for ws in words for i in range(len(ws) - 7)}

    phrases = bundled.bundled_path("phrases.toml").read_text(encoding="utf-8")
    assert not passages(read_texts("test")) & passages([*read_texts("train"), *phrases.split(",")])


def test_the_note_gives_the_true_figures() -> None:
    """Reports quote the note, so its counts must be those of the files."""
    tables = tomllib.loads(bundled.bundled_path("phrases.toml").read_text(encoding="utf-8"))
    num_phrases = sum(len(re.findall(r"[^,]+,?", tables[name]["phrases"].strip())) for name in AG_NEWS)
    assert f"{len(read_rows('train'))} news items" in bundled.DEMO_NOTE
    assert f"{round(num_phrases, -2):,} phrases" in bundled.DEMO_NOTE


def test_an_unknown_split_is_an_input_error() -> None:
    """The message names the splits there are."""
    with pytest.raises(InputError, match="'dev'; use one of test, train"):
        bundled.sample_path("dev")


def test_a_wheel_s_folder_is_looked_into_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a wheel the files lie in the package; a folder `data` beside it belongs to somebody else."""
    inside, beside = tmp_path / "_bundled" / "sample", tmp_path / "data" / "sample"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        (folder / "test.jsonl").touch()
    monkeypatch.setattr(bundled, "_FOLDERS", (inside, beside))
    assert bundled.sample_path("test") == inside / "test.jsonl"


def test_an_installation_without_the_files_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the places looked into and the way out."""
    monkeypatch.setattr(bundled, "_FOLDERS", (tmp_path,))
    with pytest.raises(InputError, match="reinstall labelscore"):
        bundled.demo_model_path()


def test_a_name_of_ours_that_a_model_s_folder_has_too_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two is not meant, and its scores would be wrong without a word; a folder without a model is none."""
    monkeypatch.chdir(tmp_path)
    for name in bundled.MODELS:
        Path(name).mkdir()
    assert bundled.named_model("demo") == bundled.demo_model_path()
    for name, file in itertools.product(bundled.MODELS, ("config.json", "adapter_config.json", "model.gguf")):
        Path(name, file).touch()
        with pytest.raises(InputError, match=f"^{name}: .* write --model ./{name} for the folder"):
            bundled.named_model(name)
        Path(name, file).unlink()
    assert bundled.named_model("./demo") is None
    assert bundled.named_model("google/gemma-2b") is None


def contents(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files of the archive that pip would install."""
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(folder / getattr(build, kind)(str(folder))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_carries_what_the_lookup_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample lies where an installed package looks for it; of the folder `data` there is nothing else."""
    names = contents("build_wheel", tmp_path, monkeypatch)
    inside = bundled._FOLDERS[0].relative_to(ROOT)
    sample = ROOT / "data" / "sample"
    bundle = {str(inside / path.relative_to(sample)) for path in sample.rglob("*") if path.is_file()}
    assert {name for name in names if "_bundled" in name} == bundle
    assert {"flows/cli.py", "pipeline/config.py", "pipeline/presets/gemma.toml"} <= names
    assert not {name for name in names if name.startswith("data") or "demo.py" in name}


def test_an_editable_install_leaves_no_package_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `pipeline` beside it would be found, empty, where the checkout has gone."""
    names = contents("build_editable", tmp_path, monkeypatch)
    assert {name for name in names if ".dist-info/" not in name} == {"_labelscore.pth"}
