"""Items of several columns, items that bring their own choices, and requests: each scored as one obvious forward would.

The data is of our own writing, a few items in every shape; the runs are those of the real command.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pipeline.bundled import demo_model_path
from pipeline.one_text import Loaded, load
from tests.flows.conftest import Command, Ended

Rows = Sequence[Mapping[str, Any]]
Request = tuple[str, str]

NLI: Rows = [
    {"premise": "Rain fell all night. ", "hypothesis": "The ground is wet.", "label": 0, "note": {"by": ["ann", "bo"]}},
    {
        "premise": "The shop opens at nine.",
        "hypothesis": "Nobody works there.",
        "label": 1,
        "note": {"by": ["cy", "di"]},
    },
    {
        "premise": "Rain fell all night. ",
        "hypothesis": "It was a dry night.",
        "label": 1,
        "note": {"by": ["ed", "flo"]},
    },
]
QUIZ: Rows = [
    {"q": "What melts at zero degrees?", "options": ["ice", "iron", "glass"], "answer": 0, "kind": "science"},
    {"q": "What do bees make?", "options": ["paper", "honey"], "answer": 1, "kind": "science"},
    {"q": "Which comes first?", "options": ["one", "two", "one", "three", "four"], "answer": 0, "kind": "order"},
    {
        "q": "Name a colour.",
        "options": [f"shade {n}" for n in range(9)] + ["red", "blue"],
        "answer": 9,
        "kind": "order",
    },
]
GAPS: Rows = [
    {"s": "The cup did not fit into the bag because the _ was too big.", "a": "cup", "b": "bag", "right": "1"},
    {"s": "Ann thanked Bea because _ had helped her.", "a": "Ann", "b": "Bea", "right": "2"},
]
PAIRS: Rows = [
    {"good": "The dogs bark.", "bad": "The dogs barks."},
    {"good": "She has seen it.", "bad": "She have seen it."},
]
SEAMS: Rows = [{"text": "Stocks fell today.", "label": n % 77} for n in (3, 76)]
NAMES = [f"matter {n}" for n in range(77)]


def toml(prompt: str, run: str = "") -> str:
    return f'{run}\nprompt = ["p"]\n[prompts.p]\n{prompt}\n'


# name -> rows, configuration, the requests that it means
SHAPES: dict[str, tuple[Rows, str, list[Request]]] = {
    "two columns": (
        NLI,
        toml(
            'template = "{premise}\\nSo: {hypothesis}\\nTrue?"\nlabels = [" yes", " no"]', 'label_names = ["yes", "no"]'
        ),
        [(f"{r['premise']}\nSo: {r['hypothesis']}\nTrue?", words) for r in NLI for words in (" yes", " no")],
    ),
    "stripped columns, elements of lists": (
        NLI,
        toml(
            'template = "{premise} ({note.by[1]}) {hypothesis}"\nlabels = { yes = " yes", no = " no" }\nstrip = true',
            'label_names = ["yes", "no"]',
        ),
        [
            (f"{r['premise'].strip()} ({r['note']['by'][1]}) {r['hypothesis']}", words)
            for r in NLI
            for words in (" yes", " no")
        ],
    ),
    "choices from a list": (
        QUIZ,
        toml('template = "Q: {q}\\nA:"\nchoices = "options"', 'label_column = "answer"'),
        [(f"Q: {r['q']}\nA:", f" {option}") for r in QUIZ for option in r["options"]],
    ),
    "choices from columns, no context": (
        PAIRS,
        toml('template = ""\nchoices = ["good", "bad"]', "gold = 0"),
        [("", f" {r[name]}") for r in PAIRS for name in ("good", "bad")],
    ),
    "a context for each choice": (
        GAPS,
        toml(
            'template = "{s.before(_)}{choice}"\nchoices = ["a", "b"]\nchoice = "{s.after(_)}"',
            'label_column = "right"\nlabel_names = ["1", "2"]',
        ),
        [(r["s"].split("_")[0] + r[name], r["s"].split("_")[1]) for r in GAPS for name in ("a", "b")],
    ),
    "the harness' seam after a line break": (
        QUIZ,
        toml(
            'template = "Q: {q}\\nA:\\n\\n"\nchoices = "options"\nchoice = "{choice}"\nboundary = "harness"',
            'label_column = "answer"',
        ),
        [(f"Q: {r['q']}\nA:", f"\n\n{option}") for r in QUIZ for option in r["options"]],
    ),
    "77 labels": (
        SEAMS,
        toml(
            f'template = "{{text}}\\nIt is about"\nlabels = {json.dumps([f" {name}" for name in NAMES])}',
            f"label_names = {json.dumps(NAMES)}",
        ),
        [("Stocks fell today.\nIt is about", f" {name}") for _ in SEAMS for name in NAMES],
    ),
}


@pytest.fixture(scope="module")
def model() -> Loaded:
    return load(dtype="float32", device="cpu")


@torch.inference_mode()
def slow(model: Loaded, context: str, continuation: str) -> float:
    """The log-likelihood by one plain forward of context and continuation alone."""
    start = [model.tokenizer.bos_token_id]
    before = start + model.tokenizer(context, add_special_tokens=False)["input_ids"]
    whole = start + model.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    logprobs = model.model(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
    return sum(float(logprobs[at - 1, whole[at]]) for at in range(len(before), len(whole)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(rows: Rows, name: str = "d.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def scores(out: str = "out") -> pl.DataFrame:
    return pl.read_parquet(f"{out}/scores/scores.parquet")


def run(labelscore: Command, config: str, *options: str) -> Ended:
    Path("c.toml").write_text(config)
    return labelscore("run", "c.toml", "--dataset", "d.jsonl", "--out", "out", *options)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_scored_as_one_forward_would(labelscore: Command, model: Loaded, here: Path, shape: str) -> None:
    """One row for each item and choice in order, with its own score; a second run scores nothing."""
    rows, config, requests = SHAPES[shape]
    write(rows)
    done = run(labelscore, config)
    assert done.code == 0, done.err
    found = scores().sort("item_id", "label_id")
    assert found.height == len(requests)
    assert found["logprob"].to_list() == pytest.approx([slow(model, *request) for request in requests], abs=1e-4)
    delimited = [words.removeprefix("\n\n").removeprefix(" ") for _, words in requests]
    if "context for each" in shape:
        delimited = [context for context, _ in requests]
    assert found["norm_chars"].to_list() == [len(text) for text in delimited]
    again = run(labelscore, config)
    assert again.code == 0
    assert "nothing to score" in again.err
    assert scores().sort("item_id", "label_id").equals(found)
    assert labelscore("verify", "out").code == 0


def test_one_edited_choice_scores_one_item_again(labelscore: Command, here: Path) -> None:
    """The others are found in the store, wherever they have moved."""
    rows, config, _ = SHAPES["choices from a list"]
    write(rows)
    assert run(labelscore, config).code == 0
    before = scores().filter(pl.col("item_id") != 1)
    edited = [dict(row) for row in rows]
    edited[1]["options"] = ["wax", "honey"]
    write([edited[1], *edited[:1], *edited[2:]])
    done = run(labelscore, config)
    assert "1 to score (texts x prompts), 3 stored already" in done.err
    after = scores()
    moved = after.filter(pl.col("item_id") > 0).sort("text_hash", "label_id")
    assert moved["logprob"].to_list() == before.sort("text_hash", "label_id")["logprob"].to_list()
    assert after.filter(pl.col("item_id") == 0)["label"].to_list() == ["wax", "honey"]
    assert "4 to score" in run(labelscore, config, "--force").err
    assert "nothing to score" in run(labelscore, config, "--where", "kind=order", "--limit", "1").err
    assert scores()["item_id"].unique().to_list() == [2]


def test_equal_choices_tie_and_the_first_wins(labelscore: Command, here: Path) -> None:
    write(QUIZ)
    assert run(labelscore, SHAPES["choices from a list"][1]).code == 0
    found = scores().filter(pl.col("item_id") == 2)
    assert found["logprob"][0] == found["logprob"][2]
    predictions = pl.read_parquet("out/report/predictions.parquet").filter(pl.col("item_id") == 2)
    assert not predictions["predicted_id"].is_in([2]).any()
    assert set(predictions["rule"]) == {"sum", "mean_token", "mean_char", "mean_byte", "logit"}


def test_two_prompts_may_use_different_columns(labelscore: Command, here: Path) -> None:
    """Each keeps the hash of its own columns; items.parquet has all of them, and both join on theirs."""
    write(NLI)
    config = (
        'label_names = ["yes", "no"]\nprompt = ["one", "two"]\ntext_column = "premise"\n'
        '[prompts.one]\ntemplate = "{text} It is"\nlabels = [" yes", " no"]\n'
        '[prompts.two]\ntemplate = "{hypothesis} {premise} It is"\nlabels = [" yes", " no"]\n'
    )
    done = run(labelscore, config)
    assert done.code == 0, done.err
    items, found = pl.read_parquet("out/items.parquet"), scores()
    assert {"text", "hypothesis", "premise", "text_hash", "hash_two"} <= set(items.columns)
    for prompt, column in (("one", "text_hash"), ("two", "hash_two")):
        own = found.filter(pl.col("prompt") == prompt)
        joined = own.join(items, left_on=["item_id", "text_hash"], right_on=["item_id", column])
        assert joined.height == own.height == 2 * len(NLI)
    # Two of three premises are one text, which is scored once (and so are content-free texts).
    assert "11 to score" in done.err


def test_requests_are_scored_as_they_stand(labelscore: Command, model: Loaded, here: Path) -> None:
    """A row for each choice; contexts may differ within an item, and blanks at their end are scored with the words."""
    _, _, gaps = SHAPES["a context for each choice"]
    pairs = [(0, *gaps[0], 0), (0, *gaps[1], 0), (1, "Bees make: ", "honey", 1), (1, "Bees make: ", "steel", 1)]
    pairs += [(2, "", "One", None), (2, "", " Two", None), (2, "", "Three", None)]
    rows = [
        {"item": item, "choice": sum(p[0] == item for p in pairs[:i]), "context": a, "continuation": b, "gold": gold}
        for i, (item, a, b, gold) in enumerate(pairs)
    ]
    write(rows)
    done = labelscore("run", "--dataset", "d.jsonl", "--prompt", "requests", "--out", "out")
    assert done.code == 0, done.err
    found = scores().sort("item_id", "label_id")
    moved = [(a.rstrip(), a[len(a.rstrip()) :] + b) for _, a, b, _ in pairs]
    assert found["logprob"].to_list() == pytest.approx([slow(model, *request) for request in moved], abs=1e-4)
    assert found["gold_id"].to_list() == [0, 0, 1, 1, None, None, None]
    assert found["norm_chars"].to_list() == [len(a) for _, a, _, _ in pairs[:2]] + [5, 5, 3, 3, 5]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"item": None, "context": "a", "continuation": " b"}] * 2, "has no item; number the items"),
        (
            [
                {"item": i, "context": "a", "continuation": w}
                for i, w in ((0, " b"), (0, " c"), (1, " b"), (1, " c"), (0, " d"))
            ],
            "the rows of item 0 do not stand together",
        ),
        ([{"item": 0, "choice": n, "context": "a", "continuation": " b"} for n in (0, 2)], "are not numbered 0, 1, 2"),
        ([{"item": 0, "context": "a\ud800", "continuation": w} for w in (" b", " c")], "not valid Unicode"),
        ([{"item": 0, "context": "a", "continuation": " b"}], "one choice"),
        ([{"item": 0, "context": "a", "continuation": w, "gold": w} for w in (" b", " c")], "do not agree on its gold"),
    ],
)
def test_requests_that_cannot_be_read_are_told(labelscore: Command, here: Path, rows: Rows, words: str) -> None:
    write(rows)
    done = labelscore("run", "--dataset", "d.jsonl", "--prompt", "requests", "--out", "out")
    assert done.code == 2, done.err
    assert words in done.complaints[0]


def test_an_item_of_requests_may_go_on_in_the_next_file(labelscore: Command, here: Path) -> None:
    """The rows of a folder's files are one after the other."""
    Path("d").mkdir()
    rows = [{"item": i // 2, "context": "a", "continuation": f" {w}"} for i, w in enumerate("bcde")]
    write(rows[:1], "d/test-0.jsonl")
    write(rows[1:], "d/test-1.jsonl")
    done = labelscore("run", "--dataset", "d", "--prompt", "requests", "--out", "out")
    assert done.code == 0, done.err
    assert scores()["label"].to_list() == [" b", " c", " d", " e"]


def test_what_one_prompt_takes_does_not_depend_on_its_neighbours(labelscore: Command, here: Path) -> None:
    """A text that is blank is no item, whatever another prompt reads beside it."""
    write([{"text": "fine", "s": "x", "label": 0}, {"text": " ", "s": "y", "label": 1}])
    prompts = '[prompts.one]\ntemplate = "{text}"\nlabels = [" a", " b"]\n[prompts.two]\ntemplate = "{s} {text}"\n'
    config = f'label_names = ["a", "b"]\nprompt = ["one", "two"]\n{prompts}labels = [" a", " b"]\n'
    for options in ((), ("--prompt", "one")):
        done = run(labelscore, config, *options)
        assert done.code == 2
        assert "row 1: the text is only white space" in done.complaints[0]


def test_what_the_harness_logs_is_a_data_set(labelscore: Command, here: Path) -> None:
    """Its targets are texts of numbers; mutual information's further requests are no choices."""
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(QUIZ[:2]):
        requests = [(f"Q: {row['q']}\nA:", f" {option}") for option in row["options"]]
        requests += [("", words) for _, words in requests]
        arguments = {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(requests)}
        rows.append(
            {"doc_id": number, "target": str(row["answer"]), "arguments": arguments, "acc": 1.0, "acc_mutual_info": 0.0}
        )
    write(rows, "samples_quiz.jsonl")
    done = labelscore("run", "--dataset", "samples_quiz.jsonl", "--prompt", "requests", "--out", "requests")
    assert done.code == 0, done.err
    write(QUIZ[:2])
    assert run(labelscore, SHAPES["choices from a list"][1]).code == 0
    ours, theirs = scores(), scores("requests")
    columns = ["item_id", "label_id", "label_words", "gold_id", "num_tokens", "norm_chars", "prompt_tokens"]
    assert ours.select(columns).equals(theirs.select(columns))
    assert ours["logprob"].to_list() == pytest.approx(theirs["logprob"].to_list(), abs=1e-5)


def test_several_contexts_have_no_gold_in_a_log(labelscore: Command, here: Path) -> None:
    """There the target is the one continuation, which is that of every choice."""
    arguments = [["The cup", " was big."], ["The bag", " was big."]]
    write([{"doc_id": 0, "target": " was big.", "arguments": arguments}])
    done = labelscore("run", "--dataset", "d.jsonl", "--prompt", "requests", "--out", "out")
    assert done.code == 0, done.err
    assert scores()["gold_id"].to_list() == [None, None]
    assert "no row has a label, so there is no accuracy" in done.err


def test_solved_examples_show_the_right_choice(labelscore: Command, here: Path) -> None:
    """Drawn from rows whose columns are not scored."""
    write(QUIZ)
    shots = [{"q": f"What is {n} and one?", "options": [str(n), f"{n + 1}"], "answer": 1} for n in range(10, 15)]
    write([*shots, QUIZ[0]], "shots.jsonl")
    done = run(labelscore, SHAPES["choices from a list"][1], "--num-shots", "2", "--shots-split", "shots.jsonl")
    assert done.code == 0, done.err
    assert "1 rows of shots.jsonl were left out because their text is scored" in done.err
    plain = scores()["prompt_tokens"].to_list()
    assert run(labelscore, SHAPES["choices from a list"][1]).code == 0
    assert min(a - b for a, b in zip(plain, scores()["prompt_tokens"].to_list(), strict=True)) > 10


# --- what cannot be scored ------------------------------------------------------------------------------------------

ROW = {"q": "Who?", "o": ["a b", "c"], "a": 0, "s": "x"}
BAD: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "a slot that no column fills": ({}, 'template = "{question}"\nchoices = "o"', "no column 'question'; it has q, o"),
    "a near miss": (
        {"premise": "x"},
        'template = "{premis}"\nchoices = "o"',
        "no column 'premis'; did you mean 'premise'?",
    ),
    "a column of choices that is no list": (
        {"o": "a, b"},
        'template = "{q}"\nchoices = "o"',
        "'o' is no list of choices but a text; name a column for each choice",
    ),
    "a record that holds the list": (
        {"o": {"text": ["a", "b"], "label": ["A", "B"]}},
        'template = "{q}"\nchoices = "o"',
        "'o' is no list of choices but a record of text, label; choices = \"o.text\" names one in it",
    ),
    "gold outside the choices": (
        {"a": 7},
        'template = "{q}"\nchoices = "o"',
        "the label '7' is not the place (from 0) of",
    ),
    "an empty list": ({"o": []}, 'template = "{q}"\nchoices = "o"', "'o' holds no choices; at least two"),
    "one choice": ({"o": ["a"]}, 'template = "{q}"\nchoices = "o"', "'o' holds one choice ('a'); at least two"),
    "an empty choice": ({"o": ["a", ""]}, 'template = "{q}"\nchoices = "o"', "choice 1 of 'o' is empty"),
    "a null in a used column": ({"s": None}, 'template = "{q} {s}"\nchoices = "o"', "row 1: 's' is null"),
    "a null choice": ({"o": ["a", None]}, 'template = "{q}"\nchoices = "o"', "choice 1 of 'o' is null"),
    "a choice too long to be kept": (
        {"o": ["a", "x" * 40_000]},
        'template = "{q}"\nchoices = "o"',
        "choice 1 has 40,001 bytes",
    ),
    "more choices than places": (
        {"o": [str(n) for n in range(40_000)]},
        'template = "{q}"\nchoices = "o"',
        "'o' holds 40,000 choices, at most 32,767",
    ),
    "a list where a text is wanted": (
        {"s": ["x"]},
        'template = "{q} {s}"\nchoices = "o"',
        "'s' is not a string but a list",
    ),
    "a mark that is not there": ({}, 'template = "{q.before(_)}"\nchoices = "o"', "'q' has no '_' in it"),
    "an element that is not there": ({}, 'template = "{o[5]}"\nchoices = ["q", "s"]', "'o[5]' is null"),
    "labels and choices": ({}, 'template = "{q}"\nchoices = "o"\nlabels = [" a", " b"]', "has labels and choices"),
    "neither": ({}, 'template = "{q}"', "has neither labels nor choices"),
    "the list itself in the template": (
        {},
        'template = "{o} {q}"\nchoices = "o"',
        "{o} is the list of an item's choices",
    ),
    "the slot of another tool": (
        {},
        'template = "{{q}} {s}"\nchoices = "o"',
        "has 'q' in braces as text, and there is a column",
    ),
    "a name that is taken": (
        {"gold": "x"},
        'template = "{gold}"\nchoices = "o"',
        "items.parquet has a column of that name",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_told_in_one_line(labelscore: Command, here: Path, case: str) -> None:
    """With what is wrong and where, before anything is written."""
    changed, prompt, words = BAD[case]
    write([ROW | {key: ROW.get(key, "x") for key in changed}, ROW | dict(changed), ROW])
    done = run(labelscore, toml(prompt, 'label_column = "a"'))
    assert done.code == 2, done.err
    assert len(done.complaints) == 1
    assert words in done.complaints[0]
    assert not Path("out/manifest.json").exists()


@pytest.mark.parametrize(
    ("golds", "options", "words"),
    [
        ([1, 2], (), "count from 1, and places count from 0"),
        (["A", "B"], (), 'label_names = ["A", "B", "C", "D"]'),
        ([[0, 1], [1, 0]], (), "pairs of 0 and 1"),
        ([0, 0], ("--where", "q=nobody"), "where q = nobody keeps no row; q holds Who?"),
        ([0, 0], ("--where", "z=1"), "no column 'z'"),
        ([0, 0], ("--where", "z"), "write a column and a value"),
    ],
)
def test_gold_that_can_be_read_in_two_ways_is_refused(
    labelscore: Command, here: Path, golds: list[Any], options: Sequence[str], words: str
) -> None:
    write([ROW | {"a": gold} for gold in golds])
    done = run(labelscore, toml('template = "{q}"\nchoices = "o"', 'label_column = "a"'), *options)
    assert done.code == 2, done.err
    assert words in done.complaints[0]


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        ([{"a": 1}, {"a": 0}], "", [1, 0]),
        ([{"a": "c"}, {"a": "a b"}], "", [1, 0]),
        ([{"a": "B"}, {"a": "A"}], 'label_names = ["A", "B"]', [1, 0]),
        ([{"a": 1}, {"a": 2}], 'label_names = ["1", "2"]', [0, 1]),
        ([{"a": "y", "s": ["x", "y"]}, {"a": "x", "s": ["x", "y"]}], 'label_names = "s"', [1, 0]),
        ([{"a": [0, 1, 0], "o": ["p", "q", "r"]}, {"a": [1, 0]}], "", [1, 0]),
        ([{"a": "2", "o": ["1", "3", "8"]}, {"a": "0", "o": ["1", "0"]}, {"a": "1"}], "", [2, 0, 1]),
        ([{"a": "1"}, {"a": None}], "", [1, None]),
        ([{"a": 5}, {"a": 6}], "gold = 1", [1, 1]),
    ],
)
def test_gold_is_a_place_a_text_or_what_the_configuration_says(
    labelscore: Command, here: Path, rows: Rows, keys: str, expected: list[int | None]
) -> None:
    write([ROW | dict(row) for row in rows])
    done = run(labelscore, toml('template = "{q}"\nchoices = "o"', f'label_column = "a"\n{keys}'))
    assert done.code == 0, done.err
    items = pl.read_parquet("out/items.parquet")
    assert items["gold_id"].to_list() == expected
    assert items["gold"].to_list() == [
        None if place is None else choices[place]
        for place, choices in zip(expected, items["item_choices"], strict=True)
    ]


def test_prompts_that_choose_among_different_things_are_run_apart(labelscore: Command, here: Path) -> None:
    write([ROW])
    config = 'prompt = ["p", "r"]\n[prompts.p]\ntemplate = "{q}"\nchoices = "o"\n[prompts.r]\ntemplate = "{q}"\n'
    for other in ('choices = ["q", "s"]', 'labels = [" a", " b"]'):
        done = run(labelscore, config + other)
        assert done.code == 2
        assert "choose among different things" in done.complaints[0]


def test_a_choice_without_tokens_stops_the_run(labelscore: Command, here: Path) -> None:
    """Under a tokenizer that drops some characters; one line, and nothing of it is published."""
    shutil.copytree(demo_model_path(), "model")
    file = Path("model/tokenizer.json")
    tokenizer = json.loads(file.read_text())
    dropped = {"type": "Replace", "pattern": {"String": "#"}, "content": ""}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [dropped, tokenizer["normalizer"]]}
    file.write_text(json.dumps(tokenizer))
    write([ROW, ROW | {"o": ["a", "##"]}])
    config = toml('template = "{q}"\nchoices = "o"\nchoice = "{choice}"', 'label_column = "a"')
    done = run(labelscore, config, "--model", "model")
    assert done.code == 2, done.err
    assert "the choice '##' has no tokens" in done.complaints[-1]
    assert not Path("out/manifest.json").exists()
    write([ROW])
    assert run(labelscore, config, "--model", "model").code == 0


