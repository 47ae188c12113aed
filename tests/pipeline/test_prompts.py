"""The built-in prompts, word for word; what no prompt can be, and what it seldom should be."""

import hashlib
import re
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.prompts import BUILT_IN, Boundary, Label, Prompt, glued_words, hash_item, make_prompt, seam_note

INSTRUCTION = (
    "Classify the following news article into one of four categories: World, Sports, Business, or Sci/Tech. The "
    "classification should be based solely on the content of the article.\nArticle:\n{text}"
)


def words(name: str) -> list[str]:
    return [label.words for label in BUILT_IN[name].labels]


def test_the_notebooks_prompts_have_its_words() -> None:
    """Templates and labels as the notebook had them, labels encoded apart."""
    assert BUILT_IN["detailed"].template == BUILT_IN["described"].template == INSTRUCTION
    question = "What is the topic of the following article?{text}"
    assert BUILT_IN["topic"].template == BUILT_IN["topic-science"].template == question
    assert words("detailed") == words("topic") == ["World", "Sports", "Business", "Sci/Tech"]
    assert words("topic-science") == ["World", "Sports", "Business", "Science"]
    assert words("described") == [
        "World: This category includes news articles about international events, politics, conflicts, and global "
        "issues.",
        "Sports: This category includes news articles about various sports, athletic events, players, and "
        "sports-related topics.",
        "Business: This category includes news articles about finance, economy, companies, markets, and "
        "business-related topics.",
        "Sci/Tech: This category includes news articles about science, technology, innovations, research, and tech "
        "industry news.",
    ]
    for name in ("detailed", "described", "topic", "topic-science"):
        assert BUILT_IN[name].boundary == "separate"


def test_the_default_prompt_joins_its_labels() -> None:
    """`answer` begins its words with a space and encodes them with the prompt."""
    prompt = BUILT_IN["answer"]
    assert (prompt.template, prompt.boundary) == ("Article: {text}\nTopic:", "joint")
    assert words("answer") == [" World", " Sports", " Business", " Sci/Tech"]
    assert (prompt.head, prompt.tail) == ("Article: ", "\nTopic:")


# --- what is refused ------------------------------------------------------------------------------------------------

NAMES = ("good", "bad", "neither", "both")


def make(template: str, *words: str, boundary: Boundary = "joint") -> Prompt:
    return make_prompt("mine", template, words or (" a", " b"), NAMES[: len(words) or 2], boundary)


@pytest.mark.parametrize(
    ("template", "seen"),
    [
        ("Article:", None),
        ("Article: {}", "{}"),
        ("Article: {text!r}", "{text!r}"),
        ("<b>Article</b>: <text>", "<text>"),
        ("Article: [ARTICLE]", "[ARTICLE]"),
        ("Article: %s", "%s"),
        ("Article: $text", "$text"),
        ("Article: {{question}}", "{{question}}"),
    ],
)
def test_a_template_without_a_slot_is_refused_and_what_looks_like_one_is_named(template: str, seen: str | None) -> None:
    """People who come from other tools write the slot in their way."""
    with pytest.raises(InputError) as caught:
        make(template)
    line = str(caught.value)
    assert "the template has no slot" in line
    assert "write {text} where the text goes" in line
    assert (f"(it has '{seen}')" in line) if seen else ("(it has" not in line)


@pytest.mark.parametrize(
    "seen",
    ["{{text}}", "{{{text}}}", "${text}", "{text}}", "{{text}", "{ text }", "{{ text }}", "{{ Text }}", "${title}"],
)
def test_braces_that_can_be_read_in_two_ways_are_refused(seen: str) -> None:
    """Scored as written, the item would stand in braces, or the second slot would be read by the model."""
    template = f"News: {seen}\nDesk:" if "{text}" in seen else f"News: {{text}}\n{seen}\nDesk:"
    with pytest.raises(InputError, match=re.escape(f"'{seen}'") + r".* which can be read in two ways; write \{"):
        make(template)


@pytest.mark.parametrize("written", ["{ sentence }", "{sentence }", "{text}{ answers.text }"])
def test_blanks_within_braces_are_refused(written: str) -> None:
    """They may be a slot of another tool, or text."""
    with pytest.raises(InputError, match=r"can be read in two ways; write \{(sentence|answers.text)\} for the column"):
        make(f"{written} {{text}}")


@pytest.mark.parametrize(
    "template",
    [
        'JSON: {"news": "{text}", "desk":',
        'JSON: {"a": {"b": 1}} {text} ->',
        r"\section{News}\begin{quote}{1} x_{i} \frac{a}{b} {text} {}",
        "def read(text): return {'text': {1, 2}}\n{text}",
        "Is <text> or [text] or %s meant? {text}",
        "Path: C:\\data {text}",
        r"Is $\theta \neq \nabla x$ in \textbf{x}? {text}",
    ],
)
def test_other_braces_are_text(template: str) -> None:
    """JSON, LaTeX and code belong to prompts, too."""
    assert make(template).template == template


