"""Reports of runs of tasks, each of which has items of its own, against plain Python over the same tables."""

import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.analysis import load_run
from pipeline.errors import RunError
from pipeline.prompts import REQUESTS
from pipeline.reporting.document import all_figures
from pipeline.reporting.findings import find
from pipeline.reporting.formats import NONE
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from pipeline.reporting.stats import effective_number, wilson_interval
from pipeline.storing.files import Output
from pipeline.storing.history import write_history
from pipeline.storing.layout import HISTORY_SCHEMA, ITEM_CHOICES, SCORES_SCHEMA, TASK, TASKS_SCHEMA
from pipeline.storing.manifest import need_manifest
from pipeline.storing.runs import begin_run, new_folder, publish
from pipeline.storing.tables import write_table
from pipeline.storing.upkeep import verify
from tests.pipeline.reporting import choices, tables, tasks
from tests.pipeline.reporting.pages import read_html
from tests.pipeline.reporting.test_choices import slow_decision
from tests.pipeline.test_analysis import dictionary

NAMES = tuple(tasks.TASKS)
RULES = ("sum", "mean_token", "mean_char", "mean_byte", "logit")
MANY = {f"subject_{i}": tasks.Task(100_000_000 + 7 * i, 12, 4, shots=5) for i in range(60)}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tasks.write_run(tmp_path_factory.mktemp("tasks"))


def slow_scores(rows: Rows, rule: str) -> list[float]:
    """The rule's score of each choice of one item; an empty choice has the length of a blank."""
    divisor = {
        "mean_token": [row["num_tokens"] for row in rows],
        "mean_char": [len(row["label"] or " ") for row in rows],
        "mean_byte": [len((row["label"] or " ").encode()) for row in rows],
    }
    column = "logit" if rule == "logit" else "logprob"
    return [row[column] / by for row, by in zip(rows, divisor.get(rule, [1] * len(rows)), strict=True)]


def of(rows: Rows, task: str, rule: str = "sum") -> Rows:
    return [row for row in rows if (row["prompt"], row["rule"]) == (task, rule)]


def right_ids(item: dict[str, Any]) -> list[int]:
    return item["gold_ids"] or ([] if item["gold_id"] is None else [item["gold_id"]])


def test_each_rule_predicts_an_item_under_its_own_task_alone(run: Path, report: Report, rows: Rows) -> None:
    """Place, text, verdict, confidence and margin; texts are counted within a task."""
    assert report.rules == RULES
    items, scores = choices.read_items(run), choices.read_choices(run, NAMES)
    assert Counter(row["item_id"] for row in rows) == dict.fromkeys(items, len(RULES))
    copies = Counter((i[TASK], i[REQUESTS.hash_column]) for i in items.values() if right_ids(i))
    for row in rows:
        item = items[row["item_id"]]
        assert row["prompt"] == item[TASK]
        own = scores[row["prompt"], row["item_id"]]
        expected = slow_decision(slow_scores(own, row["rule"]), item["gold_id"])
        assert row["predicted_id"] == expected["predicted_id"]
        assert row["predicted"] == item[ITEM_CHOICES][row["predicted_id"]]
        assert (row["gold_id"], row["gold"], row["gold_ids"]) == (item["gold_id"], item["gold"], item["gold_ids"])
        assert row["correct"] == (row["predicted_id"] in right_ids(item) if right_ids(item) else None)
        assert row["text_hash"] == item[REQUESTS.hash_column]
        assert row["copies"] == (copies[item[TASK], row["text_hash"]] if right_ids(item) else None)
        assert row["tie"] == expected["tie"]
        assert row["confidence"] == pytest.approx(expected["confidence"])
        assert row["margin"] == pytest.approx(expected["margin"])
    assert {row["copies"] for row in rows if row["prompt"] == "pairs"} == {3}


