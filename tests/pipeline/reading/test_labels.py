"""What label values mean: one meaning in every format, and refused where there could be two."""

import re
import tomllib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.reading.gold import Classes, Names, read_classes
from pipeline.reading.labels import Unknown, count_labels, label_values

NEWS = ("World", "Sports", "Business", "Sci/Tech")
STARS = ("1", "2", "3", "4", "5")


def classes(names: tuple[str, ...], *found: object, ordered: bool = True) -> Classes:
    """The classes of a file that has these labels and names given from outside."""
    given = Names.in_order(names) if ordered else Names(names, None)
    return read_classes([count_labels([found])], given, "x.csv (test)")


def gold(read: Classes, *raw: object) -> list[object]:
    """The class names of labels; what is wrong with those that have none."""
    return [p if isinstance(p := read.positions(value), str) else [read.names[i] for i in p] for value in raw]


# Values


@pytest.mark.parametrize(
    "spellings",
    [
        (1, 1.0, "1", "1.0", " 1 ", "1.", Decimal(1), Decimal("1.00"), b"1", "+1"),
        (0, 0.0, "0", "0.0", Decimal(0)),
        (-1, -1.0, "-1", "-1.0", Decimal(-1)),
        (2.5, "2.5", "2.50", "+2.5", Decimal("2.500"), "25e-1"),
        (10**10, "10000000000", 1e10, "1e10", "10000000000.0", Decimal(10**10)),
        (10**30, "1" + "0" * 30),
        (True, "true", "True", "TRUE", " true "),
        (False, "false", "False"),
    ],
)
def test_a_value_is_one_value_in_every_format(spellings: tuple[object, ...]) -> None:
    """JSON has 1 and true, CSV "1" and "True", Parquet 1.0 and decimals."""
    assert len({label_values(raw) for raw in spellings}) == 1


@pytest.mark.parametrize("raw", [None, "", "  ", float("nan"), Decimal("nan"), [], [None, ""]])
def test_what_is_empty_is_no_label(raw: object) -> None:
    """Null, NaN, blanks and the empty list."""
    assert label_values(raw) == ()


@pytest.mark.parametrize("raw", [1.5, "1.5", float("inf"), {"id": 1}, 10**30, 10**400, b"\xff", Decimal("0.5")])
def test_what_is_neither_a_number_nor_a_word_is_no_class(raw: object) -> None:
    """It is shown and refused, never rounded."""
    read = classes(NEWS, 0, 1)
    assert "is not one of 0 World, 1 Sports" in str(gold(read, raw)[0])


def test_a_list_holds_several_classes_each_once() -> None:
    """In the order of the list."""
    assert label_values([3, "1", None]) == (3, 1)
    for spelling in ([3, 1], "[3, 1]", "['3', 1.0]", '["Sci/Tech", "Sports"]'):
        assert gold(classes(NEWS, 0, spelling, "Sports", "Sci/Tech"), spelling) == [["Sci/Tech", "Sports"]]


def test_a_class_that_is_called_like_a_list_is_that_class() -> None:
    """Intervals, such as age groups."""
    ages = ("[0, 18]", "[18, 65]", "[65, 99]")
    assert gold(classes(ages, *ages, ordered=False), *ages) == [[age] for age in ages]


def test_a_list_that_repeats_and_one_with_an_unknown_class_are_no_labels() -> None:
    """Both are told."""
    assert gold(classes(NEWS, 0, 1, 3), [3, 1], [2]) == [["Sci/Tech", "Sports"], "the label '2' is not one of "
                                                         "0 World, 1 Sports, 2 Business, 3 Sci/Tech"]  # fmt: skip


@pytest.mark.parametrize("raw", [[0, 0, 1, 0], [1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0], "[0, 1, 1, 1]", ["World", "World"]])
def test_a_list_that_marks_classes_or_says_one_twice_is_refused(raw: object) -> None:
    """One-hot lists are no lists of ids."""
    assert "names the class" in str(gold(classes(NEWS, 0, 1, 2, 3, "World"), raw)[0])