def test_bad_rows_can_be_left_out(labelscore: Command, here: Path) -> None:
    """They are kept in rejected.parquet, as they are."""
    write([ROW, ROW | {"o": ["only"]}, ROW | {"q": "Where?"}])
    config = toml('template = "{q}"\nchoices = "o"', 'label_column = "a"')
    assert run(labelscore, config, "--on-bad-row", "skip").code == 0
    assert pl.read_parquet("out/items.parquet")["item_id"].to_list() == [0, 2]
    assert "one choice" in pl.read_parquet("out/rejected.parquet")["reason"][0]


@pytest.mark.parametrize(
    ("prompt", "run_keys", "options", "words"),
    [
        ('template = "{q}"\nchoices = "o"', "", ("--rule", "pmi"), "rule 'pmi' needs the same labels for all items"),
        (
            'template = "{q}"\nlabels = [" a", " b"]',
            'label_names = ["a", "b"]',
            ("--gold", "0"),
            "gold is the place of",
        ),
        ('template = "{q}"\nchoices = "o"', 'text_column = "s"', (), "text_column is 's', and no prompt has {text}"),
        ('template = "{q}"\nlabels = [" a", " b"]\nchoice = "x{choice}"', "", (), 'add choices = "COLUMN"'),
        ('template = ""\nchoices = "o"', "", ("--max-text-tokens", "5"), "has no column that could be cut"),
        ('template = "{q}"\nchoices = "o"', "", ("--where", "s=x", "--where", "s=y"), "a column stands there twice"),
        ('template = "{q}"\nchoices = "o"', "where = { s = [1] }", (), "give one value, a text or a number"),
        (
            'template = "{q}"\nchoices = "o"',
            'label_names = { 0 = "1", 1 = "0" }',
            (),
            "is what two choices are called",
        ),
    ],
)
def test_what_would_change_nothing_or_two_things_is_refused(
    labelscore: Command, here: Path, prompt: str, run_keys: str, options: Sequence[str], words: str
) -> None:
    """An option that is ignored, or read in one of two ways, makes a figure that nobody asked for."""
    write([ROW, ROW])
    done = run(labelscore, toml(prompt, f'label_column = "a"\n{run_keys}'), *options)
    assert done.code == 2, done.err
    assert words in done.complaints[-1]