@pytest.mark.parametrize(("typed", "meaning"), [(r"\n", "a line break"), (r"\t", "a tab"), (r"\r\n", "a line break")])
def test_a_line_break_of_a_backslash_and_a_letter_is_refused(typed: str, meaning: str) -> None:
    """So it is in single quotes in TOML; the model would read a backslash and the word "nTopic"."""
    said = f"write the string in double quotes, where {typed[-2:]} is {meaning}"
    with pytest.raises(InputError, match=f"the template has .*{re.escape(said)}"):
        make(f"Article: {{text}}{typed}Topic:")
    with pytest.raises(InputError, match=rf"label 1 \('bad'\) has .*{re.escape(said)}"):
        make("Article: {text}\nTopic:", " a", f" b{typed}")


def test_slots_are_columns_ways_into_them_and_parts_of_them() -> None:
    """Values are put in as they are; doubled braces are braces."""
    prompt = make('{premise} {answers.text} {choices[1]}{{"a": {gap.before(_)}|{gap.after(_)}|{gap.strip()}" }}')
    values = {"premise": " p{x} ", "answers.text": "t", "choices[1]": "c", "gap": " left _ right _ "}
    assert prompt.columns == ("premise", "answers.text", "choices[1]", "gap")
    assert prompt.fill(values) == ' p{x}  t c{"a":  left | right _ |left _ right _" }'
    stripped = Prompt("s", "<{premise}|{gap.after(_)}>", prompt.labels, strip=True)
    assert stripped.fill(values) == "<p{x}|right _>"
    assert make("{text} and {text}").fill({"text": "x"}) == "x and x"


def test_braces_are_doubled_throughout_or_not_at_all() -> None:
    """JSON with single braces stays as it is, ends that meet too."""
    written = '{"a": {"b": "{text}"}}'
    assert make(written).fill({"text": "x"}) == '{"a": {"b": "x"}}'
    assert make('{{"a": {{"b": "{text}"}}}}').fill({"text": "x"}) == '{"a": {"b": "x"}}'
    for mixed in ('{{"a": {"b": "{text}"}}}', "{{1}} {text} {"):
        with pytest.raises(InputError, match="doubled braces, which are braces, and a single"):
            make(mixed)


@pytest.mark.parametrize("call", ["{a.before()}", "{a.strip(x)}", "{a.after()}"])
def test_a_call_without_what_it_needs_is_refused(call: str) -> None:
    with pytest.raises(InputError, match=r"write .before\(X\), .after\(X\) or .strip\(\)"):
        make(f"{call} {{text}}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"choices": ("a",)}, "choices names 1 columns"),
        ({"choices": "a", "choice": " x"}, "where a choice is written"),
        ({"choices": "a", "cut": "title"}, "cut = 'title' cannot be cut"),
        ({"choices": "a", "choice": r" {choice}\n"}, "a backslash and the letter n"),
    ],
)
def test_choices_of_the_item_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Prompt("mc", "{question}", **given)


def test_an_item_is_written_as_its_prompt_says() -> None:
    """Contexts are as many as they differ; lengths count the choice without its delimiter, or the context."""
    values = {"question": "q", "options": ["x", " y"], "o1": "a", "o2": "bc"}
    listed = Prompt("mc", "{question}?", choices="options").write(values)
    assert (listed.contexts, listed.continuations, listed.sized) == (("q?",), (" x", "  y"), ("x", " y"))
    lines = Prompt("mc", "{question}?", choices="options", choice="\n{choice}").write(values)
    assert (lines.continuations, lines.sized) == (("\nx", "\n y"), ("x", " y"))
    bare = Prompt("mc", "{question}?", choices="options", choice="{choice}").write(values)
    assert (bare.continuations, bare.sized) == (("x", " y"), ("x", " y"))
    gap = Prompt("mc", "{question} {choice}", choices=("o1", "o2"), choice=" {question}").write(values)
    assert (gap.contexts, gap.continuations, gap.sized) == (("q a", "q bc"), (" q", " q"), ("q a", "q bc"))
    whole = Prompt("mc", "", choices=("o1", "o2")).write(values)
    assert (whole.contexts, whole.continuations) == (("",), (" a", " bc"))


def test_an_items_hash_covers_what_its_prompt_uses() -> None:
    """The plain hash of the text where it is nothing else; else canonical JSON of the columns."""
    text = hashlib.sha256("é".encode()).hexdigest()
    assert hash_item(make("{text}"), {"text": "é", "other": "x"}) == text
    both = hashlib.sha256('{"a":"é","o":["x","y"]}'.encode()).hexdigest()
    assert hash_item(Prompt("mc", "{a}", choices="o"), {"o": ["x", "y"], "a": "é", "b": "z"}) == both


def test_solved_examples_may_hold_anything() -> None:
    """They are items, and what stands in an item is text."""
    labels = make("{text}").labels
    examples = "{{text}} \\n {title} a\n\n"
    assert Prompt("p", "Article: {text}", labels, examples=examples).head == f"{examples}Article: "


