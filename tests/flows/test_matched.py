"""What is matched with what: labels with classes, words with classes, files with splits, shots with what is scored.

A figure that is wrong without an error is the worst that can happen here, so each case is a run of the real command.
"""

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundled import sample_path
from pipeline.prompts import AG_NEWS
from pipeline.shots import Example, draw_shots
from tests.flows.conftest import Command, Ended

ORDERS = (AG_NEWS, tuple(sorted(AG_NEWS)), tuple(reversed(AG_NEWS)))
MOOD = """prompt = ["mood"]
[prompts.mood]
template = "Review: {text}\\nThe reviewer is"
"""


def sample_rows(split: str = "test") -> list[tuple[str, str]]:
    """Text and class name of the bundled items."""
    rows = [json.loads(line) for line in sample_path(split).read_text().splitlines()]
    return [(row["text"], AG_NEWS[row["label"]]) for row in rows]


ROWS = sample_rows()[:40]


def parquet(path: Path, texts: Sequence[str], labels: Sequence[Any], names: Sequence[str] | None = None) -> None:
    """A Parquet file, with class names in its footer where they are given."""
    table = pa.table({"text": list(texts), "label": list(labels)})
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}, "text": {"_type": "Value"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def table(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """A CSV file of these rows, the header among them."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predictions(out: str | Path = "out") -> list[tuple[str, str, bool | None]]:
    """Predicted and gold class by name, and whether it is right, of each item under the rule `sum`."""
    found = pl.read_parquet(Path(out) / "report/predictions.parquet").filter(pl.col("rule") == "sum").sort("item_id")
    return found.select("predicted", "gold", "correct").rows()


def refused(done: Ended, *words: str) -> None:
    """Refused in one line with these words, and nothing left behind."""
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1), done
    for word in words:
        assert word in done.complaints[0]
    assert not Path("out").exists()


# Classes by name


def test_the_same_data_gives_the_same_predictions_in_any_format_and_order(labelscore: Command, here: Path) -> None:
    """Formats x class orders x sources of names, all with built-in words."""
    texts, golds = zip(*ROWS, strict=True)
    done = labelscore("run", "--limit", "40", "--out", "plain")
    assert done.code == 0, done
    expected = predictions("plain")
    assert [gold for _, gold, _ in expected] == list(golds)
    for number, names in enumerate(ORDERS):
        ids = [names.index(gold) for gold in golds]
        parquet(here / f"own{number}.parquet", texts, ids, names)
        parquet(here / f"bare{number}.parquet", texts, [float(i) for i in ids])
        table(here / f"bare{number}.csv", [("text", "label"), *zip(texts, (f"{i}.0" for i in ids), strict=True)])
        table(here / f"names{number}.tsv", [("text", "label"), *zip(texts, golds, strict=True)], delimiter="\t")
        lines = [json.dumps({"text": text, "label": i + 1}) for text, i in zip(texts, ids, strict=True)]
        (here / f"from1{number}.jsonl").write_text("\n".join(lines))
        listed = ",".join(names)
        counted = ",".join(f"{i}={name}" for i, name in enumerate(names, 1))
        for file, given in (
            (f"own{number}.parquet", ()),
            (f"bare{number}.parquet", ("--label-names", listed)),
            (f"bare{number}.csv", ("--label-names", listed)),
            (f"names{number}.tsv", ()),
            (f"from1{number}.jsonl", ("--label-names", counted)),
        ):
            done = labelscore("run", "--dataset", file, *given, "--out", "out")
            assert done.code == 0, (file, done)
            assert predictions() == expected, file


def test_ids_from_one_are_named_and_never_scored_shifted(labelscore: Command, here: Path) -> None:
    """Case 01: neither with `--on-bad-row skip` nor where a limit hides the last class; as told, it is right."""
    table(here / "x.csv", [("Class Index", "Title"), *((AG_NEWS.index(gold) + 1, text) for text, gold in ROWS)])
    columns = ("--dataset", "x.csv", "--text-column", "Title", "--label-column", "Class Index", "--out", "out")
    for more in ((), ("--on-bad-row", "skip"), ("--limit", "1"), ("--split", "test[:1]")):
        done = labelscore("run", *columns, *more)
        refused(done, "its labels run from 1 to 4", "--label-names 1=World,2=Sports,3=Business,4=Sci/Tech")
        assert "skip" not in done.err
    (told,) = re.findall(r"--label-names (\S+)", done.err)
    assert labelscore("run", *columns, "--label-names", told).code == 0
    assert [gold for _, gold, _ in predictions()] == [gold for _, gold in ROWS]
    items = pl.read_parquet("out/items.parquet")
    assert items["gold_id"].to_list() == [AG_NEWS.index(gold) + 1 for _, gold in ROWS]  # the file's own ids


def test_a_file_without_a_header_takes_the_names_of_its_columns(labelscore: Command, here: Path) -> None:
    """Case 01: its first line looks like data, which is said; and a header is not taken for data."""
    rows = [(AG_NEWS.index(gold), "a title", text) for text, gold in ROWS]
    table(here / "x.csv", rows)
    refused(labelscore("run", "--dataset", "x.csv", "--out", "out"), "first line looks like data", "--columns")
    assert labelscore("run", "--dataset", "x.csv", "--columns", "label,title,text", "--out", "out").code == 0
    assert pl.read_parquet("out/items.parquet")["text"].to_list() == [text for text, _ in ROWS]
    table(here / "y.csv", [("label", "title", "text"), *rows])
    done = labelscore("run", "--dataset", "y.csv", "--columns", "label,title,text", "--out", "other")
    assert "leave out --columns" in done.complaints[0]


@pytest.mark.parametrize("labels", ['{ good = " happy", bad = " unhappy" }', '{ bad = " unhappy", good = " happy" }'])
def test_the_order_of_lines_in_a_prompts_table_is_no_order_of_ids(labelscore: Command, here: Path, labels: str) -> None:
    """Case 03: the file's ids win."""
    parquet(here / "x.parquet", ["I loved it", "A bore", "Superb", "A joy"], [1, 0, 1, 1], ("bad", "good"))
    (here / "run.toml").write_text(f"{MOOD}labels = {labels}\n")
    assert labelscore("run", "run.toml", "--dataset", "x.parquet", "--out", "out").code == 0
    scores = pl.read_parquet("out/scores/scores.parquet")
    found = scores.select("label_id", "label", "label_words").unique().sort("label_id").rows()
    assert found == [(0, "bad", " unhappy"), (1, "good", " happy")]
    assert [gold for _, gold, _ in predictions()] == ["good", "bad", "good", "good"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_names_that_are_numbers_have_one_meaning(labelscore: Command, here: Path, name: str) -> None:
    """Case 04: 1 to 4 of five stars are asked about; with label_names, or all five, they are what they are."""
    words = ", ".join(f'"{i}" = " {i}"' for i in range(1, 6))
    (here / "run.toml").write_text(f"{MOOD}labels = {{ {words} }}\n")
    (here / "more.toml").write_text("[label_names]\n" + "".join(f'{i} = "{i}"\n' for i in range(1, 6)))

    def write(stars: list[int]) -> None:
        texts = [f"review {i}" for i in range(len(stars))]
        if name.endswith("parquet"):
            parquet(here / name, texts, stars)
        elif name.endswith("csv"):
            table(here / name, [("text", "label"), *zip(texts, stars, strict=True)])
        else:
            rows = [{"text": text, "label": star} for text, star in zip(texts, stars, strict=True)]
            (here / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write([1, 2, 3, 4])
    refused(labelscore("run", "run.toml", "--dataset", name, "--out", "out"), "names or ids", "label_names = {")
    names = ",".join(f"{i}={i}" for i in range(1, 6))
    assert labelscore("run", "run.toml", "--dataset", name, "--label-names", names, "--out", "out").code == 0
    assert [gold for _, gold, _ in predictions()] == ["1", "2", "3", "4"]
    write([5, 2, 3, 4])
    assert labelscore("run", "run.toml", "--dataset", name, "--out", "out").code == 0
    assert [gold for _, gold, _ in predictions()] == ["5", "2", "3", "4"]


def test_files_of_one_folder_are_mapped_by_their_own_names(labelscore: Command, here: Path) -> None:
    """Case 07: ids belong to the file that carries them."""
    (here / "d").mkdir()
    parquet(here / "d/a.parquet", ["He scored", "A vote"], [1, 0], ("politics", "sport"))
    parquet(here / "d/b.parquet", ["He ran", "A law"], [0, 1], ("sport", "politics"))
    (here / "run.toml").write_text(f'{MOOD}labels = {{ sport = " sport", politics = " politics" }}\n')
    assert labelscore("run", "run.toml", "--dataset", "d", "--out", "out").code == 0
    assert [gold for _, gold, _ in predictions()] == ["sport", "politics"] * 2


def test_several_right_classes_are_kept_and_any_of_them_is_right(labelscore: Command, here: Path) -> None:
    """A list of labels; one alone is an ordinary label."""
    labels: list[list[int]] = [[0, 1, 2, 3], [2], [0, 1], []]
    rows = [{"text": text, "label": label} for (text, _), label in zip(ROWS, labels, strict=False)]
    (here / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert labelscore("run", "--dataset", "x.jsonl", "--out", "out").code == 0
    items = pl.read_parquet("out/items.parquet").select("gold_id", "gold", "gold_ids").rows()
    assert items == [(None, None, [0, 1, 2, 3]), (2, "Business", None), (None, None, [0, 1]), (None, None, None)]
    found = predictions()
    assert found[0][2] is True
    assert found[1][2] == (found[1][0] == "Business")
    assert found[2][2] == (found[2][0] in AG_NEWS[:2])
    assert found[3][2] is None


def test_a_class_that_vanishes_by_skipping_is_said(labelscore: Command, here: Path) -> None:
    """Its rows had no text."""
    table(here / "x.csv", [("text", "label"), ("a", 0), ("b", 1), ("", 2), (" ", 2), ("", 0)])
    done = labelscore("run", "--dataset", "x.csv", "--on-bad-row", "skip", "--out", "out")
    assert done.code == 0
    assert "nothing is left of Business (2 rows)" in done.err


# Splits and files


def test_a_split_that_is_not_there_lists_those_found(labelscore: Command, here: Path) -> None:
    """Case 05; a file's own name is a split."""
    (here / "d").mkdir()
    for split in ("train", "validation"):
        table(here / f"d/{split}.csv", [("text", "label"), (f"{split} item", 0)])
    refused(labelscore("run", "--dataset", "d", "--out", "out"), "no split 'test'", "train, validation")
    refused(labelscore("run", "--dataset", "d", "--split", "trian", "--out", "out"), "did you mean 'train'?")
    for split in ("train.csv", "train", "train[:1]"):
        done = labelscore("run", "--dataset", "d", "--split", split, "--out", "out")
        assert done.code == 0, done
        assert "passed over validation.csv" in done.err
        assert pl.read_parquet("out/items.parquet")["text"].to_list() == ["train item"]


def test_every_data_file_of_a_folder_is_read_or_named(labelscore: Command, here: Path) -> None:
    """Case 08: upper-case endings, tabs and compressed files."""
    (here / "d").mkdir()
    table(here / "d/a.csv", [("text", "label"), ("one", 0)])
    table(here / "d/B.CSV", [("text", "label"), ("two", 1)])
    table(here / "d/d.tsv", [("text", "label"), ("four", 3)], delimiter="\t")
    (here / "d/c.csv.gz").write_bytes(gzip.compress(b"text,label\nthree,2\n"))
    (here / "d/notes.txt").write_text("no data")
    done = labelscore("run", "--dataset", "d", "--out", "out")
    assert done.code == 0, done
    assert "passed over notes.txt" in done.err
    assert sorted(pl.read_parquet("out/items.parquet").select("text", "gold_id").rows()) == [
        ("four", 3), ("one", 0), ("three", 2), ("two", 1)
    ]  # fmt: skip


def test_spreadsheets_are_read_or_told_how(labelscore: Command, here: Path) -> None:
    """Case 09: encodings, delimiters, headers with blanks, stray quotes."""
    rows = [("text", "label"), ("Café prices rise", 2), ("Plain text", 0)]
    run = ("run", "--out", "out", "--dataset")
    table(here / "old.csv", rows, encoding="cp1252")
    refused(labelscore(*run, "old.csv"), "--encoding cp1252")
    assert labelscore(*run, "old.csv", "--encoding", "cp1252").code == 0
    assert pl.read_parquet("out/items.parquet")["text"][0] == "Café prices rise"
    table(here / "wide.tsv", rows, delimiter="\t", encoding="utf-16")
    assert labelscore(*run, "wide.tsv").code == 0
    for name, delimiter, words in (("a.csv", ";", "separated by ';'"), ("b.csv", "\t", "rename it to .tsv")):
        table(here / name, rows, delimiter=delimiter)
        assert words in labelscore(*run, name).complaints[0]
    for header in (" label", "Label", "labels"):
        table(here / "near.csv", [("text", header), ("x", 0)])
        assert f"did you mean '{header}'? " in labelscore(*run, "near.csv").complaints[0]
        assert labelscore(*run, "near.csv", "--label-column", header).code == 0
    (here / "stray.csv").write_text('text,label\nfine,0\n"Best" player ever,1\n"open,1\nafter,1\n')
    done = labelscore(*run, "stray.csv")
    for word in ("2 of 4 rows", "row 1: line 3", "row 2: line 4"):
        assert word in done.complaints[0]
    assert labelscore(*run, "stray.csv", "--on-bad-row", "skip").code == 0
    assert pl.read_parquet("out/items.parquet").select("item_id", "text").rows() == [(0, "fine"), (3, "after")]


def test_a_label_that_first_appears_late_counts(labelscore: Command, here: Path) -> None:
    """In JSON lines each record may have other keys."""
    lines = [json.dumps({"text": f"news {i}"} | ({"label": 1} if i == 2500 else {})) for i in range(2501)]
    (here / "x.jsonl").write_text("\n".join(lines))
    assert labelscore("run", "--dataset", "x.jsonl", "--split", "test[2499:]", "--out", "out").code == 0
    assert [gold for _, gold, _ in predictions()] == [None, "Sports"]


# Solved examples


def write_shots(folder: Path, extra: Sequence[tuple[str, str]] = ()) -> None:
    """test.csv of 40 items and train.csv of 40 others, with `extra` rows."""
    for name, rows in (("test", ROWS), ("train", [*sample_rows("train")[:40], *extra])):
        table(folder / f"{name}.csv", [("text", "label"), *((text, AG_NEWS.index(gold)) for text, gold in rows)])


def fingerprint(out: str) -> str:
    """What the scores of a run are stored under; the solved examples are part of it."""
    return str(json.loads((Path(out) / "manifest.json").read_text())["prompts"][0]["fingerprint"])


def test_shots_come_from_the_file_named_and_never_from_what_is_scored(labelscore: Command, here: Path) -> None:
    """Case 06: overlapping rows are left out and counted, and neither limit nor growth changes the draw."""
    write_shots(here, extra=ROWS[:15])
    run = ("run", "--dataset", "test.csv", "--num-shots", "4", "--shots-split")
    done = labelscore(*run, "train.csv", "--limit", "10", "--out", "few")
    assert done.code == 0, done
    assert "15 rows of train.csv were left out because their text is scored" in done.err
    assert labelscore(*run, "train.csv", "--out", "all").code == 0
    write_shots(here)
    assert labelscore(*run, "train.csv", "--out", "clean").code == 0
    assert fingerprint("few") == fingerprint("all") == fingerprint("clean")
    assert labelscore(*run, "train.csv", "--seed", "1", "--out", "seed").code == 0
    assert fingerprint("seed") != fingerprint("all")


def test_shots_from_the_scored_file_or_from_no_file_are_refused(labelscore: Command, here: Path) -> None:
    """The same file by another name, or a split that one file cannot have."""
    write_shots(here)
    (here / "link.csv").symlink_to("test.csv")
    run = ("run", "--dataset", "test.csv", "--num-shots", "4", "--out", "out", "--shots-split")
    refused(labelscore(*run, "test.csv"), "is scored itself")
    refused(labelscore(*run, "link.csv"), "is scored itself")
    refused(labelscore(*run, "train"), "test.csv is one file", "--shots-split")
    refused(labelscore(*run, "trian.csv"), "no such file", "did you mean train.csv?")
    (here / "d").mkdir()
    table(here / "d/rows.csv", [("text", "label"), ("x", 0)])
    folder = ("run", "--dataset", "d", "--num-shots", "4", "--out", "out")
    refused(labelscore(*folder), "is scored itself")


def test_shots_have_the_classes_of_what_is_scored_or_are_refused(labelscore: Command, here: Path) -> None:
    """By name where their file names them; ids that the scored file has not are no other classes."""
    write_shots(here)
    run = ("run", "--dataset", "test.csv", "--num-shots", "4", "--out", "out", "--shots-split")
    rows = sample_rows("train")[:40]
    names = tuple(reversed(AG_NEWS))
    parquet(here / "named.parquet", [text for text, _ in rows], [names.index(gold) for _, gold in rows], names)
    drawn = []
    for source in ("named.parquet", "train.csv"):
        assert labelscore(*run, source).code == 0
        drawn.append(fingerprint("out"))
    assert drawn[0] == drawn[1]  # the same texts with the same words
    table(here / "test.csv", [("text", "label"), *((text, AG_NEWS.index(gold) + 1) for text, gold in ROWS)])
    counted = ",".join(f"{i}={name}" for i, name in enumerate(AG_NEWS, 1))
    assert labelscore(*run, "named.parquet", "--label-names", counted).code == 0
    assert fingerprint("out") == drawn[0]
    table(here / "test.csv", [("text", "label"), *((text, AG_NEWS.index(gold)) for text, gold in ROWS)])
    table(here / "from1.csv", [("text", "label"), *((text, AG_NEWS.index(gold) + 1) for text, gold in rows)])
    assert "run from 1 to 4" in labelscore(*run, "from1.csv").complaints[0]
    table(here / "more.csv", [("text", "label"), *((text, AG_NEWS.index(gold)) for text, gold in rows), ("x", 7)])
    assert "its labels 7 are none of the classes" in labelscore(*run, "more.csv").complaints[0]


def test_a_shots_file_that_may_be_either_of_two_is_asked_about(labelscore: Command, here: Path) -> None:
    """One lies here, another in the data set's folder."""
    (here / "d").mkdir()
    write_shots(here / "d")
    write_shots(here)
    run = ("run", "--dataset", "d", "--num-shots", "4", "--limit", "3", "--shots-split")
    refused(labelscore(*run, "train.csv", "--out", "out"), str(here / "train.csv"), "write the whole path")
    (here / "train.csv").unlink()
    assert labelscore(*run, "train.csv", "--out", "within").code == 0
    assert labelscore(*run, str(here / "d/train.csv"), "--out", "whole").code == 0
    assert fingerprint("within") == fingerprint("whole")


def test_the_first_rows_can_be_the_solved_examples(labelscore: Command, here: Path) -> None:
    """As lm-evaluation-harness draws them; it is another fingerprint."""
    write_shots(here)
    run = ("run", "--dataset", "test.csv", "--num-shots", "3", "--shots-split", "train.csv", "--limit", "5")
    assert labelscore(*run, "--shots-draw", "first", "--out", "out").code == 0
    assert labelscore(*run, "--out", "random").code == 0
    assert fingerprint("out") != fingerprint("random")


def test_growth_that_changes_the_draw_says_what_is_scored_again(labelscore: Command, here: Path) -> None:
    """A solved example has become an item, so that another takes its place."""
    write_shots(here)
    run = ("run", "--dataset", "test.csv", "--num-shots", "4", "--shots-split", "train.csv", "--out", "out")
    assert labelscore(*run).code == 0
    train = [Example(text, {"text": text}, AG_NEWS.index(gold)) for text, gold in sample_rows("train")[:40]]
    drawn = draw_shots(train, num_shots=4, label_names=AG_NEWS, seed=0)
    with (here / "test.csv").open("a", newline="") as file:
        csv.writer(file).writerow((drawn[0].text, drawn[0].place))
    done = labelscore(*run)
    assert "'answer' has other solved examples than in the last run: 44 texts are scored again" in done.err
    assert "1 rows of train.csv were left out" in done.err
    assert "solved examples than" not in labelscore(*run).err


# What Prefect takes


def test_only_what_a_run_uses_is_passed_to_prefect_and_too_much_is_one_line(labelscore: Command, here: Path) -> None:
    """Its limit of 512 KiB for parameters was a page of traceback."""
    long = "word " * 60_000

    def write(used: str) -> None:
        prompts = "".join(f'[prompts.p{i}]\ntemplate = "{long}{{text}}"\nlabels = ["a", "b"]\n' for i in range(4))
        (here / "run.toml").write_text(f"prompt = {used}\nlimit = 5\n{prompts}")

    write('["answer"]')
    assert labelscore("run", "run.toml", "--out", "small").code == 0
    write('["p0", "p1"]')
    refused(labelscore("run", "run.toml", "--out", "out"), "Prefect takes", "bytes", "shorten its prompts")


# Outputs


def test_an_output_whose_data_set_changes_says_so(labelscore: Command, here: Path) -> None:
    """And two data sets have two outputs where nobody named one."""
    for folder in ("a", "b"):
        (here / folder).mkdir()
        table(here / folder / "x.csv", [("text", "label"), (f"{folder} item", 0)])
        assert labelscore("run", "--dataset", f"{folder}/x.csv").code == 0
    assert len(list((here / "data/runs").iterdir())) == 2
    assert labelscore("run", "--dataset", "a/x.csv", "--out", "out").code == 0
    again = labelscore("run", "--dataset", "a/x.csv", "--out", "out")
    assert "until now" not in again.err
    other = labelscore("run", "--dataset", "b/x.csv", "--out", "out")
    assert f"out held {here / 'a/x.csv'} (test) until now; from this run on" in other.err
