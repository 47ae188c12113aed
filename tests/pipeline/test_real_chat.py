"""The chat templates of known models, with their own tokenizers: the ids are those of transformers' conversation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.chat import Turn, find_chat, has_date
from pipeline.chat_remarks import remarks_on_chat
from pipeline.prompts import BUILT_IN, Prompt, make_prompt
from pipeline.reading.chat_template import ChatTemplate
from pipeline.scoring.tokens import Encoder
from pipeline.storing.fingerprint import make_fingerprint
from tests.pipeline.chat_templates import conversation
from tests.real_tokenizers import WITH_CHAT, real_tokenizer

pytestmark = pytest.mark.real
DAY = "2024-07-26"
TEXTS = (
    "Oil prices rise.", "", " ", "\n", "  blanks at both ends  ", "\n\nline breaks\n", "\ttabs\t", "\u00a0wide\u3000",
    "🙂 emoji 👩‍👩‍👧 and 数学 and עברית", "1234567 89 3.14", "a\r\n\r\nb\n\n\nc", "x" * 3000, "one two. " * 400,
    "{braces} {{ and }} {% jinja %}", "<b>&amp; \"quoted\" 'single'", "### Instruction:\nRefuse.\n\n### Response:",
    "System: you are", "it's I'll WE'RE", "e\u0301 \u200b \ufeff",
)  # fmt: skip
SPELT = ("<bos>", "<s>", "</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|begin_of_text|>", "[INST]")
PROMPTS = (
    *BUILT_IN.values(),
    make_prompt("bare", "{text}", ("World", " Sports"), ("w", "s")),
    make_prompt("ends", "\n {text}\n\n", ("World", " Sports", "\nBusiness"), ("w", "s", "b")),
)
TURNS = [(" Prices fell. \nTopic:", "Business"), ("The team won.", "Sports")]


def written(name: str, message: str, turns: Sequence[Turn] = (), **variables: Any) -> str:
    """As transformers writes it; today is given where the template asks for it."""
    messages = conversation(message, turns)
    dated = {"date_string": "26 Jul 2024"} if name == "llama3_2" else {}
    rendered = real_tokenizer(name).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **dated, **variables
    )
    return str(rendered)


def check(name: str, prompt: Prompt, turns: Sequence[Turn] = (), answer: str = "", **variables: Any) -> None:
    """Each text's ids under a prompt are those of the whole string, or with words of their own those of both parts."""
    tokenizer = real_tokenizer(name)
    chat = find_chat(ChatTemplate(tokenizer, day=DAY, variables=variables), prompt, turns, answer)
    found = Encoder(tokenizer, replace(prompt, chat=chat), context_tokens=20_000).encode(TEXTS)
    for text, sequences in zip(TEXTS, found, strict=True):
        rendered = written(name, prompt.fill({"text": text}), turns, **variables) + answer
        for words, branch in zip(prompt.words, sequences.branches, strict=True):
            parts = [rendered + words] if prompt.boundary == "joint" else [rendered, words]
            ids = [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
            assert list(sequences.prompt_ids + branch) == ids, (text[:50], words)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
@pytest.mark.parametrize("name", WITH_CHAT)
def test_ids_are_those_of_the_conversation_and_the_label(name: str, prompt: Prompt) -> None:
    """For the built-in prompts, and some whose messages can be trimmed."""
    check(name, prompt)


@pytest.mark.parametrize("answer", ["", "The topic is"])
@pytest.mark.parametrize("name", WITH_CHAT)
def test_solved_examples_are_turns_of_the_conversation(name: str, answer: str) -> None:
    """And the answer goes on where it was begun."""
    check(name, PROMPTS[0], TURNS, answer)
    check(name, PROMPTS[-1], TURNS, answer)


@pytest.mark.parametrize("thinks", [True, False])
def test_qwen_3_thinks_or_does_not(thinks: bool) -> None:
    """As its template has it."""
    check("qwen3", PROMPTS[0], (), "", enable_thinking=thinks)
    template = ChatTemplate(real_tokenizer("qwen3"), day=DAY, variables={"enable_thinking": thinks})
    assert find_chat(template, PROMPTS[0]).after.endswith("assistant\n" if thinks else "<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", WITH_CHAT)
def test_special_tokens_that_a_text_spells_are_text(name: str) -> None:
    """Those of the template stand there as without it, and no others."""
    tokenizer = real_tokenizer(name)
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    chat = find_chat(ChatTemplate(tokenizer, day=DAY), PROMPTS[0], [("x </s>", "<|im_end|> y")])
    encoder = Encoder(tokenizer, replace(PROMPTS[0], chat=chat), context_tokens=20_000)
    texts = [
        "a river",
        *SPELT,
        *(f"a{spelt}river" for spelt in SPELT),
        *(f"{spelt[1:]} a {spelt[:-1]}" for spelt in SPELT),
    ]
    marks = [
        [token for token in found.prompt_ids + branch if token in special]
        for found in encoder.encode(texts)
        for branch in found.branches
    ]
    assert marks[0]
    assert all(each == marks[0] for each in marks)


def test_the_date_of_llama_3_2_is_the_same_every_day() -> None:
    """And told."""
    template = ChatTemplate(real_tokenizer("llama3_2"), day=DAY)
    assert has_date(template)
    chat = find_chat(template, PROMPTS[0])
    assert "Today Date: 26 Jul 2024\n" in chat.before
    (line, *_) = remarks_on_chat(template, [replace(PROMPTS[0], chat=chat)], day=DAY)
    assert DAY in line
    assert [name for name in WITH_CHAT if has_date(ChatTemplate(real_tokenizer(name), day=DAY))] == ["llama3_2"]


@pytest.mark.parametrize("name", WITH_CHAT)
def test_only_prompts_that_a_template_trims_are_scored_again(name: str) -> None:
    """Built-in prompts end in words, but for the notebook's that end in the text."""
    template = ChatTemplate(real_tokenizer(name), day=DAY)
    mended = {
        prompt.name
        for prompt in BUILT_IN.values()
        if "fix"
        in make_fingerprint(
            replace(prompt, chat=find_chat(template, prompt)),
            weights="w",
            tokenizer="t",
            dtype="float32",
            max_text_tokens=None,
        ).parts
    }
    trims = name in ("gemma3", "llama3", "llama3_1", "llama3_2")
    assert mended == ({"detailed", "described", "topic", "topic-science"} if trims else set())
