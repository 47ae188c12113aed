"""A chat template as the harness applies it to the messages that it has written.

Invariant: what comes out holds the template's own special tokens, to be read as such.
"""

import logging
from collections.abc import Callable, Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.reading.chat_template import ChatTemplate, Message
from pipeline.reading.model import NO_CHAT_TEMPLATE

Render = Callable[..., str]
_END = "\x00END\x00"
_logger = logging.getLogger("lm_eval.labelscore")  # beside the harness' own lines; quiet elsewhere


def make_render(tokenizer: PreTrainedTokenizerBase) -> Render:
    """A function of (messages, add_generation_prompt=True), which writes what the harness' own models would.

    A template that takes no system message gets the others, as with the harness. Raises InputError where the tokenizer
    has no template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(NO_CHAT_TEMPLATE)

    def apply(messages: Sequence[Message], begins_answer: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=begins_answer,
                continue_final_message=not begins_answer,
            )
        )

    return _with_or_without_system(apply, TemplateError)


def render_with(template: ChatTemplate) -> Render:
    """The same, with a template that has variables and a clock of its own."""

    def apply(messages: Sequence[Message], begins_answer: bool) -> str:
        return template.render(messages) if begins_answer else _continue(template, messages)

    return _with_or_without_system(apply, InputError)


def _with_or_without_system(apply: Callable[[Sequence[Message], bool], str], refusal: type[Exception]) -> Render:
    def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        try:
            return apply(messages, add_generation_prompt)
        except refusal:
            _logger.warning("the chat template takes no system message: it is left out")
            others = [message for message in messages if message["role"] != "system"]
            return apply(others, add_generation_prompt)

    return render


def _continue(template: ChatTemplate, messages: Sequence[Message]) -> str:
    """The conversation up to where its last message ends, which goes on; as transformers cuts it, blanks included."""
    *before, last = messages
    marked = template.render([*before, {**last, "content": f"{last['content']}{_END} "}], begins_answer=False)
    begun, found, after = marked.rpartition(_END)
    if not found:
        raise InputError("the tokenizer's chat template drops a message, so that none can be continued")
    return begun if after.startswith(" ") else begun.rstrip()
