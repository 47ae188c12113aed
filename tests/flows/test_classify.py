"""`labelscore classify`: what is typed is taken as a person means it, and scored as a run would score it."""

import json
from pathlib import Path

import polars as pl
import pytest

from flows.cli import app, main
from pipeline.errors import InputError
from pipeline.one_text import ONE_TEXT_RULES
from pipeline.prompts import AG_NEWS
from tests.flows.conftest import Command

TEXT = "The striker scored twice, and I am happy!"


def parse(*arguments: str) -> dict[str, object]:
    """The parameters of a command, as the command line reads them."""
    return dict(app.parse_args(arguments)[1].arguments)


def labels_of(typed: str) -> object:
    """What `--labels` makes of what was typed."""
    return parse("classify", "x", "--template", "{text}", "--labels", typed)["labels"]


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        ("positive,negative", ("positive", "negative")),
        (" positive, negative", (" positive", " negative")),
        (" not good, good", (" not good", " good")),
        ('"yes, of course",no', ("yes, of course", "no")),
        ('" yes, of course", no', (" yes, of course", " no")),
        ('"a", "b"', ("a", "b")),
        ('"a ""b"" c",d', ('a "b" c', "d")),
        ('",",";"', (",", ";")),
        ("a,b,", ("a", "b", "")),
        ("it's,isn't", ("it's", "isn't")),
        ("(a),(b)", ("(a)", "(b)")),
        (r" a\n, b\n", (" a\n", " b\n")),
        (r"\ta,\tb", ("\ta", "\tb")),
        ("ag_news", "ag_news"),
    ],
)
def test_labels_are_split_at_commas_and_keep_their_blanks(typed: str, labels: object) -> None:
    """A label with a comma stands in double quotes; a typed line break is one."""
    assert labels_of(typed) == labels


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("positive, negative", ("' positive, negative'", "'positive,negative'")),
        ('"yes, of course", no', ("""'" yes, of course", no'""", """'"yes, of course",no'""")),
        ('"yes, of course,no', ("double quote is not closed",)),
        ('5" disk,3 inch disk', ("stands amid a part",)),
        ("['a', 'b']", ("brackets or single quotes", "a,b,c")),
        ("'a,b'", ("brackets or single quotes",)),
    ],
)
def test_labels_that_can_only_be_a_slip_are_refused(typed: str, words: tuple[str, ...]) -> None:
    """One line says what to write."""
    with pytest.raises(InputError) as caught:
        labels_of(typed)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_typed_line_breaks_are_taken_as_such_in_a_template_and_not_in_a_text() -> None:
    """A shell hands over a backslash and an n; a text is what it is."""
    arguments = parse("classify", r"a\nb", "--template", r"Review: {text}\n\tMood:", "--labels", " a, b")
    assert (arguments["template"], arguments["text"]) == ("Review: {text}\n\tMood:", r"a\nb")


def classify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, float], str]:
    """Scores under the rule `sum` by the labels as shown, and what was said on standard error."""
    assert main(["classify", TEXT, *arguments]) == 0
    said = capsys.readouterr()
    rows = said.out.split("\n\n")[0].splitlines()[2:]
    cells = [row.rsplit(None, 1 + len(ONE_TEXT_RULES)) for row in rows]  # the label may hold blanks
    return {label.rstrip(): float(total) for label, _, total, *_ in cells}, said.err


def test_ag_news_is_four_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """Not seven letters."""
    scores, _ = classify(capsys, "--template", "{text} Topic: ", "--labels", "ag_news")
    assert tuple(scores) == AG_NEWS


def test_words_are_shown_without_their_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    """In the table, and where the winner is named."""
    scores, said = classify(capsys, "--template", r"{text}\nTopic:", "--labels", '" World, of course", Sports')
    assert list(scores) == ["World, of course", "Sports"]
    assert said == ""


def test_words_that_stick_to_the_template_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and the words are scored as they were written."""
    glued, said = classify(capsys, "--template", r"{text}\nTopic:", "--labels", "World,Sports")
    assert said == (
        'note: the label words follow the template directly ("Topic:World"); '
        'write " World" with a blank before it if one belongs there\n'
    )
    apart, _ = classify(capsys, "--template", r"{text}\nTopic:", "--labels", " World, Sports")
    assert abs(glued["World"] - apart["World"]) > 0.1
    _, said = classify(capsys, "--template", r"{text}\nTopic:", "--labels", "World,Sports", "--boundary", "separate")
    assert said == ""


@pytest.mark.parametrize("boundary", ["joint", "separate"])
@pytest.mark.parametrize("words", [" positive, negative", "positive,negative"])
def test_it_scores_what_a_run_scores(
    words: str, boundary: str, labelscore: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same template, words and text, by the command `run` on a file of one row and by `classify`."""
    positive, negative = words.split(",")
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": TEXT, "label": "positive"}) + "\n")
    (tmp_path / "run.toml").write_text(
        'prompt = ["mine"]\n[prompts.mine]\ntemplate = "Review: {text}\\nMood:"\n'
        f'labels = {{ positive = "{positive}", negative = "{negative}" }}\nboundary = "{boundary}"\n'
    )
    out = tmp_path / "out"
    done = labelscore("run", str(tmp_path / "run.toml"), "--dataset", str(tmp_path / "one.jsonl"), "--out", str(out))
    assert done.code == 0, done
    stored = pl.read_parquet(out / "scores" / "scores.parquet")
    expected = dict(stored.select("label", "logprob").iter_rows())
    assert set(stored["label_words"]) == {positive, negative}
    template = ("--template", r"Review: {text}\nMood:", "--boundary", boundary)
    scores, _ = classify(capsys, *template, "--labels", words)
    assert scores == pytest.approx(expected, abs=6e-4)  # it prints three decimals
