"""What is said of a choice: of each way that it can end, no more than the bound and the fresh items bear out."""

import re
from typing import Any

import pytest

from pipeline.choosing.record import ChoiceRecord, FreshRecord, ItemsRecord
from pipeline.choosing.words import find_choice
from tests.pipeline.choosing import records

OUT = "data/runs/news"
MAKERS = (
    records.best_of_all,
    records.within_margin,
    records.out_of_budget,
    records.out_of_items,
    records.nothing_seen,
    records.only_one,
    records.many,
    records.hostile,
)


def said(record: ChoiceRecord, out: str = OUT) -> str:
    """All of it on one line, with plain blanks."""
    return " ".join(find_choice(record, out).lines).replace("\N{NARROW NO-BREAK SPACE}", " ")


def changed(record: ChoiceRecord, **facts: Any) -> ChoiceRecord:
    return record.model_copy(update=facts)


def test_an_arm_that_all_others_lost_to_is_the_best() -> None:
    record = records.best_of_all()
    assert [arm.state for arm in record.left] == ["named"]
    words = said(record)
    looked = record.num_looked_at
    assert words.startswith(
        "'prompt-1' under 'sum' is the best of 35 offered: with 95 % confidence however often one looked, after "
        f"{looked:,} of 4,000 items. "
    )
    assert "Still in" not in words


def test_an_arm_within_the_margin_is_not_called_the_best_and_its_rivals_are_named() -> None:
    record = records.within_margin()
    assert [arm.state for arm in record.left] == ["named", "in"]
    words = said(record)
    assert words.startswith("'prompt-1' under 'sum' is within 4 points of the best of 9 offered: with 95 % confidence")
    assert "; 1 other is not out and may be better, by less than 4 points. " in words
    assert re.search(r"Still in beside it: 'prompt-1' under 'mean_token' \(\d+\.\d points? (behind|ahead)\)\. ", words)
    assert "is the best" not in words


def test_a_margin_of_one_point_is_one_point() -> None:
    assert "within 1 point of the best" in said(changed(records.within_margin(), within=1.0))
    assert "within 0.5 points of the best" in said(changed(records.within_margin(), within=0.5))


def test_a_budget_that_was_used_up_leaves_it_undecided_and_says_how_to_go_on() -> None:
    record = records.out_of_budget()
    num_left = len(record.left)
    words = said(record)
    assert words.startswith(
        f"Not decided, {num_left} of 35 are left: the budget ends after {record.num_looked_at} of 4,000 items; "
        f"each of them may be the best, and the {35 - num_left} others are not, with 95 % confidence however"
    )
    assert "These are left: 'prompt-1' under 'sum' leads with " in words
    assert words.count(" behind)") == 5
    assert f" and {num_left - 6} more. " in words
    assert "The same command with a larger --budget goes on from here, and the 95 % still hold" in words
    assert "wider --within" in words
    assert "labelscore run" not in words
    assert "is the best" not in words
    assert "flattered" in words


def test_items_that_ran_out_leave_it_undecided_and_these_alone_may_be_asked_about() -> None:
    record = records.out_of_items()
    words = said(record)
    assert words.startswith(f"Not decided, {len(record.left)} of 16 are left: after all 420 items there are no more; ")
    assert "--these-alone asks which is best on these items alone" in words
    assert "--budget" not in words


def test_who_asks_about_these_items_alone_is_not_told_to() -> None:
    words = said(changed(records.out_of_items(), of_these_alone=True))
    assert "--these-alone" not in words
    assert "A wider --within asks for less." in words


def test_a_race_that_told_nothing_leaves_all() -> None:
    """A budget that is too small for one batch: nobody leads, and no share is shown."""
    words = said(records.nothing_seen())
    assert words.startswith(
        "Not decided, all 6 that were offered are left: the budget is less than the first 50 items "
    )
    assert "so nothing is known of any. The same command with a larger --budget" in words
    assert "These are left" not in words
    assert "flattered" not in words
    assert "\N{EN DASH}" not in words


def test_one_arm_is_no_choice() -> None:
    words = said(records.only_one())
    assert words.startswith("'prompt-1' under 'sum' is all that was offered: there was nothing to choose among. ")
    assert "confidence" not in words
    assert "flattered" not in words
    assert "The 95 % are" not in words


def test_the_figure_of_the_winner_is_that_of_fresh_items() -> None:
    fresh = FreshRecord(num_items=400, num_right=285, low=0.666, high=0.7549)
    words = said(changed(records.best_of_all(), fresh=fresh))
    assert "On 400 fresh items that took no part in the choice it gets 71.2 % right (66.6 to 75.5 %). " in words
    one = FreshRecord(num_items=1, num_right=1, low=0.207, high=1.0)
    assert "On 1 fresh item that took no part" in said(changed(records.best_of_all(), fresh=one))


