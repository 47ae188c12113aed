"""The built-in prompts, word for word; what no prompt can be, and what it seldom should be."""

import re

import pytest

from pipeline.errors import InputError
from pipeline.prompts import BUILT_IN, Boundary, Label, Prompt, glued_words, make_prompt, seam_note

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
    ("template", "number", "seen"),
    [
        ("Article:", 0, None),
        ("{text} and {text}", 2, None),
        ("Article: {Text}", 0, "{Text}"),
        ("Article: { text }", 0, "{ text }"),
        ("Article: {{ text }}", 0, "{{ text }}"),
        ("Article: {article}", 0, "{article}"),
        ("Article: {}", 0, "{}"),
        ("Article: {text!r}", 0, "{text!r}"),
        ("<b>Article</b>: <text>", 0, "<text>"),
        ("Article: [ARTICLE]", 0, "[ARTICLE]"),
        ("Article: %s", 0, "%s"),
        ("Article: $text", 0, "$text"),
    ],
)
def test_a_template_without_one_slot_is_refused_and_what_looks_like_one_is_named(
    template: str, number: int, seen: str | None
) -> None:
    """People who come from other tools write the slot in their way."""
    with pytest.raises(InputError) as caught:
        make(template)
    line = str(caught.value)
    assert f"{{text}} exactly once, it has it {number} times" in line
    assert "write {text} where the text goes" in line
    assert (f"(it has '{seen}')" in line) if seen else ("(it has" not in line)


@pytest.mark.parametrize(
    "seen", ["{{text}}", "{{{text}}}", "${text}", "{text}}", "{{text}", "{ text }", "{Text}", "{{ text }}"]
)
def test_braces_that_can_be_read_in_two_ways_are_refused(seen: str) -> None:
    """Scored as written, the item would stand in braces, or the second slot would be read by the model."""
    template = f"News: {seen}\nDesk:" if "{text}" in seen else f"News: {{text}}\n{seen}\nDesk:"
    with pytest.raises(InputError, match=re.escape(f"'{seen}'") + r".* write \{text\}"):
        make(template)


@pytest.mark.parametrize(
    "seen", ["{title}", "{{ title }}", "{answers.text}", "{choices[0]}", "{ sentence }", "${title}"]
)
def test_another_slot_is_refused(seen: str) -> None:
    """It would stand before every item as it is written: nothing but {text} is filled in."""
    with pytest.raises(InputError, match=re.escape(f"'{seen}'") + r".* only \{text\} is filled in"):
        make(f"{seen}\n{{text}}\nDesk:")


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
