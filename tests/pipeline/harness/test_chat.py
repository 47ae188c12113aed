"""Messages that the harness has written, put into a chat template with a clock of its own."""

import copy

import pytest

from pipeline.errors import InputError
from pipeline.harness.chat import Message, make_render, render_with
from pipeline.reading.chat_template import ChatTemplate
from tests.pipeline.chat_templates import KNOWN, ODD
from tests.pipeline.scoring.tiny_models import tiny_tokenizer

DAY = "2024-07-26"
SHOTS = [
    {"role": "user", "content": " What is it? \n"},
    {"role": "assistant", "content": "A river"},
    {"role": "user", "content": "And that?"},
]
SYSTEM = {"role": "system", "content": "Answer."}


def renders(source: str):  # type: ignore[no-untyped-def]
    tokenizer = copy.copy(tiny_tokenizer("bytes"))
    tokenizer.chat_template = source
    return make_render(tokenizer), render_with(ChatTemplate(tokenizer, day=DAY))


@pytest.mark.parametrize("kind", [kind for kind in KNOWN if kind != "llama3.1"])
@pytest.mark.parametrize("answer", ["The answer is", "The answer is ", "So:\n"])
@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_it_is_what_the_harness_own_models_write(kind: str, answer: str, before: list[Message]) -> None:
    """With the generation prompt, with an answer that goes on, and without a system's message where none is taken."""
    theirs, ours = renders(KNOWN[kind])
    assert ours([*before, *SHOTS]) == theirs([*before, *SHOTS])
    begun = [*before, *SHOTS, {"role": "assistant", "content": answer}]
    assert ours(begun, add_generation_prompt=False) == theirs(begun, add_generation_prompt=False)


def test_the_date_is_the_clocks() -> None:
    """And not today's."""
    _, ours = renders(KNOWN["llama3.1"])
    assert "Today Date: 26 Jul 2024" in ours(SHOTS)
    assert "Today Date: 26 Jul 2024" in ours([*SHOTS, SHOTS[1]], add_generation_prompt=False)


@pytest.mark.parametrize("kind", ["raise", "python"])
def test_a_template_that_refuses_all_of_it_is_told(kind: str) -> None:
    """In one line."""
    _, ours = renders(ODD[kind][0])
    with pytest.raises(InputError, match="refuses the conversation"):
        ours(SHOTS)
