"""Comparisons on the same items: the 2x2 tables, the families and the words."""

from pathlib import Path

import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from pipeline.analysis import load_run
from pipeline.reporting.comparisons import PROMPT_FAMILY, RULE_FAMILY, Side, compare_sides, describe_difference
from pipeline.reporting.report import Report
from pipeline.reporting.stats import Pairs, mcnemar_exact
from tests.pipeline.reporting import tables

NAMES = ("answer", "topic", "n")  # a prompt may have the name of a column


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), 200, NAMES, seed=2, notebook=True)


def test_two_by_two_tables_count_the_items(run: Path, report: Report) -> None:
    """Each cell against a count over two dictionaries of verdicts."""
    verdict = {
        (row["prompt"], row["rule"], row["item_id"]): row["correct"]
        for row in load_run(run).predictions.collect().iter_rows(named=True)
    }
    for row in pl.concat([report.prompt_comparisons, report.rule_comparisons]).iter_rows(named=True):
        pairs = [
            (verdict[row["prompt_a"], row["rule_a"], i], verdict[row["prompt_b"], row["rule_b"], i]) for i in range(200)
        ]
        cells = [(True, True), (True, False), (False, True), (False, False)]
        assert [row["both"], row["only_a"], row["only_b"], row["neither"]] == [pairs.count(cell) for cell in cells]
        assert row["difference"] == pytest.approx(sum(a - b for a, b in pairs) / 200)
        assert row["low"] <= row["difference"] <= row["high"]


def test_the_families_are_all_pairs_of_prompts_and_each_rule_against_the_headline(report: Report) -> None:
    assert set(report.prompt_comparisons["family"]) == {PROMPT_FAMILY}
    assert report.prompt_comparisons.height == 3
    assert set(report.rule_comparisons["family"]) == {RULE_FAMILY}
    assert report.rule_comparisons.height == 3 * 8
    assert set(report.rule_comparisons["rule_b"]) == {"sum"}


def test_holm_corrects_over_the_whole_family(report: Report) -> None:
    for family in (report.prompt_comparisons, report.rule_comparisons):
        expected = multipletests(family["p"].to_list(), method="holm")[1]
        assert family["p_holm"].to_list() == pytest.approx(expected.tolist())
        assert (family["established"] == (family["p_holm"] < 0.05)).all()


def test_words_say_established_only_when_it_is(report: Report) -> None:
    for row in pl.concat([report.prompt_comparisons, report.rule_comparisons]).iter_rows(named=True):
        said = "; established on these 200 items" in row["words"]
        assert said == row["established"]
        assert said == (row["items_to_settle"] is None) or row["only_a"] == row["only_b"]


def test_words_name_the_better_side_and_what_would_settle_it() -> None:
    pairs = Pairs(20, 5, 9, 16)
    words = describe_difference("'a'", "'b'", pairs, p_holm=0.4, needed=640)
    assert words == (
        "'b' gets 8.0 points more right than 'a', which is not established at n = 50; about 640 items would settle it."
    )
    words = describe_difference("'a'", "'b'", Pairs(40, 3, 1, 6), p_holm=1.0, needed=700)
    assert words.endswith("not established at n = 50; only 4 tell them apart, and about 700 items would settle it.")
    assert "same number" in describe_difference("'a'", "'b'", Pairs(20, 5, 5, 20), 1.0, None)


def test_equal_prompts_are_never_told_apart() -> None:
    """No discordant item: p is 1, the interval is a point at zero, and no number of items is promised."""
    side = Side("p", "sum", "'p'")
    row = compare_sides(PROMPT_FAMILY, [(side, side, Pairs(30, 0, 0, 20))]).row(0, named=True)
    assert (row["p"], row["p_holm"], row["low"], row["high"]) == (1.0, 1.0, 0.0, 0.0)
    assert not row["established"]
    assert row["items_to_settle"] is None


@pytest.mark.parametrize("pairs", [Pairs(1, 4, 0, 0), Pairs(0, 5, 0, 0), Pairs(195, 5, 0, 0), Pairs(40, 7, 2, 1)])
@pytest.mark.parametrize("size", [1, 3, 21])
def test_the_items_that_would_settle_it_are_more_than_there_are_and_can_settle_it(pairs: Pairs, size: int) -> None:
    """With all disagreements on the better side at that number, the exact test gets under its level."""
    side = Side("p", "sum", "'p'")
    others = [(side, side, Pairs(10, 0, 0, 0))] * (size - 1)
    row = compare_sides(PROMPT_FAMILY, [(side, side, pairs), *others]).row(0, named=True)
    if row["established"]:
        return
    assert row["items_to_settle"] > pairs.num_items
    discordant = row["items_to_settle"] * (pairs.only_a + pairs.only_b) / pairs.num_items
    assert mcnemar_exact(round(discordant), 0) < 0.05 / size