def test_braces_around_a_column_that_no_slot_can_name_are_refused(labelscore: Command, here: Path) -> None:
    """Scored as text, every item would be the same."""
    write([ROW | {"the question": "x", "1st": "y"}])
    for name in ("the question", "1st"):
        done = run(labelscore, toml(f'template = "{{{name}}} {{q}}"\nchoices = "o"', 'label_column = "a"'))
        assert done.code == 2
        assert f"has '{name}' in braces as text, and there is a column '{name}'" in done.complaints[0]


@pytest.mark.parametrize(
    "braces", ["{o[-1]}", "{q.upper()}", "{q!r}", "{q:>5}", "{q|trim}", "{{q.x}}", "_{q.x}", "\\item{q}", "{a['x']}"]
)
def test_what_looks_like_a_column_in_braces_is_never_text(labelscore: Command, here: Path, braces: str) -> None:
    """Scored as text, the model would read the slot of another tool."""
    write([ROW])
    for prompt in (
        f"template = '{{q}} {braces}'\nchoices = 'o'",
        f"template = '{{q}}'\nchoices = 'o'\nchoice = ' {{choice}} {braces}'",
    ):
        done = run(labelscore, toml(prompt.replace("'x'", "x"), 'label_column = "a"'))
        assert done.code == 2, done.err
        assert "in braces" in done.complaints[0] or "read in two ways" in done.complaints[0]


