"""Classes meet by name: whatever order file, configuration and prompts list them in, a class has its own words."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.options import label_names
from pipeline.classes import choose_classes, choose_prompts
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS, BUILT_IN, Prompt
from pipeline.pull import pull_items
from pipeline.reading.dataset import Dataset, open_dataset
from pipeline.reading.gold import Classes
from tests.pipeline.reading import data_files

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
Labels = list[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("classes")


def write(path: Path, labels: Labels, names: tuple[str, ...] | None = None) -> Path:
    """A file of texts with these labels; with `names`, a Parquet file whose footer names its classes."""
    return data_files.write(
        path, [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)], names=names
    )


def config_of(*prompts: object, **settings: object) -> RunConfig:
    """A configuration with a prompt for each table or list of labels; a string names a built-in one."""
    names = [p if isinstance(p, str) else f"p{i}" for i, p in enumerate(prompts)]
    tables = {n: {"template": "{text}:", "labels": p} for n, p in zip(names, prompts, strict=True) if n != p}
    return RunConfig.model_validate({"prompt": names, "prompts": tables, **settings})


def meet(config: RunConfig, dataset: Dataset) -> tuple[Classes, list[Prompt]]:
    """Classes and prompts of a run."""
    classes = choose_classes(config, dataset)
    return classes, list(choose_prompts(config, classes))


def gold_names(dataset: Dataset, classes: Classes, folder: Path) -> list[str]:
    """The name of each item's class."""
    paths = {"items_path": folder / "items.parquet", "rejected_path": folder / "rejected.parquet"}
    pull_items(dataset, golds=classes, shape=data_files.TEXT_ALONE, limit=None, on_bad_row="fail", **paths)  # type: ignore[arg-type]
    return pq.read_table(folder / "items.parquet")["gold"].to_pylist()


# The property

plain = st.lists(st.text("abcdef XYZ", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=5, unique=True)
odd = st.lists(
    st.sampled_from(["0", "1", "2", "3", "1.0", "-1", "true", "False", "yes", "no", "World", "a,b", "a\tb", "1 "]),
    min_size=2,
    max_size=5,
    unique=True,
)


@given(data=st.data(), names=st.one_of(plain, odd), suffix=st.sampled_from(SUFFIXES))
@settings(max_examples=400)
def test_every_class_has_its_own_words_in_any_format_and_order(
    data: st.DataObject, folder: Path, names: list[str], suffix: str
) -> None:
    """Formats x orders x sources of names: each row's gold class and each class's words are right, or it is refused,
    and then only because names look like ids or like each other, or ids as if they counted from 1."""
    in_file = tuple(data.draw(st.permutations(names)))
    truth = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=8))
    words = {name: f" word{i}" for i, name in enumerate(names)}
    table = {name: words[name] for name in data.draw(st.permutations(names))}
    form = data.draw(st.sampled_from(["own", "texts", "ids in order", "ids one by one"]))
    prompts = [table, {name: words[name] for name in data.draw(st.permutations(names))}]
    ids: dict[str, Any] = {name: i for i, name in enumerate(in_file)}
    given_names: object = None
    if form == "own":
        path = write(folder / "x.parquet", [ids[name] for name in truth], in_file)
    elif form == "texts":
        path = write(folder / f"x{suffix}", truth)
    elif form == "ids in order":
        path, given_names = write(folder / f"x{suffix}", [ids[name] for name in truth]), in_file
    else:
        first = data.draw(st.integers(-1, 4))
        path = write(folder / f"x{suffix}", [ids[name] + first for name in truth])
        given_names = {str(i + first): name for i, name in enumerate(in_file)}
    if form in ("own", "ids in order"):
        prompts.append(tuple(words[name] for name in in_file))  # a list is in the order of the ids
    config, dataset = config_of(*prompts, label_names=given_names), open_dataset(path)
    try:
        classes, made = meet(config, dataset)
        gold = gold_names(dataset, classes, folder)
    except InputError:
        lacks_first = form == "ids in order" and in_file[0] not in truth  # as ids that count from 1 do
        assert lacks_first or any(not set(name) <= set("abcdef XYZ") for name in names), (names, form, truth)
        return
    assert gold == [name.strip() for name in truth]
    for prompt in made:
        assert {label.name: label.words for label in prompt.labels} == {name.strip(): words[name] for name in names}


# Built-in prompts


@given(order=st.permutations(range(4)), suffix=st.sampled_from(SUFFIXES), own=st.booleans())
@settings(max_examples=40)
def test_built_in_words_pair_with_classes_by_name(folder: Path, order: list[int], suffix: str, own: bool) -> None:
    """A file of AG News's classes in alphabetical or any other order keeps its ids and gets the right words."""
    names = tuple(AG_NEWS[i] for i in order)
    path = folder / ("x.parquet" if own else f"x{suffix}")
    dataset = open_dataset(write(path, [0, 1, 2, 3], names if own else None))
    classes, made = meet(config_of(*BUILT_IN, label_names=None if own else names), dataset)
    assert gold_names(dataset, classes, folder) == list(names)
    for prompt in made:
        known = {label.name: label.words for label in BUILT_IN[prompt.name].labels}
        assert [(label.id, label.name) for label in prompt.labels] == list(enumerate(names))
        assert {label.name: label.words for label in prompt.labels} == known