def test_figures_are_over_the_items_of_each_task(run: Path, report: Report, rows: Rows) -> None:
    items, scores = choices.read_items(run), choices.read_choices(run, NAMES)
    for found in report.summary.iter_rows(named=True):
        own = of(rows, found["prompt"], found["rule"])
        judged = [row for row in own if row["correct"] is not None]
        right = sum(row["correct"] for row in judged)
        assert (found["num_items"], found["num_gold"]) == (tasks.TASKS[found["prompt"]].num_items, len(judged))
        assert (found["num_correct"], found["ties"]) == (right, sum(row["tie"] for row in own))
        if not judged:
            assert found["accuracy"] is found["brier"] is found["low"] is None
            continue
        effective = effective_number(len(judged), sum(row["copies"] for row in judged))
        assert found["accuracy"] == right / len(judged)
        assert (found["low"], found["high"]) == pytest.approx(wilson_interval(right, len(judged), effective))
        assert found["num_distinct"] == len({row["text_hash"] for row in judged})
        single = [row for row in judged if row["gold_id"] is not None]
        briers = [
            slow_decision(slow_scores(scores[row["prompt"], row["item_id"]], row["rule"]), row["gold_id"])["brier"]
            for row in single
        ]
        assert (found["num_single"], found["brier"]) == (len(single), pytest.approx(np.mean(briers)))
    for name in NAMES:
        guesses = [Fraction(len(right_ids(i)), len(i[ITEM_CHOICES])) for i in items.values() if i[TASK] == name]
        assert report.chances.get(name, 0.0) == float(sum(guesses) / len(guesses))


def test_what_is_said_of_the_run_are_sums_over_its_tasks(report: Report, rows: Rows) -> None:
    judged = [row for row in rows if row["rule"] == "sum" and row["correct"] is not None]
    assert (report.num_gold, report.num_single) == (70, sum(row["gold_id"] is not None for row in judged))
    assert report.num_single < 70
    assert (report.num_distinct, report.texts_of) == (len({row["text_hash"] for row in judged}), None)
    assert report.num_effective == 40 + 10


def test_rules_are_compared_within_a_task_and_tasks_are_not(report: Report, rows: Rows) -> None:
    """All pairs of all tasks are one family; a task without gold labels is in none."""
    assert report.verdict.prompts.is_empty()
    assert report.verdict.pairs.is_empty()
    arms = report.verdict.arms
    assert set(arms["prompt"]) == {"quiz", "pairs"}
    size = 0
    for name in ("quiz", "pairs"):
        right = {rule: tuple(r["correct"] for r in of(rows, name, rule)) for rule in report.rules}
        differing = len(set(right.values()))
        size += differing * (differing - 1) // 2
        own = arms.filter(pl.col("prompt") == name)
        assert own["num_correct"].to_list() == sorted((sum(r) for r in right.values()), reverse=True)
        assert own["standing"].to_list().count("leads") == 1
        best = right[own["rule"][0]]
        for row in own[1:].iter_rows(named=True):
            assert row["behind"] == pytest.approx((sum(best) - sum(right[row["rule"]])) / len(best))
    assert report.verdict.num_arm_pairs == size


def test_tasks_are_held_against_guessing(report: Report) -> None:
    """Wilson's intervals of all tasks with gold labels together, less the chance of each."""
    found = {row["prompt"]: row for row in report.verdict.baselines.iter_rows(named=True)}
    assert set(found) == {"quiz", "pairs"}
    for row in report.headline.filter(pl.col("num_gold") > 0).iter_rows(named=True):
        ends = wilson_interval(row["num_correct"], row["num_gold"], row["num_effective"], level=0.975)
        chance = report.chances[row["prompt"]]
        assert found[row["prompt"]]["share"] == chance
        assert (found[row["prompt"]]["low"], found[row["prompt"]]["high"]) == pytest.approx(
            [end - chance for end in ends]
        )
    above = [name for name, row in found.items() if row["low"] > 0]
    findings = find(report)
    assert findings is not None
    assert findings.verdict == f"{len(above)} of 2 tasks are above guessing"
    for name, row in found.items():
        assert (f"'{name}'" in " ".join(findings.sentences)) == (row["low"] <= 0)