def test_where_does_not_hide_how_labels_count(labelscore: Command, here: Path) -> None:
    """Labels that count from 1 over the whole file are not places from 0 in a part of it."""
    write([ROW | {"a": 1, "s": "x"}, ROW | {"a": 2, "s": "y"}])
    done = run(labelscore, toml('template = "{q}"\nchoices = "o"', 'label_column = "a"'), "--where", "s=x")
    assert done.code == 2
    assert "count from 1" in done.complaints[0]


def test_a_broken_row_of_requests_takes_its_item_along(labelscore: Command, here: Path) -> None:
    """Without one of its choices an item would be an easier one."""
    rows = [{"item": i, "choice": c, "context": f"{i}", "continuation": f" {c}"} for i in range(4) for c in range(3)]
    lines = [json.dumps(row) for row in rows]
    lines[4] = lines[4][:-3]
    Path("d.jsonl").write_text("\n".join(lines))
    done = labelscore("run", "--dataset", "d.jsonl", "--prompt", "requests", "--out", "out", "--on-bad-row", "skip")
    assert done.code == 0, done.err
    assert pl.read_parquet("out/items.parquet")["context"].list.first().to_list() == ["0", "2", "3"]


def test_solved_examples_of_a_prompt_are_its_own(labelscore: Command, here: Path) -> None:
    """What another prompt reads neither lets a scored text through nor changes the draw."""
    write([{"text": f"text {n}", "z": f"z{n}", "label": n % 2} for n in range(4)])
    shots = [{"text": f"text  {n}", "z": f"other {n}", "label": n % 2} for n in range(8)]
    write(shots, "shots.jsonl")
    prompts = '[prompts.t]\ntemplate = "{text}:"\nlabels = [" a", " b"]\n[prompts.z]\ntemplate = "{z} {text}:"\n'
    config = f'label_names = ["a", "b"]\nprompt = ["t", "z"]\n{prompts}labels = [" a", " b"]\n'
    options = ("--num-shots", "2", "--shots-split", "shots.jsonl")
    assert run(labelscore, config, *options, "--prompt", "t").code == 0
    alone = scores()
    done = run(labelscore, config, *options)
    assert done.code == 0, done.err
    both = scores().filter(pl.col("prompt") == "t")
    assert both["logprob"].to_list() == alone["logprob"].to_list()
    assert "4 rows of shots.jsonl were left out" in done.err


