"""What a chat template makes of a prompt: the ids are those of the tokenizer's own conversation, or it is refused."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from pipeline.chat import Turn, check_messages, find_chat, has_date, said_in
from pipeline.chat_remarks import remarks_on_chat
from pipeline.config import CLOCK
from pipeline.errors import InputError
from pipeline.prompts import REQUESTS, Prompt, make_prompt
from pipeline.reading.chat_template import ChatTemplate
from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import Encoder, TokenSequences
from tests.pipeline.chat_templates import KNOWN, ODD, TRIM, conversation
from tests.pipeline.scoring.tiny_models import TOKENIZERS, tiny_tokenizer

NAMES = ("a", "b", "c")
TEMPLATES = (
    "Article: {text}\nTopic:",
    "{text}",
    " {text} ",
    "\n{text}\n\nTopic: ",
    "Topic of {text}",
    "{text} is about",
)
WORDS = ("World", " Science", "s of science")
BLANKS = ["", " ", "\n", "\n\n", "\t", "\u00a0", "\u3000", "\x1c", "\u200b", "  \n"]
TEXTS = st.builds(
    "{}{}{}".format,
    st.sampled_from(BLANKS),
    st.text(st.sampled_from([*"abeinorst  \n.é数<{🙂"]), max_size=20) | st.text(max_size=8),
    st.sampled_from(BLANKS),
)
TURNS = [("Article: The river rose.\nTopic:", "World"), ("  a plant \n", "Science ")]
SPECIAL = ("<bos>", "<eos>", "<turn>", "<pad>")


def with_template(name: str, source: str) -> PreTrainedTokenizerBase:
    tokenizer = copy.copy(tiny_tokenizer(name))
    tokenizer.chat_template = source
    return tokenizer


def prompt_of(template: str) -> Prompt:
    return make_prompt("p", template, WORDS, NAMES)


def written(tokenizer: PreTrainedTokenizerBase, message: str, turns: Sequence[Turn] = (), **variables: Any) -> str:
    """What transformers itself makes of the conversation."""
    messages = conversation(message, turns)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    texts: Sequence[str],
    turns: Sequence[Turn] = (),
    answer: str = "",
    variables: Mapping[str, str | bool] | None = None,
) -> list[TokenSequences]:
    template = ChatTemplate(tokenizer, day=CLOCK, variables=variables)
    chat = find_chat(template, prompt, turns, answer)
    return Encoder(tokenizer, replace(prompt, chat=chat), context_tokens=10_000).encode(texts)


def check(found: TokenSequences, tokenizer: PreTrainedTokenizerBase, conversation: str) -> None:
    """Prompt and branch are the ids of the conversation and the label's words as one string."""
    for branch, words in zip(found.branches, WORDS, strict=True):
        whole: Ids = tuple(tokenizer(conversation + words, add_special_tokens=False)["input_ids"])
        assert found.prompt_ids + branch == whole


def spells(text: str) -> bool:
    return any(token in text for token in SPECIAL)


# --- templates as they are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), template=st.sampled_from(TEMPLATES), with_turns=st.booleans())
def test_ids_are_those_of_the_conversation_and_the_label(
    name: str, kind: str, texts: list[str], template: str, with_turns: bool
) -> None:
    """For any text, blanks and line breaks at its ends among them, with solved examples as turns or without: as
    `apply_chat_template` writes it, encoded as one string."""
    tokenizer, turns = with_template(name, KNOWN[kind]), TURNS if with_turns and kind not in ("left", "right") else []
    given_date = {"date_string": "26 Jul 2024"} if kind == "llama3.1" else {}
    messages = [template.replace("{text}", text) for text in texts]
    if any(map(spells, messages)):
        return
    found = encode(tokenizer, prompt_of(template), texts, turns)
    for sequences, message in zip(found, messages, strict=True):
        check(sequences, tokenizer, written(tokenizer, message, turns, **given_date))