def test_metrics_have_what_the_harness_makes_of_the_scores(run: Path, report: Report) -> None:
    """Beside ours: the name of its metric, its filter as the label, groups under their own names."""
    metrics = pl.read_parquet(run / "report" / "metrics.parquet")
    theirs = metrics.filter(pl.col("metric").str.starts_with("harness_"))
    expected = {
        (task, f"harness_{metric}", None if kind == "none" else kind, value, n)
        for task, _, metric, kind, value, _, n, _ in tasks.HARNESS
    }
    assert set(theirs.select("prompt", "metric", "label", "value", "n").iter_rows()) == expected
    assert theirs["rule"].null_count() == theirs.height == len(tasks.HARNESS)
    ours = metrics.filter(pl.col("metric") == "accuracy", pl.col("rule") == "sum")
    assert dict(ours.select("prompt", "n").iter_rows()) == {"quiz": 40, "pairs": 30}
    assert_frame_equal(load_run(run).tasks.collect(), report.harness)


def test_the_report_says_task_and_has_no_figure_for_all_of_them(run: Path, report: Report) -> None:
    markdown = (run / "report" / "report.md").read_text()
    summary = tables.summary_of(markdown)
    for words in (
        "# labelscore report: random on 3 tasks",
        "3 tasks of lm-evaluation-harness 0.4.13 with 95 items in all, 70 of them with a gold label.",
        "Tasks share no items, so no one figure is that of the run",
        "- Tasks: quiz, pairs, bare",
        "70 items hold 50 distinct texts, each within its task",
        "No gold labels, and so no accuracy: 'bare'.",
        "Few items: in 'pairs', at 10 distinct texts, an accuracy is uncertain by ",
        "Tasks under the rule 'sum':",
        "Groups of tasks, as lm-evaluation-harness puts them together:",
        "As lm-evaluation-harness 0.4.13 counts: 7 figures",
    ):
        assert words in (markdown if words.startswith("#") else summary), words
    header, rule, *lines = (line for line in summary.split("Tasks under the rule 'sum':")[1].split("\n") if "|" in line)
    titles = [title.strip() for title in header.split("|")[1:-1]]
    assert titles == [
        "task", "items", "accuracy", "95 % interval", "right", "chance", "acc", "acc_norm", "acc (strict)", "mcc",
        "brier_score", "shots", "ties", "cut",
    ]  # fmt: skip
    assert rule.startswith("| ---")
    quiz = dict(zip(titles, (cell.strip() for cell in lines[0].split("|")[1:-1]), strict=True))
    (row,) = report.headline.filter(pl.col("prompt") == "quiz").to_dicts()
    assert quiz["right"] == f"{row['num_correct']} of 40"
    assert quiz["chance"] == f"{100 * report.chances['quiz']:.1f} %"
    assert (quiz["acc"], quiz["acc_norm"], quiz["mcc"], quiz["shots"]) == ("0.5125", "0.4750", NONE, "2")
    assert "| `pairs` | 1.0     |     0 | `acc`         | strict |  0.5500 | yes" in summary
    assert "prompt by prompt" not in markdown.lower()
    assert "Task by task" in markdown
    assert not re.search(r"Every prompt|within each prompt|\| prompt|best of several", markdown)
    assert "<script" not in markdown
    page = read_html((run / "report" / "report.html").read_text())
    (verdict,) = (p for p in page.all("p") if p.attributes.get("class") == "headline")
    assert "tasks are above guessing" in verdict.text
    assert "%" not in verdict.text.replace("95 %", "")
    assert "Task" in [label.text for label in page.all("label")]
    assert "Prompt" not in [th.text for th in page.all("th")]
    figures = {figure.id for section in make_document(report).sections for figure in all_figures(section.blocks)}
    assert {"accuracy", "rules-0", "reliability-1", "length-0"} <= figures


