"""The benchmark of choosing counts what happened, finds a broken bound, and runs whole on few items."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.bundled import sample_path
from pipeline.choosing.race import BATCH, Race
from tests.benchmarks.choose import main, sections
from tests.benchmarks.choose_others import Counts, halving, upper_bounds
from tests.benchmarks.choose_race import (
    Draws,
    Orders,
    Setting,
    Swapped,
    TwoThresholds,
    most_errors,
    run_race,
    run_races,
)
from tests.benchmarks.choose_report import count_errors
from tests.benchmarks.choose_scores import Scored, read
from tests.benchmarks.command import run_with
from tests.benchmarks.coverage_exact import binomial

PROMPTS = np.array([0, 0, 1, 1])
ACCURACIES = (0.5, 0.6, 0.8, 0.7)


class Reckless(Race):
    """Says that it errs with 5 %, and takes a bound for fifty times that."""

    def __init__(self, prompts: Sequence[int], margin: float, num_items: int | None = None) -> None:
        super().__init__(prompts, margin, num_items)
        self._log_bound -= np.log(50)


def answers(num_items: int = 600, seed: int = 0) -> np.ndarray:
    """(4, items) bool: arms that are right on as many items as ACCURACIES says."""
    rng = np.random.default_rng(seed)
    right = np.arange(num_items) < np.array(ACCURACIES)[:, None] * num_items
    return np.stack([rng.permutation(row) for row in right])


def test_up_to_64_errors_of_1000_are_no_sign_of_a_broken_bound() -> None:
    """The exact binomial limit at 5 %: more come with less than 2.5 %, 64 or more do not."""
    chances = binomial(1000, 0.05)
    assert most_errors(1000) == 64
    assert chances[65:].sum() < 0.025 < chances[64:].sum()


@pytest.mark.parametrize("lead", [0.0, 0.1])
def test_the_race_keeps_its_bound_and_one_whose_bound_is_broken_is_found(lead: float) -> None:
    """Where all are equal, to the last item, and where one is better by the margin exactly."""
    setting = Setting(Swapped(answers(), lead), PROMPTS, 0.1, to_end=lead == 0)
    assert count_errors(run_races(setting, 60))[2] <= most_errors(60)
    with pytest.raises(SystemExit, match="races erred: at most 7 may"):
        count_errors(run_races(replace(setting, make=Reckless), 60))


def test_the_race_names_an_arm_within_the_margin_of_known_truth() -> None:
    for draw in (Draws(answers(2000)), Orders(answers(2000))):
        outcomes = run_races(Setting(draw, PROMPTS, 0.05), 30)
        assert count_errors(outcomes) == [0, 0, 0, 0]
        assert all(one.is_right and one.share < 1 for one in outcomes)


def test_asked_about_the_file_alone_it_is_always_decided() -> None:
    setting = Setting(Orders(answers(200)), PROMPTS, 0.01, whole=True)
    assert all(one.is_right for one in run_races(setting, 10))
    assert not any(one.is_named for one in run_races(replace(setting, whole=False), 10))


def test_processes_change_no_outcome() -> None:
    setting = Setting(Draws(answers()), PROMPTS, 0.05)
    assert run_races(setting, 5) == [run_race(setting, seed) for seed in range(5)]


def test_a_race_costs_the_items_of_each_prompt_while_it_is_in() -> None:
    """Counted anew from the arms that are out."""
    right = answers(2000)
    order = np.random.default_rng(3).permutation(2000)
    race, num_forwards = Race(PROMPTS.tolist(), 0.05), 0
    for start in range(0, 2000, BATCH):
        for prompt in (0, 1):
            num_forwards += BATCH * any(race.out_after[arm] == 0 for arm in range(4) if PROMPTS[arm] == prompt)
        race.add(right[:, order[start : start + BATCH]])
        if race.named is not None:
            break
    assert run_race(Setting(Orders(right), PROMPTS, 0.05), 3).share == num_forwards / (2 * 2000)


def test_two_thresholds_never_end_sooner() -> None:
    setting = Setting(Draws(answers(1000)), PROMPTS, 0.1)
    one_sum, two = run_races(setting, 20), run_races(replace(setting, make=TwoThresholds), 20)
    assert all(one.share <= other.share for one, other in zip(one_sum, two, strict=True))


def test_swapped_arms_are_equal_and_the_lead_is_the_first_ones() -> None:
    """Swapping keeps how many arms are right on an item; the lead adds to the first alone."""
    right = answers(40_000)
    drawn, truth = Draws(right)(np.random.default_rng(0))
    swapped, equal = Swapped(right)(np.random.default_rng(0))
    assert (swapped.sum(axis=0) == drawn.sum(axis=0)).all()
    assert equal.tolist() == pytest.approx([truth.mean()] * 4)
    assert swapped.mean(axis=1) == pytest.approx(equal, abs=0.015)
    ahead, led = Swapped(right, 0.1)(np.random.default_rng(0))
    assert led - equal == pytest.approx([0.1, 0, 0, 0])
    assert ahead.mean(axis=1) == pytest.approx(led, abs=0.015)


def test_halving_is_that_of_karnin_worked_out_by_hand() -> None:
    """Four prompts of one arm, a budget of 16: two rounds of 8, two items each and then four more each.

    After two items the first and the third lead, after six the third alone.
    """
    right = np.array([[1, 1, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]], bool)
    prompts = np.arange(4)
    assert halving(Counts.of(right, prompts), prompts, 16) == 2
    assert halving(Counts.of(right, prompts), prompts, 4 * 7 * 2) == 1


@pytest.mark.parametrize("exploration", [0.1, 1.0])
def test_upper_bounds_in_step_are_those_of_one_forward_at_a_time(exploration: float) -> None:
    some = [Counts.of(answers(80, seed), PROMPTS) for seed in range(3)]
    budgets = [2, 7, 60, 155]
    found = upper_bounds(np.stack([counts.best for counts in some]), exploration, budgets)
    for repetition, counts in enumerate(some):
        seen = [1, 1]
        for number in range(2, max(budgets) + 1):
            means = [counts.best[prompt, seen[prompt]] / seen[prompt] for prompt in (0, 1)]
            if number in budgets:
                best = int(np.argmax(means))
                assert found[budgets.index(number), repetition].tolist() == [best, seen[best]]
            bounds = [
                means[prompt] + np.sqrt(exploration / seen[prompt]) if seen[prompt] < 80 else -np.inf
                for prompt in (0, 1)
            ]
            seen[int(np.argmax(bounds))] += 1


def test_of_a_prompt_the_rule_is_answered_that_was_right_most_often() -> None:
    counts = Counts.of(answers(), PROMPTS)
    for num_items in (1, 50, 600):
        for prompt, own in ((0, [0, 1]), (1, [2, 3])):
            expected = max(own, key=lambda arm: (answers()[arm, :num_items].sum(), -arm))
            assert counts.answer(PROMPTS, prompt, num_items) == expected
            assert counts.best[prompt, num_items] == answers()[expected, :num_items].sum()


def test_items_are_distinct_texts_with_one_gold_and_arms_look_at_one_item_alone(tmp_path: Path) -> None:
    """A real run: of twelve texts one is there twice, and one twice with different labels."""
    rows = pl.read_ndjson(sample_path("test")).select("text", "label").head(12)
    assert rows["label"][1] != rows["label"][0]
    other = rows[1:2].with_columns(label=rows["label"][:1])
    pl.concat([rows, rows[:1], other]).write_ndjson(tmp_path / "data.jsonl")
    options = ("--dataset", str(tmp_path / "data.jsonl"), "--prompt", "topic", "--prompt", "answer")
    run_with(tmp_path / "out", *options)
    scored = read(tmp_path / "out", ["topic", "answer"])
    assert scored.num_items == 11
    assert {name.partition(", ")[2] for name in scored.names}.isdisjoint({"batch", "notebook"})
    assert [int(scored.prompts[place]) for place in (0, -1)] == [0, 1]
    found = load_run(tmp_path / "out").predictions.collect()
    for name, right in zip(scored.names, scored.right, strict=True):
        prompt, rule = name.split(", ")
        own = found.filter(pl.col("item_id") < 12, pl.col("item_id") != 1, prompt=prompt, rule=rule).sort("item_id")
        assert own["correct"].to_list() == right.tolist()


def test_the_sections_say_who_is_cheaper() -> None:
    """Two prompts of which one is far better: all ways find it, and halving pays less."""
    text = "\n".join(sections(Scored(answers(2000), PROMPTS, ("a, x", "a, y", "b, x", "b, y")), 8))
    assert "2,000 items, 2 prompts" in text
    assert "The best is b, x. Less than 2 points below it, itself included: 1." in text
    assert "At the race's own share right successive halving" in text
    assert "cheaper than the race" in text


def test_the_benchmark_runs_whole(shared: Path, tmp_path: Path) -> None:
    """By the real command over a few rows, built-in prompts and one that is not."""
    main(["--items", "24", "--prompts", "6", "--repetitions", "2", "--results", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    assert text.count("## Choosing a prompt and rule\n") == 1
    assert "`python -m tests.benchmarks.choose --items 24 --prompts 6 --repetitions 2`" in text
    assert "24 items, 6 prompts" in text