@pytest.mark.parametrize("flags", [([0, 1], [1, 0]), ([True, False], [False, True]), (["0", "1"], None)])
def test_pairs_of_flags_are_not_two_right_classes_of_two(flags: tuple[object, ...]) -> None:
    """Every row would be right."""
    with pytest.raises(InputError, match="list of 0 and 1"):
        classes(("bad", "good"), *flags)
    assert gold(classes(("bad", "good"), [0], [1]), [0], [1]) == [["bad"], ["good"]]
    assert gold(classes(NEWS, [0, 1], [2]), [0, 1], [2]) == [["World", "Sports"], ["Business"]]


# Ids and names


def test_ids_count_from_zero_and_names_are_themselves() -> None:
    """In one column, too."""
    read = classes(NEWS, 0, "Sci/Tech", 3, " World", None)
    assert gold(read, 0, "Sci/Tech", 3, " World", None) == [["World"], ["Sci/Tech"], ["Sci/Tech"], ["World"], []]


@pytest.mark.parametrize("found", [(1, 2, 3, 4), (2, 4, 1), (4,), (1, 2, 9), (7,), (1, 2, 3) * 4])
def test_ids_that_do_not_begin_at_zero_and_go_beyond_the_last_are_never_shifted(found: tuple[int, ...]) -> None:
    """The error names the range found and what to write."""
    with pytest.raises(InputError) as caught:
        classes(NEWS, *found)
    told = str(caught.value)
    assert f"labels run from {min(found)} to {max(found)}" in told
    assert "--label-names" in told
    if max(found) <= 4:
        assert "1=World,2=Sports,3=Business,4=Sci/Tech" in told


def test_ids_given_one_by_one_are_read_as_given_and_kept() -> None:
    """Whatever they count from; -1 may be one of them."""
    given = Names(("bad", "so-so", "good"), (-1, 0, 1), is_complete=True)
    read = read_classes([count_labels([[-1, 1, 0]])], given, "x")
    assert (read.ids, gold(read, -1, "1", 0.0)) == ((-1, 0, 1), [["bad"], ["good"], ["so-so"]])


def test_an_id_that_was_not_given_is_no_class() -> None:
    """And -1 is no label where it is not among those given."""
    read = read_classes([count_labels([[0, 1, 2, -1]])], Names(("no", "yes"), (0, 1), is_complete=True), "x")
    assert gold(read, -1, 0) == [[], ["no"]]
    assert "the label '2'" in str(gold(read, 2)[0])


def test_no_row_with_the_first_id_is_said() -> None:
    """A part of a file may lack a class; a file that counts from 1 has never the id 0."""
    assert "no row has the label 0 (World)" in str(classes(NEWS, 1, 2, 3).remark)
    assert "no row has the label 0 (World)" in str(classes(NEWS, *[1] * 100, "Sports").remark)
    assert classes(NEWS, 0, 1).remark is None
    assert classes(NEWS, "World", "Sports").remark is None


def test_each_file_has_its_own_ids() -> None:
    """One that counts from 1 beside one that counts from 0 is found by itself."""
    files = [count_labels([ids]) for ids in ([0, 1, 2, 3], [1, 2, 3, 4])]
    with pytest.raises(InputError, match="run from 1 to 4"):
        read_classes(files, Names.in_order(NEWS), "x")
    sorted_files = [count_labels([[0] * 50 + [1] * 50]), count_labels([[1, 2, 3] * 40])]
    assert read_classes(sorted_files, Names.in_order(NEWS), "x").codes == {0: 0, 1: 1, 2: 2, 3: 3}
    for found in (([1, 2, 3] * 40, [1, 2] * 40), ([1, 2, 3] * 40 + ["World"],), ([1, 3] * 40 + ["?"],)):
        with pytest.raises(InputError, match="labels run from 1 to 3"):
            read_classes([count_labels([file]) for file in found], Names.in_order(NEWS), "x")


