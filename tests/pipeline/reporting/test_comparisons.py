"""Comparisons on the same items: the 2x2 tables, which pairs count, the ranking, and the verdict's baselines."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis import load_run
from pipeline.reporting.agreement import Agreement, AgreementCounter, Arm
from pipeline.reporting.comparisons import all_pairs, compare_pairs, distinct_arms, rank_arms
from pipeline.reporting.report import Report
from pipeline.reporting.stats import Pairs, critical_value, tango_intervals
from tests.pipeline.reporting import tables

NAMES = ("answer", "topic", "n")  # a prompt may have the name of a column


def count(right: np.ndarray) -> Agreement:
    """What arms called 0, 1, ... agree on; `right` (arms, items) bool."""
    counter = AgreementCounter([Arm(str(i), "sum") for i in range(len(right))])
    ones = np.ones(right.shape[1], np.int32)
    counter.add(right, ones, np.arange(right.shape[1], dtype=np.uint64))
    return counter.finish()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), 200, NAMES, seed=2, notebook=True)


@pytest.fixture(scope="module")
def verdicts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[bool]]:
    """Of each prompt and rule whether each item is right, in the order of the items."""
    found: dict[tuple[str, str], list[bool]] = {}
    for row in sorted(rows, key=lambda row: row["item_id"]):
        found.setdefault((row["prompt"], row["rule"]), []).append(row["correct"])
    return found


def test_two_by_two_tables_count_the_items(report: Report, verdicts: dict[tuple[str, str], list[bool]]) -> None:
    """Every pair of prompts under the headline rule, each cell against a count over two lists."""
    pairs = report.verdict.pairs
    assert [*pairs.select("prompt_a", "prompt_b").iter_rows()] == [*combinations(NAMES, 2)]
    assert set(pairs["rule_a"]) == set(pairs["rule_b"]) == {"sum"}
    for row in pairs.iter_rows(named=True):
        both = [*zip(verdicts[row["prompt_a"], "sum"], verdicts[row["prompt_b"], "sum"], strict=True)]
        cells = [(True, True), (True, False), (False, True), (False, False)]
        assert [row["both"], row["only_a"], row["only_b"], row["neither"]] == [both.count(cell) for cell in cells]
        assert row["difference"] == pytest.approx(sum(a - b for a, b in both) / 200)
        table = Pairs(row["both"], row["only_a"], row["only_b"], row["neither"])
        (interval,) = tango_intervals([table], critical_value(3))
        assert (row["low"], row["high"]) == interval


def test_arms_are_all_prompts_under_all_rules_but_the_notebooks(
    report: Report, verdicts: dict[tuple[str, str], list[bool]]
) -> None:
    """Ranked by what they get right; arms that are right on the same items count once in the number of pairs."""
    arms, candidates = report.verdict.arms, {key: right for key, right in verdicts.items() if key[1] != "notebook"}
    assert {*arms.select("prompt", "rule").iter_rows()} == set(candidates)
    assert "notebook" in report.rules
    assert arms["num_correct"].to_list() == sorted((sum(right) for right in candidates.values()), reverse=True)
    differing = len({tuple(right) for right in candidates.values()})
    assert report.verdict.num_arms == differing < arms.height
    assert report.verdict.num_arm_pairs == differing * (differing - 1) // 2
    best = candidates[arms["prompt"][0], arms["rule"][0]]
    for row in arms[1:].iter_rows(named=True):
        right = candidates[row["prompt"], row["rule"]]
        assert row["behind"] == pytest.approx((sum(best) - sum(right)) / 200)
        assert (row["standing"] == "same") == (right == best)
        assert (row["standing"] == "worse") == (row["low"] > 0)


def test_the_notebooks_rule_is_an_arm_where_it_was_asked_for(run: Path) -> None:
    asked = tables.write_report(run, "notebook")
    assert "notebook" in asked.verdict.arms["rule"].to_list()
    tables.write_report(run)


def test_prompts_are_held_against_the_commonest_class(
    report: Report, verdicts: dict[tuple[str, str], list[bool]]
) -> None:
    """Paired, item by item, and all prompts together; the class is the commonest of the items, not one in K."""
    gold = load_run(report.out).items.sort("item_id").collect()["gold_id"]
    commonest = gold.value_counts(sort=True)["gold_id"][0]
    always = (gold == commonest).to_list()
    for row in report.verdict.baselines.iter_rows(named=True):
        right = verdicts[row["prompt"], "sum"]
        assert (row["answer"], row["share"]) == (tables.AG_NEWS[commonest], sum(always) / 200)
        assert row["difference"] == pytest.approx((sum(right) - sum(always)) / 200)
        both = [*zip(right, always, strict=True)]
        pairs = Pairs(both.count((True, True)), both.count((True, False)), both.count((False, True)), 0)
        pairs = Pairs(pairs.both, pairs.only_a, pairs.only_b, 200 - pairs.both - pairs.only_a - pairs.only_b)
        (interval,) = tango_intervals([pairs], critical_value(3 * 4))  # the class is picked on the same items
        assert (row["low"], row["high"]) == interval


@given(st.integers(1, 6), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_standing_never_contradicts_its_interval_or_its_p(arms: int, items: int, seed: int, share: float) -> None:
    """Worse is where the interval of the difference to the leader excludes 0, which is where p is under 5 %."""
    right = np.random.default_rng(seed).random((arms, items)) < share
    agreement = count(right)
    num = arms * (arms - 1) // 2
    ranking = rank_arms(agreement, agreement.arms, num)
    pairs = compare_pairs(all_pairs(agreement, agreement.arms), num)
    by_sides = {frozenset((row["prompt_a"], row["prompt_b"])): row for row in pairs.iter_rows(named=True)}
    assert ranking["num_correct"].is_sorted(descending=True)
    assert ranking["standing"][0] == "leads"
    for row in ranking[1:].iter_rows(named=True):
        pair = by_sides[frozenset((row["prompt"], ranking["prompt"][0]))]
        assert row["low"] <= row["behind"] <= row["high"]
        assert (row["standing"] == "worse") == (row["low"] > 0) == pair["established"] == (pair["p"] < 0.05)
        assert row["high"] > 0


def test_equal_arms_are_never_told_apart_and_may_still_differ_on_other_items() -> None:
    """No discordant item: p is 1, and the interval is not a point."""
    agreement = count(np.array([[True] * 30 + [False] * 20] * 2))
    row = rank_arms(agreement, agreement.arms, 1).row(1, named=True)
    assert (row["standing"], row["behind"]) == ("same", 0.0)
    assert row["low"] == pytest.approx(-row["high"])
    assert row["high"] > 0.05
    assert distinct_arms(agreement, agreement.arms) == [Arm("0", "sum")]


def test_of_equals_the_first_leads() -> None:
    agreement = count(np.array([[True, False, False], [False, True, False], [False, True, True]]))
    assert rank_arms(agreement, agreement.arms, 3)["prompt"].to_list() == ["2", "0", "1"]


def test_what_an_arm_gets_right_does_not_depend_on_where_blocks_are_cut(run: Path, report: Report) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 100)
        cut = tables.write_report(run)
    assert cut.verdict.arms.filter(pl.col("rule") != "batch").equals(
        report.verdict.arms.filter(pl.col("rule") != "batch")
    )
    assert cut.verdict.pairs.equals(report.verdict.pairs)