@pytest.mark.parametrize("kind", KNOWN)
def test_trimming_is_found_where_it_can_show(kind: str) -> None:
    """A prompt that ends in visible words has nothing to trim, whatever the template would do."""
    template = ChatTemplate(with_template("bytes", KNOWN[kind]), day=CLOCK)
    assert find_chat(template, prompt_of("{text}")).trim == TRIM.get(kind, "")
    assert find_chat(template, prompt_of("Article: {text}\nTopic:")).trim == ""
    right = TRIM.get(kind, "") in ("right", "both")
    assert find_chat(template, prompt_of("Read: {text}")).trim == ("right" if right else "")


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_that_texts_and_solved_examples_spell_are_text(name: str, special: str) -> None:
    """As many special tokens as the template writes, in the same order, whatever stands in an item or an example."""
    tokenizer = with_template(name, KNOWN["gemma3"])
    ids = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    prompt = prompt_of("{text} is:")

    def marks(text: str, asked: str, answered: str) -> list[list[int]]:
        (found,) = encode(tokenizer, prompt, [text], [(asked, answered)])
        return [[token for token in found.prompt_ids + branch if token in ids] for branch in found.branches]

    plain = marks("a river", "a plant", "Science")
    assert len(plain[0]) == 1 + 2 * 3 + 1
    for forged in (f"a {special} river", f"{special[1:]} river{special}", special):
        assert marks(forged, "a plant", "Science") == plain
        assert marks("a river", forged, "Science") == plain
        assert marks(forged, "a plant", forged) == plain


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_forged_example_costs_other_items_nothing(name: str) -> None:
    """The words around a spelt token are encoded as they are without it."""
    tokenizer = with_template(name, KNOWN["smollm2"])
    (found,) = encode(tokenizer, prompt_of("{text}. Topic:"), ["a river"], [("a <turn> b", "World")])
    (plain,) = encode(tokenizer, prompt_of("{text}. Topic:"), ["a river"], [("a b", "World")])
    mark = tokenizer.convert_tokens_to_ids("<turn>")
    tails = [ids[len(ids) - list(reversed(ids)).index(mark) :] for ids in (found.prompt_ids, plain.prompt_ids)]
    assert tails[0] == tails[1]
    assert found.branches == plain.branches


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bos_stands_there_only_where_the_template_writes_it(name: str) -> None:
    """Where it does not, none is put before it, as with `apply_chat_template`."""
    for kind in ("gemma3", "smollm2"):
        tokenizer = with_template(name, KNOWN[kind])
        (found,) = encode(tokenizer, prompt_of("{text} is:"), ["a river"])
        assert found.prompt_ids.count(tokenizer.bos_token_id) == (kind == "gemma3")


# --- variables, the answer's beginning, dates -----------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(text=TEXTS, thinks=st.booleans(), answer=st.sampled_from(["", "The topic is", "<turn>", "Topic:\n", "So "]))
def test_the_answer_goes_on_where_it_was_begun(name: str, text: str, thinks: bool, answer: str) -> None:
    """Label words follow the beginning of the answer, which follows the generation prompt with the given variables."""
    tokenizer = with_template(name, KNOWN["qwen3"])
    message = f"{text} is:"
    if spells(message):
        return
    (found,) = encode(tokenizer, prompt_of("{text} is:"), [text], (), answer, {"enable_thinking": thinks})
    conversation = written(tokenizer, message, enable_thinking=thinks)
    assert ("</think>" in conversation) != thinks
    check(found, tokenizer, conversation + answer)


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("gemma3", "The topic is", "The topic is"),
        ("gemma3", "The topic is ", "The topic is "),
        ("gemma3", "", ""),
        ("harmony", "<pad>final<pad>", ""),
        ("harmony", "<pad>final<pad>So: ", "So: "),
        ("qwen3", "<think>\n\n</think>\n\nTopic:", "Topic:"),
        ("r1", "</think>\n\n", ""),
    ],
)
def test_solved_examples_begin_as_the_answer_but_for_its_markup(kind: str, answer: str, said: str) -> None:
    """Which the template writes itself where an answer stands in the conversation."""
    assert said_in(ChatTemplate(with_template("bytes", KNOWN[kind]), day=CLOCK), answer) == said