def test_wrong_items_name_the_document_and_show_the_end_of_what_is_asked(run: Path, report: Report) -> None:
    items = choices.read_items(run)
    assert report.wrong["prompt"].unique(maintain_order=True).to_list() == ["quiz", "pairs"]
    (section,) = (section for section in make_document(report).sections if section.id == "items")
    shown = section.blocks[0].instead[1].rows
    first = report.wrong.group_by("prompt", maintain_order=True).head(10)
    for item, row in zip(shown, first.iter_rows(named=True), strict=True):
        assert row["text"] == " | ".join(dict.fromkeys(items[row["item_id"]]["context"]))
        assert (item.kind, item.item_id, item.shows_end) == ("document", row["item_id"] % 10**9, True)
        assert row["labels"] == items[row["item_id"]][ITEM_CHOICES]
    margins = report.wrong.filter(pl.col("prompt") == "quiz")["margin"].to_list()
    assert margins == sorted(margins, reverse=True)
    number = shown[0].item_id
    assert f"- document {number}: predicted **{shown[0].predicted}**" in (run / "report" / "report.md").read_text()
    page = (run / "report" / "report.html").read_text()
    assert f"document&nbsp;{number}" in page
    assert f"quiz {number} | &lt;script&gt;" in page  # behind two solved examples