def test_as_many_ids_as_classes_that_are_not_theirs_are_asked_about() -> None:
    """Such as 0 and 4 of two classes; the option that is offered can be pasted."""
    with pytest.raises(InputError, match="--label-names 0=bad,4=good"):
        classes(("bad", "good"), 0, 4)
    with pytest.raises(InputError, match=re.escape("""--label-names '"1=yes, sure",2=no'""")):
        classes(("yes, sure", "no"), 1, 2)


def test_zero_and_one_of_the_classes_false_and_true_are_never_inverted() -> None:
    """Where names were listed in another order, somebody has to say so by id."""
    assert gold(classes(("False", "True"), 0, 1), 0, 1) == [["False"], ["True"]]
    with pytest.raises(InputError, match=r"1 would be False; write --label-names 0=True,1=False if that is so"):
        classes(("True", "False"), 0, 1)


@pytest.mark.parametrize("names", [("None", "nan", "True", "TRUE"), ("x", "2.0", "2"), ("a", "a "), ("a", "")])
def test_two_names_that_mean_the_same_are_refused(names: tuple[str, ...]) -> None:
    """Neither they nor what else is found would be read by chance."""
    with pytest.raises(InputError, match="mean the same, or one is empty"):
        classes(names, names[-1], "x")


def test_a_column_with_names_in_it_has_names() -> None:
    """Also where some of them are numbers that could be ids."""
    assert gold(classes(("1", "2", "other"), 1, 2, "other", ordered=False), "1", 2, "other") == [
        ["1"],
        ["2"],
        ["other"],
    ]


def test_what_is_offered_is_toml() -> None:
    """Names with quotes, backslashes and points."""
    with pytest.raises(InputError) as caught:
        classes(("1.0", "2", 'a "b"', "d\\e"), 1, 2)
    _, *offered = str(caught.value).split("label_names = ")
    for text, expected in zip(offered, ({"1.0": "1.0", "2": "2"}, {"0": "1.0", "1": "2"}), strict=True):
        table = tomllib.loads(f"x = {text[: text.rindex('}') + 1]}")["x"]
        assert table.items() >= expected.items()
        assert {'a "b"', "d\\e"} <= set(table.values())


def test_names_that_look_the_same_are_the_same() -> None:
    """Accents may be written in two ways."""
    assert gold(classes(("caf\u00e9", "bar"), "cafe\u0301"), "cafe\u0301", "caf\u00e9 ") == [["caf\u00e9"]] * 2


def test_labels_in_another_encoding_are_told_by_it() -> None:
    """Bytes that are no UTF-8 come through as surrogates."""
    with pytest.raises(InputError, match="--encoding cp1252"):
        classes(("positif", "n\u00e9gatif"), "n\udce9gatif")


@pytest.mark.parametrize("ordered", [True, False])
def test_names_that_are_numbers_and_may_be_ids_are_asked_about(ordered: bool) -> None:
    """1 to 4 of five stars are names, or ids of the stars 2 to 5."""
    for found in ((1, 2, 3, 4), ("1", "2"), (3.0,)):
        with pytest.raises(InputError, match=r"may be names or ids.*1 = \"1\", 2 = \"2\".*0 = \"1\", 1 = \"2\""):
            classes(STARS, *found, ordered=ordered)


def test_a_value_that_can_be_but_one_of_both_decides_for_all() -> None:
    """Five stars are no id; star 0 is no name. Both together are neither."""
    assert gold(classes(STARS, 1, 5), 1, "5") == [["1"], ["5"]]
    assert gold(classes(STARS, 5, 1, ordered=False), 1, "5") == [["1"], ["5"]]
    assert gold(classes(STARS, 0, 4), 0, "4") == [["1"], ["5"]]
    with pytest.raises(InputError, match="may be names or ids"):
        classes(STARS, 0, 5)
    assert gold(classes(("0", "1"), 0, 1), 0, 1.0) == [["0"], ["1"]]