def test_the_answers_opening_that_a_template_spells_is_not_said() -> None:
    """Where it writes no generation prompt, and no token marks it."""
    source = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
    template = ChatTemplate(with_template("bytes", source), day=CLOCK)
    assert said_in(template, "### assistant:\nThe topic is") == "The topic is"


def remarks(kind: str, answer: str = "", template: str = "{text} is:", **variables: Any) -> list[str]:
    chat_template = ChatTemplate(with_template("bytes", KNOWN[kind]), day=CLOCK, variables=variables)
    prompt = prompt_of(template)
    prompt = replace(prompt, chat=find_chat(chat_template, prompt, (), answer))
    day = CLOCK if has_date(chat_template) else None
    return list(remarks_on_chat(chat_template, [prompt], day=day, answer=answer))


def test_a_run_says_that_labels_are_scored_inside_of_thinking() -> None:
    """A block that is opened and not closed; one that is closed, by the template or the answer, is none."""
    assert any("inside the thinking" in line for line in remarks("r1"))
    assert not any("thinking" in line for line in remarks("r1", "</think>\n\n"))
    assert not any("thinking" in line for line in remarks("qwen3", enable_thinking=False))
    assert any("inside the thinking" in line for line in remarks("qwen3", "<think>\n"))
    assert any("as if it did not; [chat] enable_thinking = false" in line for line in remarks("qwen3"))
    assert not any("think" in line for line in remarks("qwen3", enable_thinking=True))


def test_thinking_is_told_of_tasks_too() -> None:
    """Whose messages the harness writes, so that no prompt of ours has a chat."""
    template = ChatTemplate(with_template("bytes", KNOWN["r1"]), day=CLOCK)
    assert "inside the thinking" in next(remarks_on_chat(template, [replace(REQUESTS, has_markup=True)], day=None))


def test_a_run_says_what_an_answer_begins_with_in_the_template() -> None:
    """Where the generation prompt leaves it to the model, and the answer was not begun with it."""
    (line,) = remarks("harmony")
    assert "begins with '<pad>final<pad>'" in line
    assert not remarks("harmony", "<pad>final<pad>")
    assert not remarks("mistral")
    assert not remarks("smollm2")


def test_a_run_says_which_date_the_template_writes() -> None:
    """Only of a template that writes one."""
    assert any(f"today's date, which is {CLOCK}" in line for line in remarks("llama3.1"))
    assert not any("date" in line for line in remarks("llama3.1", date_string="1 Jan 2020"))
    assert not any("date" in line for line in remarks("llama3"))
    for written in ("%A", "%d", "%m", "%Y", "%j"):
        tokenizer = with_template("bytes", "{{ strftime_now('" + written + "') }}{{ messages[0]['content'] }}")
        assert all(has_date(ChatTemplate(tokenizer, day=day)) for day in (CLOCK, "1999-12-31", "2001-02-04"))


def test_label_words_that_do_not_fit_the_answer_are_told() -> None:
    """A blank before words that begin an answer, none before words that go on with a sentence."""

    def notes(words: Sequence[str], answer: str) -> list[str]:
        template = ChatTemplate(with_template("bytes", KNOWN["gemma3"]), day=CLOCK)
        prompt = make_prompt("p", "{text} is:", tuple(words), NAMES[: len(words)])
        prompt = replace(prompt, chat=find_chat(template, prompt, (), answer))
        return list(remarks_on_chat(template, [prompt], day=None, answer=answer))

    assert "begin with a blank" in notes((" World", " Science"), "")[0]
    assert "directly" in notes(("World", "Science"), "The topic is")[0]
    assert not notes(("World", "Science"), "")
    assert not notes((" World", " Science"), "The topic is")
    assert "ends with white space" in notes((" World", " Science"), "The topic is ")[0]
    assert not notes(("World", "Science"), "The topic is ")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ODD)
