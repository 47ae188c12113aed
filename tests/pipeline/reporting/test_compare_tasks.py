"""Two runs of tasks: those of the same name meet, document by document."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import Run, load_run
from pipeline.errors import InputError
from pipeline.prompts import REQUESTS
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.markdown import render_markdown
from pipeline.storing.layout import TASK
from tests.pipeline.reporting import choices, tables, tasks

QUIZ, PAIRS, BARE = (tasks.TASKS[name] for name in ("quiz", "pairs", "bare"))


def make_run(out: Path, seed: int, some: dict[str, tasks.Task] | None = None, **how: Any) -> Run:
    tables.write_report(tasks.write_run(out, some or tasks.TASKS, seed=seed, **how))
    return load_run(out)


def predictions(run: Run, task: str, rule: str = "sum") -> dict[int, dict[str, Any]]:
    chosen = run.predictions.filter(pl.col("prompt") == task, pl.col("rule") == rule).collect()
    return {row["item_id"]: row for row in chosen.to_dicts()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """B has one task that A has not, and lacks one of A's; of those in both it is of another order."""
    a = make_run(tmp_path_factory.mktemp("a"), 1)
    other = {"more": tasks.Task(712_345_678, 10, 2), "pairs": PAIRS, "quiz": QUIZ}
    rng = np.random.default_rng(1)
    shared = tasks.make_items(tasks.TASKS, rng).filter(pl.col(TASK) != "bare")
    items = pl.concat([shared, tasks.make_items({"more": other["more"]}, rng)]).sort("item_id")
    return a, make_run(tmp_path_factory.mktemp("b"), 2, other, items=items)


def test_tasks_of_both_runs_meet_document_by_document(runs: tuple[Run, Run]) -> None:
    """What is common, and which predictions flipped, against dictionaries."""
    found = compare_runs(*runs)
    a, b = ({task: predictions(run, task) for task in ("quiz", "pairs")} for run in runs)
    assert (found.num_a, found.num_b, found.num_common, found.num_tasks) == (95, 80, 70, 2)
    assert found.num_distinct == 40 + 10
    assert found.comparisons["prompt_a"].to_list() == ["quiz", "pairs"]
    for row in found.comparisons.iter_rows(named=True):
        mine, theirs = a[row["prompt_a"]], b[row["prompt_b"]]
        assert (row["prompt_a"], row["n"]) == (row["prompt_b"], len(mine))
        assert row["only_a"] == sum(mine[i]["correct"] and not theirs[i]["correct"] for i in mine)
        assert row["only_b"] == sum(theirs[i]["correct"] and not mine[i]["correct"] for i in mine)
    flipped = {(t, i) for t, of_a in a.items() for i, row in of_a.items() if row["predicted"] != b[t][i]["predicted"]}
    assert {(row["prompt"], row["item_id_a"]) for row in found.flips.to_dicts()} == flipped
    assert found.flips["item_id_a"].to_list() == found.flips["item_id_b"].to_list()
    surest = [max(row["confidence_a"], row["confidence_b"]) for row in found.flips.to_dicts()]
    assert surest == sorted(surest, reverse=True)
    assert found.flips["prompt"].head(30).n_unique() == 2
    texts = {i: row["context"][0] for i, row in choices.read_items(runs[0].folder).items()}
    assert all(row["text"].startswith(texts[row["item_id_a"]]) for row in found.flips.to_dicts())


def test_the_words_of_a_comparison_are_those_of_tasks(runs: tuple[Run, Run]) -> None:
    words = render_markdown(compare_document(compare_runs(*runs)))
    assert "In both: 2 tasks, 70 items, by their task and all that it asks (50 distinct texts)" in words
    assert "| tasks " in words  # among what differs
    assert "| task " in words.split("Flipped items")[1]
    assert "| document in A |" in words
    assert "…  …" not in words
    assert "<script" not in words


def test_shots_versions_and_the_harness_are_named_where_they_differ(tmp_path: Path) -> None:
    """Other shots are other requests: nothing of that task is common."""
    both = {"quiz": QUIZ, "pairs": PAIRS}
    a = make_run(tmp_path / "a", 1, both)
    other = {"quiz": tasks.Task(QUIZ.number, 40, 4, shots=1), "pairs": PAIRS}
    libraries = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "lm_eval": "0.4.14"}
    b = make_run(tmp_path / "b", 2, other, libraries=libraries)
    found = compare_runs(a, b)
    assert found.num_common == found.comparisons["n"].sum() == 30
    assert found.unpaired == ["'quiz' in A and 'quiz' in B"]
    assert ("lm-evaluation-harness", "0.4.13", "0.4.14") in found.differences
    assert ("solved examples of 'quiz'", "2", "1") in found.differences
    words = render_markdown(compare_document(found))
    assert "Left out, as they ask nothing in common (other documents, solved examples or words): 'quiz' in A" in words
    assert "In both: 1 task, 30 items" in words


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 1, {"quiz": QUIZ}), make_run(tmp_path / "b", 1, {"pairs": PAIRS})
    with pytest.raises(InputError, match=r"have no task in common \(quiz; pairs\)"):
        compare_runs(a, b)


def test_changed_predictions_are_texts_within_a_task(runs: tuple[Run, Run]) -> None:
    found = changed_predictions(runs[0].predictions, runs[1].predictions)
    assert dict(found.select("prompt", "num_common").unique().iter_rows()) == {"quiz": 40, "pairs": 10}
    for row in found.iter_rows(named=True):
        mine, theirs = (
            {p["text_hash"]: p["predicted"] for p in predictions(run, row["prompt"], row["rule"]).values()}
            for run in runs
        )
        assert row["num_changed"] == sum(mine[text] != theirs[text] for text in mine)
    assert REQUESTS.hash_column in runs[0].items.collect_schema()


def test_runs_of_tasks_without_gold_show_what_flipped(tmp_path: Path) -> None:
    found = compare_runs(*(make_run(tmp_path / str(seed), seed, {"bare": BARE}) for seed in (1, 2)))
    assert found.comparisons.is_empty()
    assert found.flips.height > 5
    assert "neither can be called better" in render_markdown(compare_document(found))
