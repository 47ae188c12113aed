"""A chat template with variables and a clock of its own."""

import copy
import datetime
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from pipeline.errors import InputError
from pipeline.reading.chat_template import ChatTemplate
from tests.pipeline.chat_templates import KNOWN
from tests.pipeline.scoring.tiny_models import tiny_tokenizer

ASKED = [{"role": "user", "content": " What? "}]
DAY = "2024-07-26"


def tokenizer_of(source: str) -> PreTrainedTokenizerBase:
    tokenizer = copy.copy(tiny_tokenizer("bytes"))
    tokenizer.chat_template = source
    return tokenizer


@pytest.mark.parametrize("kind", [kind for kind in KNOWN if kind != "llama3.1"])
@pytest.mark.parametrize("begins_answer", [True, False])
def test_it_renders_as_transformers_does(kind: str, begins_answer: bool) -> None:
    """Special tokens, macros, filters and all."""
    tokenizer = tokenizer_of(KNOWN[kind])
    expected = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=begins_answer)
    assert ChatTemplate(tokenizer, day=DAY).render(ASKED, begins_answer=begins_answer) == expected


def test_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another day transformers writes another date, and this does not."""
    tokenizer = tokenizer_of(KNOWN["llama3.1"])
    before = ChatTemplate(tokenizer, day=DAY).render(ASKED)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2031, 3, 4, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert "04 Mar 2031" in str(tokenizer.apply_chat_template(ASKED, tokenize=False))
    assert ChatTemplate(tokenizer, day=DAY).render(ASKED) == before
    assert "Today Date: 26 Jul 2024" in before
    assert "Today Date: 31 Jan 2026" in ChatTemplate(tokenizer, day="2026-01-31").render(ASKED)


def test_variables_are_handed_over_and_must_be_asked_for() -> None:
    """Those that the template looks up, none that it sets itself, and none that every conversation gives."""
    qwen, llama = tokenizer_of(KNOWN["qwen3"]), tokenizer_of(KNOWN["llama3.1"])
    silent = ChatTemplate(qwen, day=DAY, variables={"enable_thinking": False})
    assert silent.render(ASKED) == qwen.apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert (silent.variables, ChatTemplate(llama, day=DAY).variables) == (["enable_thinking"], ["date_string"])
    assert ChatTemplate(tokenizer_of(KNOWN["gemma3"]), day=DAY).variables == []
    assert "1 Jan" in ChatTemplate(llama, day=DAY, variables={"date_string": "1 Jan"}).render(ASKED)
    for wrong in ("enable_thought", "content", "messages", "bos_token", "add_generation_prompt", "tools", "namespace"):
        with pytest.raises(InputError, match=f"no variable '{wrong}'; it uses enable_thinking"):
            ChatTemplate(qwen, day=DAY, variables={wrong: True})
    with pytest.raises(InputError, match="it uses none"):
        ChatTemplate(tokenizer_of(KNOWN["gemma3"]), day=DAY, variables={"date_string": "1 Jan"})


def test_what_a_template_looks_for_is_known() -> None:
    """Its texts and its numbers, which a message may hold or be longer than."""
    constants = ChatTemplate(tokenizer_of("{{ 'secret' in messages[0]['content'][:77] }}"), day=DAY).constants
    assert {"secret", 77} <= set(constants)
    listed = "{% set bad = ['one', ('two', 'three')] %}{% set table = {'four': 5} %}{{ bad }}{{ table }}"
    assert {"one", "two", "three", "four", 5} <= set(ChatTemplate(tokenizer_of(listed), day=DAY).constants)


def test_a_tokenizer_without_a_template_or_with_a_broken_one_is_refused() -> None:
    """In one line."""
    with pytest.raises(InputError, match="leave out --chat-template"):
        ChatTemplate(tiny_tokenizer("bytes"), day=DAY)
    with pytest.raises(InputError, match="cannot be read"):
        ChatTemplate(tokenizer_of("{% for %}"), day=DAY)
    with pytest.raises(InputError, match="cannot be read"):
        ChatTemplate(tokenizer_of(5), day=DAY)  # type: ignore[arg-type]
    several = copy.copy(tiny_tokenizer("bytes"))
    several.chat_template = {"rag": "x", "tool_use": "y"}
    with pytest.raises(InputError, match="cannot be read"):
        ChatTemplate(several, day=DAY)