@pytest.mark.parametrize("letter", ["x", "é", "数"])
def test_label_words_beyond_the_score_tables_int16_are_refused(letter: str) -> None:
    """By position and name and without printing them; the most that fits is taken."""
    size = len(letter.encode())
    fits = letter * (32767 // size)
    assert make("{text}", " a", fits).labels[1].words == fits
    with pytest.raises(InputError, match=r"label 1 \('bad'\) has words of 32,7..?.? bytes, at most 32,767") as caught:
        make("{text}", " a", fits + letter)
    assert len(str(caught.value)) < 200
    with pytest.raises(InputError) as caught:
        make_prompt("p", "{text}", (" a", fits + letter), (" a", fits + letter))
    assert len(str(caught.value)) < 300


def test_more_labels_than_ids_are_refused() -> None:
    """An id is an int16, too."""
    labels = tuple(Label(i, str(i), f" {i}") for i in range(2**15))
    assert len(Prompt("p", "{text}", labels[1:]).labels) == 2**15 - 1
    with pytest.raises(InputError, match="32,768 labels; at most 32,767"):
        Prompt("p", "{text}", labels)


@pytest.mark.parametrize("twin", [" yes", "yes\t", "  yes", "\u00a0yes"])
def test_words_that_look_the_same_are_refused(twin: str) -> None:
    """Blanks around the same words make two classes that nobody can tell apart in a table."""
    with pytest.raises(InputError, match="two labels have words that look the same, 'yes' and "):
        make("{text}", "yes", " no", twin)
    with pytest.raises(InputError, match="look the same"):
        make("{text}", " caf\u00e9", " cafe\u0301")


def test_white_space_at_the_end_of_some_words_is_refused() -> None:
    """It is scored with them; all or none may have it."""
    with pytest.raises(InputError, match="' b ' end in white space, which is scored, and ' a' do not"):
        make("{text}", " a", " b ")
    make("{text}", " a\n", " b\n")


def test_a_slot_in_label_words_is_refused() -> None:
    """Template and words have changed places, or somebody expects the words to be filled in."""
    with pytest.raises(InputError, match=r"label 1 \('bad'\) has \{text\} in its words"):
        make("{text}", " a", " {text} is bad")


@pytest.mark.parametrize(("template", "words"), [("\ud800{text}", " a"), ("{text}", " \udfff")])
def test_half_a_character_is_refused(template: str, words: str) -> None:
    """No tokenizer and no table takes it."""
    with pytest.raises(InputError, match="not valid Unicode"):
        make(template, words, " b")


def test_two_words_for_one_name_stay_apart_by_case_and_beginning() -> None:
    """A tokenizer may tell them apart: what it makes the same, the encoder refuses."""
    make("{text}", " World", " world", " World news", " worlds")


# --- a note on the blank before the words ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words", "example"),
    [
        ("Article: {text}\nTopic:", "World", "Topic:World"),
        ("Positive or negative? {text}", "positive", "…positive"),
        ("{text}?", "positive", "…?positive"),
        ("{text} is", "1", "is1"),
        ("{text}\nhttps://example.org/a/long/address", "World", "…e.org/a/long/addressWorld"),
        ("{text}\n주제:", "세계", "주제:세계"),
        ("{text}\nTopic:", " World", None),
        ("{text}\nTopic: ", "World", None),
        ("{text}\nTopic:\n", "World", None),
        ("{text}\nTopic (", "World", None),
        ('{text}\nTopic: "', "World", None),
        ("{text}\nTopic: «", "World", None),
        ("{text}\n主题\uff1a", "世界", None),
        ("{text}\n主题:", "世界", None),
        ("{text}", "世界", None),
        ("{text}\nข่าว:", "โลก", None),
        ("{text}\nトピック:", "ﾆｭｰｽ", None),
        ("{text}", ", it said", None),
        ("{text}", "!", None),
    ],
)
def test_words_that_follow_a_visible_character_are_found(template: str, words: str, example: str | None) -> None:
    """Where the boundary is joint, and where a blank would belong between them."""
    assert glued_words(make(template, words, " b")) == example
    assert glued_words(make(template, words, " b", boundary="separate")) is None


def test_the_note_says_what_to_write() -> None:
    """A blank that is missing, a blank that stands there twice, or nothing to say."""
    assert seam_note(make("{text}\nTopic:", " b", "World")) == (
        'the label words follow the template directly ("Topic:World"); '
        'write " World" with a blank before it if one belongs there'
    )
    for boundary in ("joint", "separate"):
        doubled = seam_note(make("{text}\nTopic: ", " World", "b", boundary=boundary))
        assert doubled
        assert '" World" begin with one' in doubled
    assert seam_note(make("{text}", "w" * 10_000, " b")) == (
        f'the label words follow the template directly ("…{"w" * 29}…"); '
        f'write " {"w" * 29}…" with a blank before it if one belongs there'
    )
    assert [seam_note(prompt) for prompt in BUILT_IN.values()] == [None] * len(BUILT_IN)
