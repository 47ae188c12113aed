"""Opening a run, and the documentation of its files: every column and every query in data/README.md."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.analysis import load_run
from pipeline.errors import InputError, RunError
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import NORMS, norm_sizes
from pipeline.storing.sealed import seal
from tests.conftest import Walk
from tests.pipeline.reporting import tables

DOCUMENT = Path(__file__).resolve().parents[2] / "data" / "README.md"
FOLDER = "data/runs/sample-demo"
NUM_TOOLS = 3  # Polars, DuckDB and pandas answer each question
OTHERS = "## Several columns, and choices of the item"


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the real command over three prompts, where the document has it."""
    folder = tmp_path_factory.mktemp("questions")
    prompts = [option for name in ("answer", "topic", "topic-science") for option in ("--prompt", name)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "flows.cli", "run", "--out", FOLDER, *prompts]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def blocks_of(document: str) -> list[tuple[str, str]]:
    """(number of the question, code) of each block, in order; the first belongs to no question."""
    found = []
    questions = document.partition("## Ten questions")[2].partition(OTHERS)[0]
    for section in re.split(r"^### ", questions, flags=re.MULTILINE):
        number = section.partition(".")[0] if section[:1].isdigit() else ""
        found += [(number, code) for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)]
    return found


def plain(answer: Any) -> pl.DataFrame:
    """An answer of any library as a Polars table with plain types."""
    frame = pl.from_pandas(answer.reset_index(drop=True)) if isinstance(answer, pd.DataFrame) else answer
    return frame.cast({pl.Float32: pl.Float64, pl.UInt32: pl.Int64, pl.Int32: pl.Int64})


@pytest.fixture(scope="module")
def answers(real_run: Path) -> list[tuple[str, pl.DataFrame]]:
    """What every block of the document leaves in `answer`, run from top to bottom as it stands."""
    names: dict[str, Any] = {}
    found, before = [], Path.cwd()
    os.chdir(real_run)
    try:
        for number, code in blocks_of(DOCUMENT.read_text()):
            exec(compile(code, f"{DOCUMENT.name}, question {number}", "exec"), names)
            found.append((number, plain(names["answer"])))
    finally:
        os.chdir(before)
    return found


def test_all_ten_questions_have_answers(answers: list[tuple[str, pl.DataFrame]]) -> None:
    assert list(dict.fromkeys(number for number, _ in answers)) == ["", *map(str, range(1, 11))]
    for number, answer in answers:
        assert answer.height > 0, f"question {number}"


def test_each_question_has_the_same_answer_in_polars_duckdb_and_pandas(
    answers: list[tuple[str, pl.DataFrame]],
) -> None:
    """In the same order of rows and columns; on a run with gaps it is tests/pipeline/reporting/test_questions.py."""
    for number in {number for number, _ in answers}:
        first, *others = [answer for question, answer in answers if question == number]
        assert len(others) == NUM_TOOLS - 1
        for other in others:
            assert other.columns == first.columns
            assert_frame_equal(other, first, check_dtypes=False, rel_tol=1e-9)


def test_an_ensemble_is_over_the_items_of_each_prompt(answers: list[tuple[str, pl.DataFrame]], real_run: Path) -> None:
    ensemble = next(answer for number, answer in answers if number == "6")
    assert ensemble.height == 4
    assert ensemble["n"].unique().to_list() == [load_run(real_run / FOLDER).items.collect().height]


def test_every_file_of_a_run_says_its_version_and_is_sorted_as_it_says(real_run: Path, walk: Walk) -> None:
    """Parts of the store say theirs in their own footer."""
    folders = [real_run / FOLDER, *(walk.folder / "runs" / name for name in ("nli", "quiz"))]
    files = [path for folder in folders for path in folder.rglob("*.parquet") if "store" not in path.parts]
    assert len(files) >= 6 * len(folders)
    for path in files:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata.metadata
            assert metadata[b"schema_version"] == metadata[b"labelscore.schema_version"] == b"2"
            assert list(json.loads(metadata[b"labelscore.columns"])) == file.schema_arrow.names
            order = metadata.get(b"labelscore.sorted_by", b"").decode()
            for number in range(file.num_row_groups):
                said = [column.column_index for column in file.metadata.row_group(number).sorting_columns]
                names = [file.metadata.row_group(number).column(index).path_in_schema for index in said]
                assert ", ".join(names) == order, path
                rows = pl.DataFrame(file.read_row_group(number))
                assert not names or rows.select(names).equals(rows.select(names).sort(names)), path


@pytest.fixture(scope="module")
def other_answers(walk: Walk) -> list[pl.DataFrame]:
    """What each block on several columns and choices leaves in `answer`, beside the runs that the README makes."""
    names: dict[str, Any] = {}
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(walk.folder)
        for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text().partition(OTHERS)[2], flags=re.DOTALL):
            exec(compile(code, f"{DOCUMENT.name}, several columns", "exec"), names)
            found.append(plain(names["answer"]))
    return found


def test_questions_on_several_columns_and_choices_have_answers(other_answers: list[pl.DataFrame]) -> None:
    """No join loses a row; one of them is in Polars, DuckDB and pandas alike."""
    first, polars, duck, pandas, each_choice, by_number, places = other_answers
    assert first.height == 4
    for answer in (polars, duck, pandas):
        assert answer["n"].sum() == 4
        assert_frame_equal(answer, polars, check_dtypes=False)
    assert each_choice.group_by("item_id", maintain_order=True).len()["len"].to_list() == [2, 3, 4]
    assert each_choice.group_by("item_id").agg(pl.col("share").sum())["share"].to_list() == pytest.approx([1, 1, 1])
    assert each_choice.filter("right").sort("item_id")["label"].to_list() == ["honey", "ice", "a house"]
    assert by_number["num_choices"].to_list() == [2, 3, 4]
    assert places.select("predicted", "right").sum().row(0) == (3, 3)