def test_blocks_of_items_give_the_same_report_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is cut, or several stand in one block."""
    out = tasks.write_run(tmp_path)
    whole, predictions = tables.write_report(out), load_run(out).predictions.collect()
    for size in (30, 130):
        monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", size)
        cut = tables.write_report(out)
        assert_frame_equal(load_run(out).predictions.collect(), predictions)
        # Confidences that are equal but for their last bit are told apart by chance.
        assert_frame_equal(*(report.summary.select(pl.exclude("^accuracy_at.*$")) for report in (whole, cut)))
        assert (whole.chances, whole.num_gold) == (cut.chances, cut.num_gold)


def test_a_task_that_asks_the_same_as_another_has_texts_of_its_own(tmp_path: Path) -> None:
    items = tasks.make_items({"quiz": tasks.TASKS["quiz"]}, np.random.default_rng(1))
    again = items.with_columns(
        item_id=pl.col("item_id") % 10**9 + 10**17, **{TASK: pl.lit("again")}
    )  # the same hashes, and the same gold labels
    both = {"quiz": tasks.TASKS["quiz"], "again": tasks.Task(10**8, 40, 4)}
    report = tables.write_report(tasks.write_run(tmp_path, both, items=pl.concat([again, items]), harness=()))
    assert not report.repeats
    assert report.num_distinct == report.num_gold == 80
    accuracies = report.headline["accuracy"].to_list()
    assert accuracies[0] == accuracies[1]


def test_a_run_of_one_task_leads_with_its_accuracy(tmp_path: Path) -> None:
    one = {"quiz": tasks.TASKS["quiz"]}
    report = tables.write_report(tasks.write_run(tmp_path, one, harness=tasks.HARNESS[:2]))
    summary = tables.summary_of((tmp_path / "report" / "report.md").read_text())
    accuracy = report.headline["accuracy"][0]
    words = f"in the task 'quiz' {report.headline['num_correct'][0]} of 40 items under the rule 'sum'"
    assert f"**{100 * accuracy:.1f} % right** {words}" in summary
    assert "tasks of" not in summary
    assert "Groups" not in summary
    assert "random on quiz" in (tmp_path / "report" / "report.md").read_text()


def test_tasks_without_the_harness_own_figures_are_reported_all_the_same(tmp_path: Path) -> None:
    bare = {"bare": tasks.TASKS["bare"]}
    report = tables.write_report(tasks.write_run(tmp_path, bare, harness=()))
    assert not report.has_gold
    assert report.harness.is_empty()
    assert set(report.metrics["metric"]) == {"ties", "truncated"}
    summary = tables.summary_of((tmp_path / "report" / "report.md").read_text())
    assert "No item has a gold label, so there is no accuracy" in summary


@pytest.mark.parametrize("how", ["another task", "a row too few", "an item too few", "a task too few", "no such task"])
def test_an_item_has_all_its_rows_under_its_own_task_or_there_is_no_report(how: str, tmp_path: Path) -> None:
    out = tasks.write_run(tmp_path)
    file = out / "scores" / "scores.parquet"
    scores, first = pl.read_parquet(file), pl.read_parquet(file)["item_id"][0]
    of_first = pl.col("item_id") == first
    other = pl.when(of_first, pl.col("label_id") == 1).then(pl.lit("quiz")).otherwise("prompt").alias("prompt")
    changed = {
        "another task": (scores.with_columns(other), f"item {first} has 3 label scores under prompt 'bare'"),
        "a row too few": (
            scores[1:],
            f"item {first} has 2 label scores under prompt 'bare', not one for each of its 3",
        ),
        "an item too few": (scores.filter(~of_first), "scores of 24 items under prompt 'bare', .* has 25"),
        "a task too few": (scores.filter(pl.col("prompt") != "pairs"), "scores of 0 items under prompt 'pairs'"),
        "no such task": (scores, "has no items of the task 'bare'"),
    }
    table, words = changed[how]
    write_table(file, SCORES_SCHEMA, [table.to_arrow().cast(SCORES_SCHEMA)])
    if how == "no such task":
        items = pl.read_parquet(out / "items.parquet")
        items.with_columns(pl.col(TASK).replace("bare", "else")).write_parquet(out / "items.parquet")
    with pytest.raises(RunError, match=words):
        tables.write_report(out)
    assert not (out / "report" / "predictions.parquet").exists()


def test_a_report_of_many_tasks_stays_small(tmp_path: Path) -> None:
    """None is drawn for itself, and of each a few wrong items are shown; past runs are bounded, too."""
    harness = [(name, False, metric, "none", 0.5, True, 12, 5) for name in MANY for metric in ("acc", "acc_norm")]
    out = tasks.write_run(tmp_path, MANY, harness=harness)
    report = tables.write_report(out)
    past = [
        report.history_rows.with_columns(pl.lit(f"run-{i}").alias("run_id"), pl.col("finished") - pl.duration(days=i))
        for i in range(1, 40)
    ]
    pl.concat(past).write_parquet(out / "history.parquet")
    report = tables.write_report(out)
    assert report.wrong.group_by("prompt").len()["len"].to_list() == [5] * 60
    figures = [figure.id for section in make_document(report).sections for figure in all_figures(section.blocks)]
    assert figures == ["accuracy", "history-items", "history-changed"]
    assert (out / "report" / "report.html").stat().st_size < 3_000_000
    assert (out / "report" / "report.md").stat().st_size < 1_000_000
    markdown = (out / "report" / "report.md").read_text()
    assert "The 30 oldest are left out here" in markdown
    assert "Ties, each given to the choice that stands first: " in markdown
    assert re.search(r"Items cut at their beginning to fit: \d+ in 60 tasks\.", markdown)
    assert markdown.count("'subject_1'") < 5


def test_history_has_a_line_for_each_task_and_rule(report: Report) -> None:
    rows = report.history_rows
    assert rows.height == len(NAMES) * len(RULES)
    sizes = {(name, rule): tasks.TASKS[name].num_items for name in NAMES for rule in RULES}
    assert {(row["prompt"], row["rule"]): row["num_items"] for row in rows.to_dicts()} == sizes


def test_a_published_run_is_reported_again_from_its_tables_alone(tmp_path: Path) -> None:
    """Under another rule, with what the harness made of it, and without the harness."""
    from pipeline.job import remake_report  # with torch, which the other tests here do without

    out = Output(tmp_path)
    with out.lock(lambda line: None):
        begin_run(out)
        folder = out.inside(new_folder())
        first = tables.write_report(tasks.write_run(folder.root))
        write_history(folder, HISTORY_SCHEMA.empty_table(), first.history_rows.to_arrow())
        publish(out, folder, need_manifest(folder))
        again = remake_report(out, "mean_char")
    assert again.headline_rule == "mean_char"
    assert_frame_equal(first.metrics, again.metrics)
    assert_frame_equal(load_run(tmp_path).tasks.collect(), first.harness)
    assert "Tasks under the rule 'mean_char':" in (tmp_path / "report" / "report.md").read_text()
    assert verify(out) == []


def test_the_dictionary_lists_the_columns_of_tasks() -> None:
    assert dictionary()["tasks.parquet"] == TASKS_SCHEMA.names