def test_without_fresh_items_the_reason_is_said() -> None:
    record = changed(records.best_of_all(), fresh=None)
    assert "There is no figure of it from fresh items: the budget has no room for it. " in said(record)
    whole = changed(record, num_looked_at=record.items.num_items)
    assert "from fresh items: no item is left that took no part in the choice. " in said(whole)


def test_the_cost_is_that_of_the_record() -> None:
    record = changed(
        records.best_of_all(), num_forwards=3_000, num_fresh_forwards=400, num_scored=2_800, num_all=20_000
    )
    words = said(record)
    assert "It took 3,000 forwards (a prompt over an item each), 15 % of what all 4,000 items under all 5 " in words
    assert "would take; 400 of them for the figure from fresh items; 2,800 of them had to be made, as " in words
    assert "; none of them had to be made, as the others were stored or repeat. " in said(changed(record, num_scored=0))
    assert "had to be made" not in said(changed(record, num_scored=3_000))


@pytest.mark.parametrize(
    ("alone", "words"), [(True, "these 4,000 items alone, not"), (False, "distinct texts like these, of")]
)
def test_it_is_said_what_the_bound_is_about(alone: bool, words: str) -> None:
    assert f"The 95 % are about {words}" in said(changed(records.best_of_all(), of_these_alone=alone))


def test_rows_that_were_left_out_are_counted() -> None:
    record = records.best_of_all()
    assert "Left out" not in said(record)

    def left_out(without_gold: int, disputed: int, repeats: int) -> str:
        numbers = {"num_without_gold": without_gold, "num_disputed": disputed, "num_repeats": repeats}
        items = ItemsRecord(num_rows=5_000, num_items=4_000, num_rejected=0, **numbers)
        return said(changed(record, items=items)).partition("Left out: ")[2].partition(".")[0]

    assert "Each text counts once here" not in said(record)
    assert left_out(1, 0, 0) == "1 row without a gold label"
    assert left_out(0, 2, 1_000) == (
        "2 texts with different gold labels in different rows and 1,000 rows with a text that was there before"
    )
    assert left_out(3, 1, 1).startswith("3 rows without a gold label, 1 text with different gold labels in different ")


def test_broken_rows_and_repeats_are_told() -> None:
    items = ItemsRecord(
        num_rows=4_007, num_items=4_000, num_rejected=2, num_without_gold=0, num_disputed=0, num_repeats=5
    )
    words = said(changed(records.best_of_all(), items=items))
    assert "Left out: 2 broken rows and 5 rows with a text that was there before. Each text counts once here" in words


def test_after_all_items_nothing_may_be_better_on_these_alone() -> None:
    """What is still in is level with the named one, to the item."""
    record = changed(records.within_margin(), of_these_alone=True, num_looked_at=4_000)
    assert len(record.left) > 1
    words = said(record)
    assert " is the best of " in words
    assert "may be better" not in words
    assert f"; level with it: {len(record.left) - 1} other" in words


def test_differences_are_said_to_carry_no_interval() -> None:
    words = said(records.best_of_all())
    assert "Differences are of the items that both were scored on and carry no interval" in words
    assert re.search(r"The \d\d\.\d % that the leader has right in the race are flattered by its being picked\.", words)


def test_the_command_for_everything_can_be_pasted() -> None:
    """Also where the output has a blank in its name."""
    assert said(records.best_of_all()).endswith(
        "To score all items with it: labelscore run data/runs/news/choice/run.toml"
    )
    assert said(records.best_of_all(), "my runs/x").endswith("labelscore run 'my runs/x/choice/run.toml'")


def test_an_arm_that_is_ahead_of_the_one_named_is_said_to_be() -> None:
    """The one named was within the margin of all others, and need not be the one that is right most often."""
    record = records.within_margin()
    first, second, *others = record.arms

    def with_behind(behind: int) -> str:
        return said(changed(record, arms=(first, second.model_copy(update={"behind": behind}), *others)))

    assert "points ahead). " in with_behind(-second.num_common // 50)
    assert "(level with it). " in with_behind(0)


@pytest.mark.parametrize("make", MAKERS)
def test_every_sentence_is_one_printable_line(make: Any) -> None:
    found = find_choice(make(), OUT)
    for line in found.lines:
        assert line.replace("\N{NARROW NO-BREAK SPACE}", "").isprintable()
        assert len(line) < 700
        assert not re.search(r"(?<![\d.,])1 (items|arms|rows|points|forwards|others)\b|None|nan", line)
    assert all(sentence.endswith(".") for sentence in found.sentences if "labelscore run" not in sentence)