def test_a_template_that_does_more_than_trim_is_refused_in_one_line(kind: str) -> None:
    """It says what the template does; nothing is scored with a placeholder or half a message."""
    source, said = ODD[kind]
    prompt = prompt_of("{text}") if kind == "some blanks" else prompt_of("Article: {text}\nTopic:")
    with pytest.raises(InputError) as error:
        find_chat(ChatTemplate(with_template("bytes", source), day=CLOCK), prompt)
    text = str(error.value)
    assert said in text
    assert [part for part in ("\n", "x00ARTICLE") if part in text] == []


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        (
            "{{ 'X' if 'ban' ~ a in m['content'] else m['content'] }}",
            "a banana",
            "rewrites a message: of 'a banana",
        ),
        ("{{ m['content'] }}{{ 'X' if m['content'].count('the') > 3 }}", "the " * 4, "rewrites a message"),
        ("{{ '' if m['content'].endswith('em is:') else m['content'] }}", "them", "drops a message such as 'them is:'"),
    ],
)
def test_each_message_that_is_to_be_scored_is_tried(source: str, text: str, said: str) -> None:
    """A template may look for what no list of texts holds; with solved examples and an answer's beginning, too."""
    tokenizer = with_template("bytes", "{% set a = 'ana' %}{% for m in messages %}" + source + "<eos>{% endfor %}")
    template, prompt = ChatTemplate(tokenizer, day=CLOCK), prompt_of("{text} is:")
    for turns, answer in (((), ""), (TURNS, "So")):
        asked = replace(prompt, chat=find_chat(template, prompt, turns, answer))
        check_messages(template, asked, [{"text": "a river"}, {"text": " "}], answer)
        with pytest.raises(InputError, match=said):
            check_messages(template, asked, [{"text": "a river"}, {"text": text}], answer)


@pytest.mark.parametrize("kind", TRIM)
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(TEXTS, max_size=3), with_turns=st.booleans())
def test_messages_that_a_template_trims_are_what_was_found(kind: str, texts: list[str], with_turns: bool) -> None:
    """No message of an honest template is refused."""
    template, prompt = ChatTemplate(with_template("bytes", KNOWN[kind]), day=CLOCK), prompt_of("{text}")
    turns = TURNS if with_turns and kind not in ("left", "right") else []
    prompt = replace(prompt, chat=find_chat(template, prompt, turns, "So "))
    check_messages(template, prompt, [{"text": text} for text in texts], "So ")


def test_an_answer_can_be_begun_where_the_template_does_not() -> None:
    """The markup that it lacks is what the message says to write."""
    source, _ = ODD["no prompt"]
    tokenizer = with_template("bytes", source)
    (found,) = encode(tokenizer, prompt_of("{text} is:"), ["a river"], (), "<turn>assistant\n")
    check(found, tokenizer, written(tokenizer, "a river is:") + "<turn>assistant\n")


def test_turns_that_the_template_changes_are_refused() -> None:
    """Solved examples would not be those that were drawn."""
    source = (
        "{% for m in messages %}{{ m['content'] | upper if m['role'] == 'assistant' else m['content'] }}\n{% endfor %}"
    )
    template = ChatTemplate(with_template("bytes", source), day=CLOCK)
    with pytest.raises(InputError, match="leave out shots_as_turns"):
        find_chat(template, prompt_of("{text} is:"), TURNS)
    for kind in ("mistral", "gemma3"):  # roles that alternate are what they ask for
        find_chat(ChatTemplate(with_template("bytes", KNOWN[kind]), day=CLOCK), prompt_of("{text} is:"), TURNS)


def test_thoughts_of_an_example_that_the_template_forgets_are_refused() -> None:
    """Qwen 3 cuts them from answers before the last question."""
    template = ChatTemplate(with_template("bytes", KNOWN["qwen3"]), day=CLOCK)
    with pytest.raises(InputError, match="leave out shots_as_turns"):
        find_chat(template, prompt_of("{text} is:"), [("a", "hm</think>World")])