@pytest.mark.parametrize("names", [("ham", "spam"), ("Welt", "Sport", "Wirtschaft", "Technik"), (*AG_NEWS, "Health")])
def test_other_names_than_a_built_in_prompts_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Whether the file or the configuration has them."""
    own = open_dataset(write(tmp_path / "x.parquet", [0, 1], names))
    bare = open_dataset(write(tmp_path / "x.csv", [0, 1]))
    for config, dataset in ((config_of("answer"), own), (config_of("answer", label_names=names), bare)):
        with pytest.raises(InputError, match=r"'answer' is for AG News's classes.*write a prompt of your own"):
            meet(config, dataset)


def test_a_table_called_like_a_built_in_prompt_is_its_own(tmp_path: Path) -> None:
    """And is held to the classes as any other."""
    config = RunConfig(prompts={"answer": {"template": "{text}:", "labels": {"no": " no", "yes": " yes"}}})  # type: ignore[dict-item]
    _, (prompt,) = meet(config, open_dataset(write(tmp_path / "x.csv", ["yes", "no"])))
    assert {label.name: label.words for label in prompt.labels} == {"no": " no", "yes": " yes"}


# Names that do not agree


def test_label_names_never_rename(tmp_path: Path) -> None:
    """Beside a file's own names they can only say the same."""
    dataset = open_dataset(write(tmp_path / "x.parquet", [0, 1], ("bad", "good")))
    table = {"good": " good", "bad": " bad"}
    for same in (("bad", "good"), {"0": "bad", "1": "good"}):
        assert meet(config_of(table, label_names=same), dataset)[0].names == ("bad", "good")
    for other in (("good", "bad"), ("no", "yes"), {"1": "bad", "2": "good"}):
        with pytest.raises(InputError, match="never renames"):
            meet(config_of(table, label_names=other), dataset)


def test_a_table_with_other_names_is_refused(tmp_path: Path) -> None:
    """It names the prompt and both sets."""
    dataset = open_dataset(write(tmp_path / "x.csv", ["a", "b"]))
    with pytest.raises(InputError, match=r"prompt 'p1': its labels \(a, c\) are not the classes of .* \(a, b\)"):
        meet(config_of({"a": " a", "b": " b"}, {"a": " a", "c": " c"}), dataset)


def test_ids_and_a_table_alone_are_not_enough(tmp_path: Path) -> None:
    """The order of lines in a table is no order of ids; with an order given, or names as labels, it is right."""
    table = {"good": " happy", "bad": " unhappy"}
    with pytest.raises(InputError, match=r"label_names = \{ 0 = \"...\", 1 = \"...\" \}"):
        meet(config_of(table), open_dataset(write(tmp_path / "x.csv", [0, 1])))
    classes, _ = meet(config_of(table, label_names=("bad", "good")), open_dataset(tmp_path / "x.csv"))
    assert classes.names == ("bad", "good")
    assert meet(config_of(table), open_dataset(write(tmp_path / "y.csv", ["bad", "good"])))[0].names == ("good", "bad")
    assert meet(config_of(table), open_dataset(write(tmp_path / "z.csv", [None, -1])))  # no labels, nothing to mistake


def test_classes_without_names_are_asked_for(tmp_path: Path) -> None:
    """With the labels that were found."""
    dataset = open_dataset(write(tmp_path / "x.csv", ["ham", "spam"]))
    with pytest.raises(InputError, match=r"does not name its classes \(its labels are ham, spam\).*label_names"):
        meet(config_of((" ham", " spam")), dataset)


@pytest.mark.parametrize("key", ["pos", "1.5", "", "99999"])
def test_label_names_by_id_need_ids(tmp_path: Path, key: str) -> None:
    """Whole numbers that fit the table's column."""
    config = config_of({"a": " a", "b": " b"}, label_names={key or "x": "a", "1": "b"})
    with pytest.raises(InputError, match="is not a whole number"):
        meet(config, open_dataset(write(tmp_path / "x.csv", [1, 1])))


# Prompts that list their words


def test_a_list_of_words_that_are_the_names_pairs_by_name(tmp_path: Path) -> None:
    """Nobody means the words " World" for Business."""
    dataset = open_dataset(write(tmp_path / "x.parquet", [0, 1, 2, 3], ("Business", "Sci/Tech", "Sports", "World")))
    _, (prompt,) = meet(config_of((" World", " sports", " Business", " Sci/Tech")), dataset)
    assert {label.name: label.words.strip().title() for label in prompt.labels} == {name: name for name in AG_NEWS}