def test_items_have_the_columns_that_their_prompts_use(walk: Walk) -> None:
    """As data/README.md says: in this order, with a hash of the columns as JSON."""
    columns = {"nli": ["premise", "hypothesis"], "quiz": ["question", "options"]}
    for name, used in columns.items():
        items = pl.read_parquet(walk.folder / "runs" / name / "items.parquet")
        own = ["item_choices"] if name == "quiz" else []
        assert items.columns == ["item_id", *used, "gold_id", "gold", "text_hash", "gold_ids", *own, f"hash_{name}"]
        for row in items.iter_rows(named=True):
            values = {column: row[column] for column in used}
            written = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert row[f"hash_{name}"] == hashlib.sha256(written.encode()).hexdigest()
    metrics = pl.read_parquet(walk.folder / "runs" / "quiz" / "report" / "metrics.parquet")
    left_out = DOCUMENT.read_text().partition("**Choices of the item.**")[2].partition("\n")[0]
    assert not set(re.findall(r"`(\w+)`", left_out)) & {*metrics["metric"], *metrics["rule"]}
    assert pl.read_parquet(walk.folder / "runs" / "quiz" / "priors.parquet").is_empty()


def dictionary() -> dict[str, list[str]]:
    """Columns by file, as data/README.md lists them."""
    part = DOCUMENT.read_text().partition("## Data dictionary")[2].partition("## Ten questions")[0]
    sections = [section.partition("\n") for section in re.split(r"^### ", part, flags=re.MULTILINE)[1:]]
    first = {name.strip(): body.partition("That is a run whose prompts read")[0] for name, _, body in sections}
    return {name: re.findall(r"^\| `(\w+)` \|", body, flags=re.MULTILINE) for name, body in first.items()}


def test_the_dictionary_lists_every_column_of_every_file(real_run: Path) -> None:
    """In the order of the files, and no column that is not there."""
    documented = dictionary()
    for path in sorted((real_run / FOLDER).rglob("*.parquet")):
        name = path.relative_to(real_run / FOLDER).as_posix()
        if not name.startswith(("store/", "runs/")):
            assert documented[name] == pl.read_parquet_schema(path).names(), name


def test_a_run_opens_as_lazy_tables(tmp_path: Path) -> None:
    """Nothing is read until it is asked for; the four parts join."""
    out = tables.write_run(tmp_path, 20)
    tables.write_report(out)
    run = load_run(out)
    assert all(isinstance(frame, pl.LazyFrame) for frame in (run.scores, run.items, run.predictions))
    assert run.manifest.model_dump(mode="json").items() <= json.loads((out / "manifest.json").read_text()).items()
    joined = run.predictions.join(run.items, on=["item_id", "text_hash"]).collect()
    assert joined.height == run.predictions.collect().height


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_norms_are_the_sizes_of_the_words_without_one_leading_blank(words: str) -> None:
    choice = words[1:] if words[:1] == " " else words
    assert norm_sizes(words) == (len(choice), len(choice.encode()))
    assert norm_sizes(f" {choice}") == (len(choice), len(choice.encode()))


def test_tables_of_before_there_were_norms_are_given_them(tmp_path: Path) -> None:
    """Columns, their order and every figure are those of a table that has them."""
    words = (" Welt", " Spörts", "Bücher", "  科学")
    whole = tables.write_run(tmp_path / "now", 40, words=words)
    before = tables.write_run(tmp_path / "before", 40, words=words)
    file = before / "scores" / "scores.parquet"
    pl.read_parquet(file).drop(NORMS).write_parquet(file)
    reports = [tables.write_report(out) for out in (whole, before)]
    assert_frame_equal(*(report.summary for report in reports))
    assert_frame_equal(*(load_run(out).scores.collect() for out in (whole, before)))


def test_tables_of_two_runs_do_not_open_as_one(tmp_path: Path) -> None:
    """A run that was killed while it published left another table, or an old report, beside the manifest."""
    out = tables.write_run(tmp_path / "run", 20)
    tables.write_report(out)
    names = ("scores/scores.parquet", "items.parquet", "report/predictions.parquet")
    files = {name: hash_file(out / name) for name in names}
    tables.change_manifest(out, files=files)
    load_run(out)
    for name in names:
        whole = (out / name).read_bytes()
        (out / name).write_bytes(tables.write_run(tmp_path / "other", 21).joinpath("items.parquet").read_bytes())
        with pytest.raises(RunError, match=rf"{name} is not the one that manifest.json names.*run again"):
            load_run(out)
        (out / name).write_bytes(whole)
    del files[names[-1]]
    tables.change_manifest(out, files=files)
    with pytest.raises(InputError, match=r"no report/predictions.parquet of its last run"):
        load_run(out)


def test_what_is_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such output directory"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no finished run"):
        load_run(tmp_path)
    out = tables.write_run(tmp_path / "run", 10)
    with pytest.raises(InputError, match="labelscore report"):
        load_run(out)
    Output(out).write_bytes("manifest.json", seal({"schema_version": 1}))
    with pytest.raises(InputError, match="run_id: Field required"):
        tables.write_report(out)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(RunError, match="schema version 99"):
        load_run(out)
    manifest.write_text("{")
    with pytest.raises(RunError, match="is damaged or was edited"):
        load_run(out)
