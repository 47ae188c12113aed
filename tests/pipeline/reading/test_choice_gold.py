"""Which of an item's own choices is right: read in one way over the whole source, or refused with what to write."""

from collections.abc import Mapping, Sequence

import pytest

from pipeline.errors import InputError
from pipeline.reading.choice_gold import ChoiceGold, read_gold

ABC = ["a b", "c", "d"]
NUMBERS = ["1", "2", "0"]


def places(golds: Sequence[object], choices: Sequence[str] = ABC, **names: object) -> list[tuple[int, ...] | str]:
    found = read_gold([(gold, choices) for gold in golds], "data", **names)  # type: ignore[arg-type]
    return [found.places(gold, choices) for gold in golds]


@pytest.mark.parametrize(
    ("golds", "choices", "expected"),
    [
        ([0, 2, 1], ABC, [(0,), (2,), (1,)]),
        (["0", 2.0, "1.0"], ABC, [(0,), (2,), (1,)]),
        (["c", "a b ", "d"], ABC, [(1,), (0,), (2,)]),
        ([[0, 2], 1, None, -1], ABC, [(0, 2), (1,), (), ()]),
        ([[1, 0, 1], [0, 0, 1]], ABC, [(0, 2), (2,)]),
        ([[True, False, False]], ABC, [(0,)]),
        (["x", "x"], ["x", "y", "x"], [(0, 2), (0, 2)]),
        (["11", "12"], ["11", "12", "13"], [(0,), (1,)]),
    ],
)
def test_labels_are_places_texts_or_flags(
    golds: Sequence[object], choices: Sequence[str], expected: Sequence[tuple[int, ...]]
) -> None:
    assert places(golds, choices) == expected


@pytest.mark.parametrize(
    ("golds", "choices", "words"),
    [
        ([1, 2, 1] * 300, NUMBERS, "are places of choices and texts of others"),
        ([1, 2, 1] * 300 + ["N/A"], NUMBERS, "are places of choices and texts of others"),
        (["1", "2", "0"] * 300 + [7], NUMBERS, "are places of choices and texts of others"),
        ([1, 2, 3], ABC, "count from 1"),
        ([1, 2, 3, "N/A"], ABC, "count from 1"),
        (["A", "B", "C"], ABC, 'label_names = \\["A", "B", "C", "D"\\]'),
        ([[0, 1], [1, 0]], ["x", "y"], "pairs of 0 and 1"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(golds: Sequence[object], choices: Sequence[str], words: str) -> None:
    """A row that is wrong does not tip the balance."""
    with pytest.raises(InputError, match=words):
        places(golds, choices)


def test_a_reading_that_few_labels_speak_against_is_told() -> None:
    """Places of choices that are numbers now and then: 2 is the text of another choice."""
    rows = [(2, ["x", "y", "z"])] * 9 + [(2, ["2", "3", "8"])]
    gold = read_gold(rows, "data")
    assert (gold.way, gold.places(2, ["2", "3", "8"])) == ("place", (2,))
    assert gold.remark == "data: labels are read as places of choices; 1 of 10 could be texts of choices"


def test_one_odd_row_does_not_make_places_of_flags() -> None:
    """A 0 or 1 that is there twice is no place; the odd row alone is wrong."""
    golds = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1]]
    found = places(golds)
    assert found[:3] == [(1,), (0,), (2,)]
    assert "has not one of 0 and 1 for each of its 3 choices" in str(found[3])
    assert "names a choice twice" in str(places([1, 2, 0, [1, 1]])[3])


def test_a_text_is_joined_letter_by_letter_first() -> None:
    """What means the same as a label counts only where nothing is written like it."""
    assert places(["0.50", "007"], ["0.5", "0.50", "5"])[0] == (1,)
    assert places(["True", "x"], ["true", "True", "x"]) == [(1,), (2,)]
    assert places([" a", "b"], ["a", " a", "b"]) == [(1,), (2,)]


def test_a_files_own_names_are_its_places_unless_they_are_texts_of_others() -> None:
    """An id that a file names is that name, whatever one row is."""
    assert places(["2", "1", None], ["x", "y"], class_names=("1", "2")) == [(1,), (0,), ()]
    assert places(["1", "2", "4"], ["x", "y", "z"], class_names=("1", "2", "3", "4"))[:2] == [(0,), (1,)]
    with pytest.raises(InputError, match="names of places and texts of other choices"):
        places(["no", "yes"], ["yes", "no"], class_names=("no", "yes"))


def test_minus_one_is_no_label_however_labels_are_read() -> None:
    assert places(["B", -1], names=["A", "B", "C"]) == [(1,), ()]
    assert places(["c", "-1"]) == [(1,), ()]
    assert places(["-1", "c"], ["-1", "c"]) == [(0,), (1,)]


@pytest.mark.parametrize(
    ("names", "golds", "expected"),
    [
        (["A", "B", "C"], ["C", "A"], [(2,), (0,)]),
        ({"1": "first", "0": "zeroth"}, ["1", "0", "first"], [(1,), (0,), (1,)]),
        ({"1": "x", "2": "y", "3": "z"}, [1, 3], [(0,), (2,)]),
    ],
)
def test_names_stand_for_places_in_the_order_of_their_ids(
    names: Sequence[str] | Mapping[str, str], golds: Sequence[object], expected: Sequence[tuple[int, ...]]
) -> None:
    assert places(golds, names=names) == expected


def test_ids_with_a_gap_are_refused() -> None:
    with pytest.raises(InputError, match="have a gap"):
        places([0, 2], names={"0": "A", "2": "C"})


def test_the_datas_own_names_count_where_all_labels_are_such() -> None:
    """A ClassLabel's names, or those of the columns that the choices come from."""
    assert places(["sol2", "sol1"], ["p", "q"], column_names=("sol1", "sol2")) == [(1,), (0,)]
    assert places(["q", "p"], ["p", "q"], column_names=("sol1", "sol2")) == [(1,), (0,)]


def test_what_is_wrong_with_a_row_is_said() -> None:
    assert ChoiceGold("place").places(3, ABC) == "the label '3' is not the place (from 0) of its 3 choices (a b, c, d)"
    assert "not the text" in str(ChoiceGold("text").places("e", ABC))
    assert "gold = 3 counts from 0, and it has 3 choices" in str(ChoiceGold("place", constant=3).places(None, ABC))
    assert ChoiceGold("own name").places("k2", ABC, ["k1", "k2"]) == (1,)