def test_ids_without_an_order_of_the_classes_are_asked_about() -> None:
    """The lines of a prompt's table are no ids."""
    with pytest.raises(InputError, match=r"labels are ids \(0, 1\).*label_names"):
        classes(("good", "bad"), 0, 1, ordered=False)
    with pytest.raises(InputError, match=r"labels are ids.*label_names"):
        classes(("good", "bad"), True, False, ordered=False)


def test_minus_one_is_no_label_unless_it_may_be_a_class() -> None:
    """`datasets` writes it for a row without one; others write it for 'negative'."""
    assert gold(classes(("bad", "good"), 0, 1, -1), -1, 1) == [[], ["good"]]
    assert gold(classes(("bad", "good"), -1), -1, "-1") == [[], []]
    assert "3 rows have the label -1, which is taken for none" in str(classes(("bad", "good"), 0, 1, *[-1] * 3).remark)
    with pytest.raises(InputError, match=r'\{ -2 = "a", -1 = "b", 0 = "c", 1 = "d", 2 = "e" \}'):
        classes(("a", "b", "c", "d", "e"), -2, -1, 0, 1, 2)
    for found in ((0, -1), (-1, 1)):
        with pytest.raises(InputError, match=r'\{ -1 = "neg", 0 = "neu", 1 = "pos" \}'):
            classes(("neg", "neu", "pos"), *found)
    for names, found in ((("bad", "good"), (-1, 1)), (("a", "b", "c"), (-1, 0, 1))):
        with pytest.raises(InputError, match=r"-1 may be a class.*label_names = \{ -1 ="):
            classes(names, *found)


def test_true_and_false_are_the_classes_called_so_else_one_and_zero() -> None:
    """Where the classes are yes and no in another order, that is asked about."""
    for spelling in ((True, False), ("True", "FALSE")):
        assert gold(classes(("true", "false"), *spelling), *spelling) == [["true"], ["false"]]
        assert gold(classes(("True", "False"), *spelling), *spelling) == [["True"], ["False"]]
        assert gold(classes(("bad", "good"), *spelling), *spelling) == [["good"], ["bad"]]
        for answers in (("no", "yes"), ("yes", "no")):
            read = classes(answers, *spelling)
            assert gold(read, *spelling) == [["yes"], ["no"]]
            assert "true is taken for yes; false is taken for no" in str(read.remark)
            assert gold(classes(answers, *spelling, ordered=False), *spelling) == [["yes"], ["no"]]
        assert "true is taken for b; false is taken for a" in str(classes(("a", "b"), *spelling).remark)
        for names in (("positive", "negative"), ("toxic", "not toxic"), ("Y", "N"), ("good", "bad")):
            with pytest.raises(InputError, match="labels are true and false, and true would be"):
                classes(names, *spelling)


def test_labels_of_another_set_of_classes_are_refused_as_a_whole() -> None:
    """Not row by row, where to skip them would leave nothing."""
    with pytest.raises(InputError, match=r"none of its labels \(ham, spam\) is one of the classes World"):
        classes(NEWS, "ham", "spam", None)


def test_a_files_own_names_are_read_as_names_also_where_they_are_numbers() -> None:
    """An id beyond the last has been marked and is no name that happens to be that number."""
    given = Names.in_order(STARS, is_own=True)
    read = read_classes([], given, "x")
    assert gold(read, "5", "1") == [["5"], ["1"]]
    assert "the label '5'" in str(gold(read, Unknown("5"))[0])
    with pytest.raises(InputError, match="mean the same"):
        read_classes([], Names.in_order(("1", "1.0"), is_own=True), "x")


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), min_size=1))
def test_the_order_in_which_names_are_given_moves_ids_and_never_names(order: list[int], labels: list[int]) -> None:
    """Labels that are names mean the same under every order."""
    names = tuple(NEWS[i] for i in order)
    texts = [NEWS[i] for i in labels]
    assert gold(classes(names, *texts), *texts) == [[text] for text in texts]
