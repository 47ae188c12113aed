"""The ten questions of data/README.md in Polars, DuckDB and pandas, each against a loop over the rows of the tables.

The run is one that such answers go wrong on: some items have no gold label, some have two, texts repeat, scores are
ties or far below what a float32 makes of them.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.analysis import load_run
from tests.pipeline.reporting import part_labelled, tables
from tests.pipeline.reporting.part_labelled import Answers
from tests.pipeline.test_analysis import DOCUMENT, FOLDER, blocks_of, plain

TOOLS = ("Polars", "DuckDB", "pandas")
QUESTIONS = ("", *map(str, range(1, 11)))


def ask(out: Path) -> dict[tuple[str, str], pl.DataFrame]:
    """What the blocks leave in `answer`, run from top to bottom, by question and tool."""
    names: dict[str, Any] = {}
    found: dict[tuple[str, str], pl.DataFrame] = {}
    asked: Counter[str] = Counter()
    for number, code in blocks_of(DOCUMENT.read_text().replace(FOLDER, str(out))):
        exec(compile(code, f"question {number}", "exec"), names)
        found[number, TOOLS[asked[number]]] = plain(names["answer"])
        asked[number] += 1
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part_labelled.write_run(tmp_path_factory.mktemp("part"))


@pytest.fixture(scope="module")
def answers(out: Path) -> dict[tuple[str, str], pl.DataFrame]:
    return ask(out)


@pytest.fixture(scope="module")
def loops(out: Path) -> Answers:
    return Answers(out)


def test_the_run_has_what_answers_go_wrong_on(out: Path, loops: Answers) -> None:
    rows = pl.DataFrame(loops.headline)
    assert rows["correct"].null_count() > 50
    assert rows.filter(pl.col("gold").is_null(), pl.col("correct").not_()).height > 0
    assert rows.group_by("text_hash").agg(pl.col("correct").is_null().n_unique())["correct"].max() == 2
    assert rows["tie"].sum() > 0
    assert rows.filter(pl.col("tie"), pl.col("correct").not_()).height > 0
    assert load_run(out).scores.select(pl.col("logprob").exp().min()).collect().item() == 0


def test_every_question_is_answered_by_every_tool(answers: dict[tuple[str, str], pl.DataFrame]) -> None:
    assert list(answers) == [(number, tool) for number in QUESTIONS for tool in TOOLS]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("number", QUESTIONS)
def test_an_answer_is_that_of_a_loop_over_the_rows(
    number: str, tool: str, answers: dict[tuple[str, str], pl.DataFrame], loops: Answers
) -> None:
    """The same columns and rows, in the same order."""
    expected, found = loops.answer(number), answers[number, tool].to_dicts()
    assert len(expected) > (1 if number else 0)
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        for column, value in other.items():
            assert row[column] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), column


def test_accuracies_are_those_of_the_report(out: Path, answers: dict[tuple[str, str], pl.DataFrame]) -> None:
    """The first question's, with their numbers of items, are the ones in metrics.parquet."""
    metrics = pl.read_parquet(out / "report" / "metrics.parquet").filter(pl.col("metric") == "accuracy")
    key = ["prompt", "rule"]
    reported = metrics.select(*key, "n", accuracy="value").sort(key)
    for tool in TOOLS:
        assert_frame_equal(answers["1", tool].sort(key), reported, check_dtypes=False)


@pytest.mark.parametrize("prompts", [("answer",), ("answer", "topic")])
def test_without_gold_labels_no_answer_is_made_up(tmp_path: Path, prompts: tuple[str, ...]) -> None:
    """What needs gold labels has no rows, in any tool; what does not is answered."""
    out = tables.write_run(tmp_path, 40, prompts, gold=False)
    tables.write_report(out)
    for (number, _), answer in ask(out).items():
        if number == "":
            assert answer["n"].item() == 0
        elif number == "9":
            assert answer.height > 0
            assert answer.select("with_gold", "sum_right", "pmi_right").sum().row(0) == (0, 0, 0)
        else:
            assert answer.height == (number == "5" and len(prompts) > 1), number


@pytest.fixture(scope="module")
def others(out: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each block on the files themselves leaves in `answer`; `datasets` keeps its copies in a folder that goes."""
    section = DOCUMENT.read_text().partition("## What a file says of itself")[2].partition("## Ten questions")[0]
    names: dict[str, Any] = {}
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        for code in re.findall(r"```python\n(.*?)```", section.replace(FOLDER, str(out)), flags=re.DOTALL):
            exec(compile(code, "what a file says of itself", "exec"), names)
            found.append(names["answer"])
    return found


def test_files_say_of_themselves_what_the_document_shows(others: list[Any]) -> None:
    """In Polars, pyarrow and DuckDB alike."""
    (version, order, meaning), description, pairs, _ = others
    assert (version, order) == ("2", "rule, item_id, prompt")
    assert f"| {meaning} |" in DOCUMENT.read_text()
    assert description == meaning
    assert json.loads(dict(pairs)["labelscore.columns"])["margin"] == meaning
    assert dict(pairs)["schema_version"] == version


def test_datasets_reads_the_rows_of_one_rule(others: list[Any], loops: Answers) -> None:
    *_, found = others
    columns = ("item_id", "prompt", "predicted", "correct")
    assert found.to_list() == [{column: row[column] for column in columns} for row in loops.headline]
