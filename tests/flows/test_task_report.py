"""What a terminal shows of a run of tasks."""

from pathlib import Path

import pytest
from rich.console import Console

from flows import terminal
from tests.pipeline.reporting import tables, tasks

NAMES = {
    "mmlu_high_school_european_history": tasks.Task(912_345_678, 30, 4),
    "arc_easy": tasks.Task(712_345_678, 1_200, 4),
    "bare": tasks.TASKS["bare"],
}
METRICS = ("acc", "acc_norm", "brier_score")
HARNESS = [(name, False, metric, "none", 0.25, True, 30, 0) for name in NAMES for metric in METRICS]


def printed(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    """The lines of a report on a terminal so wide."""
    group = ("mmlu", True, "acc", "none", 0.3125, True, 14_042, 5)
    report = tables.write_report(tasks.write_run(out, NAMES, harness=[*HARNESS, group]))
    monkeypatch.setattr(terminal, "out", Console(highlight=False, soft_wrap=True, width=width))
    terminal.print_report(report)
    return capsys.readouterr().out.splitlines()


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The tables, and the verdict that ends what is printed, whose sentences a terminal wraps."""
    (start,) = (i for i, line in enumerate(lines) if " above guessing: " in line)
    assert lines[start - 1] == ""
    return lines[: start - 1], lines[start:]


def test_a_row_a_task_with_the_harness_metrics_and_groups_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, verdict = split(printed(tmp_path, monkeypatch, capsys, 200))
    assert lines[0] == "1,255 items of 3 tasks with random (float32 on cpu)"
    assert "accuracy under the rule 'sum', and what lm-evaluation-harness 0.4.13 counts" in lines
    (titles,) = (line.split() for line in lines if line.startswith("task"))
    assert titles == ["task", "accuracy", "95", "%", "interval", "right", "of", *METRICS]
    (arc,) = (line.split() for line in lines if line.startswith("arc_easy"))
    assert arc[-4:] == ["1,200", "0.2500", "0.2500", "0.2500"]
    (bare,) = (line.split() for line in lines if line.startswith("bare"))
    assert bare == ["bare", "-", "-", "-", "0", "0.2500", "0.2500", "0.2500"]
    assert lines[-2].split() == ["group", "items", "acc"]
    assert lines[-1].split() == ["mmlu", "14,042", "0.3125"]
    assert verdict[0].startswith("0 of 2 tasks are above guessing: under the rule 'sum'")


def test_three_metrics_fit_into_80_columns_and_no_figure_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long name of a task is folded."""
    lines, _ = split(printed(tmp_path, monkeypatch, capsys, 80))
    assert all(len(line) <= 80 for line in lines)
    (arc,) = (line.split() for line in lines if line.startswith("arc_easy"))
    assert len(arc) == 9
    assert arc[-3:] == ["0.2500"] * 3


def test_one_task_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = tables.write_report(tasks.write_run(tmp_path, {"quiz": tasks.TASKS["quiz"]}, harness=()))
    monkeypatch.setattr(terminal, "out", Console(highlight=False, soft_wrap=True, width=80))
    terminal.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 items of quiz with random (float32 on cpu)"
    assert "accuracy under the rule 'sum'" in [line.strip() for line in lines]