def test_a_list_with_words_of_another_class_is_refused(tmp_path: Path) -> None:
    """Where only some of them are names."""
    dataset = open_dataset(write(tmp_path / "x.parquet", [0, 1], ("good", "bad")))
    for words in ((" awful", " good"), (" is bad", " is good"), (" bad.", " fine"), (" Badly", " x")):
        with pytest.raises(InputError, match=r"is for (bad and not for good|good and not for bad); write them as a"):
            meet(config_of(words), dataset)
    assert meet(config_of((" not bad, good", " not good, bad")), dataset)


def test_prompts_with_the_same_words_never_disagree_on_a_pair(tmp_path: Path) -> None:
    """One of them lists its words by order, and the other names their classes."""
    dataset = open_dataset(write(tmp_path / "x.parquet", [0, 1], ("good", "bad")))
    with pytest.raises(InputError, match=r"'p0' and 'p1': the words ' unhappy' are for bad in the one and for good"):
        meet(config_of({"good": " happy", "bad": " unhappy"}, (" unhappy", " happy")), dataset)
    two_questions = ({"good": " yes", "bad": " no"}, {"good": " no", "bad": " yes"})  # "Is it good?", "Is it bad?"
    assert len(meet(config_of(*two_questions), dataset)[1]) == 2


def test_too_few_words_are_told(tmp_path: Path) -> None:
    """With both numbers."""
    dataset = open_dataset(write(tmp_path / "x.parquet", [0, 1], ("a", "b")))
    with pytest.raises(InputError, match=r"3 label words for 2 label names \(a, b\)"):
        meet(config_of((" x", " y", " z")), dataset)


# Several files


def two_files(folder: Path, *orders: tuple[str, ...] | None) -> Dataset:
    """A folder of Parquet files that each name the same classes in an order of their own; every row is class a."""
    folder.mkdir(exist_ok=True)
    for i, names in enumerate(orders):
        write(folder / f"{i}.parquet", [names.index("a") if names else 0] * 2, names)
    return open_dataset(folder)


def test_files_that_list_the_classes_in_other_orders_are_mapped_by_name(tmp_path: Path) -> None:
    """Ids belong to the file that carries them."""
    dataset = two_files(tmp_path / "d", ("a", "b"), ("b", "a"))
    classes, _ = meet(config_of({"b": " b", "a": " a"}), dataset)
    assert gold_names(dataset, classes, tmp_path) == ["a"] * 4
    assert meet(config_of((" A", " B")), dataset)[1][0].labels[0].words == " A"
    with pytest.raises(InputError, match="nothing gives the ids"):
        meet(config_of((" happy", " sad")), dataset)


def test_files_with_other_classes_or_without_names_are_refused(tmp_path: Path) -> None:
    """Ids of a file that does not name them could be anything."""
    with pytest.raises(InputError, match=r"its classes \(a, c\) are not those of"):
        two_files(tmp_path / "d", ("a", "b"), ("a", "c"))
    with pytest.raises(InputError, match="does not name the classes of its column 'label'"):
        two_files(tmp_path / "e", ("a", "b"), None)


def test_the_limit_does_not_decide_how_labels_are_read(tmp_path: Path) -> None:
    """The first rows lack the class that shows that ids count from 1."""
    path = write(tmp_path / "x.csv", [1, 2, 3, 1, 4])
    with pytest.raises(InputError, match="run from 1 to 4"):
        meet(config_of("answer", limit=3), open_dataset(path, split="test[:3]"))
    given_names = {str(i + 1): name for i, name in enumerate(AG_NEWS)}
    classes, _ = meet(config_of("answer", label_names=given_names), open_dataset(path))
    assert (classes.ids, classes.names) == ((1, 2, 3, 4), AG_NEWS)


def test_label_names_by_id_may_leave_a_name_as_it_is(tmp_path: Path) -> None:
    """A column of numbers and words: the words are names already."""
    words = {"one": " one", "two": " two", "other": " other"}
    config = config_of(words, label_names={"1": "one", "2": "two", "other": "other"})
    dataset = open_dataset(write(tmp_path / "x.csv", [1, "other", 2]))
    classes, (prompt,) = meet(config, dataset)
    assert gold_names(dataset, classes, tmp_path) == ["one", "other", "two"]
    assert {label.name: label.words for label in prompt.labels} == words
    for labels in ([1, "other", 3], [0, 1, "other"]):  # the id that `other` is kept under is no label of the data
        again = open_dataset(write(tmp_path / "y.csv", labels))
        classes = choose_classes(config, again)
        with pytest.raises(InputError, match=r"the label '[03]' is not one of"):
            gold_names(again, classes, tmp_path)
    assert label_names("1=one, 2=two, other=other") == {"1": "one", "2": "two", "other": "other"}
    assert label_names("a=b,c") == ("a=b", "c")