def test_items_with_other_choices_are_not_compared(labelscore: Command, here: Path) -> None:
    """The same row and text with its choices exchanged is another item."""
    config = toml('template = "{text}"\nchoices = "o"', 'label_column = "a"')
    for out, choices in (("one", ["x", "y"]), ("two", ["y", "x"])):
        write([{"text": f"t {n}", "o": choices, "a": 0} for n in range(3)])
        Path("c.toml").write_text(config)
        assert labelscore("run", "c.toml", "--dataset", "d.jsonl", "--out", out).code == 0
    done = labelscore("compare", "one", "two")
    assert "In both: 3" not in done.out


def test_a_refused_report_leaves_nothing_behind(labelscore: Command, here: Path) -> None:
    write([ROW])
    assert run(labelscore, toml('template = "{q}"\nchoices = "o"', 'label_column = "a"')).code == 0
    assert labelscore("report", "out", "--rule", "pmi").code == 2
    assert labelscore("verify", "out").code == 0


def test_notes_on_what_seldom_is_meant(labelscore: Command, here: Path) -> None:
    """A choice glued to its prompt, the gold label in the prompt, prompts that are defined and not chosen."""
    write([ROW])
    done = run(labelscore, toml('template = "{q}{a}:"\nchoices = "o"\nchoice = "{choice}"', 'label_column = "a"'))
    assert done.code == 0, done.err
    assert 'the choices follow the template directly (":{choice}"); write choice = " {choice}"' in done.err
    assert "its template has the gold label's own column in it" in done.err
    done = run(labelscore, '[prompts.quiz]\ntemplate = "{q}"\nchoices = "o"\n')
    assert done.code == 2
    assert '[prompts.quiz]; choose them with prompt = ["quiz"]' in done.complaints[0]


def test_rows_that_where_leaves_out_may_have_other_labels(labelscore: Command, here: Path) -> None:
    """A file may hold several tasks; the labels of another are nothing to this one, as long as ids are not counted."""
    write(
        [
            {"t": "It was fun.", "kind": "mood", "label": "good"},
            {"t": "Rain.", "kind": "topic", "label": 7},
            {"t": "It was dull.", "kind": "mood", "label": "bad"},
        ]
    )
    config = toml('template = "{t} It is"\nlabels = { good = " good", bad = " bad" }')
    done = run(labelscore, config, "--where", "kind=mood")
    assert done.code == 0, done.err
    items = pl.read_parquet("out/items.parquet")
    assert items.select("item_id", "gold").rows() == [(0, "good"), (2, "bad")]
    numbers = toml('template = "{t} It is"\nlabels = [" good", " bad"]', 'label_names = ["good", "bad"]')
    write(
        [{"t": "a", "kind": "x", "label": 1}, {"t": "b", "kind": "y", "label": 2}, {"t": "c", "kind": "x", "label": 1}]
    )
    done = run(labelscore, numbers, "--where", "kind=x")
    assert done.code == 2
    assert "from 1" in done.complaints[0] or "1 to 2" in done.complaints[0]
