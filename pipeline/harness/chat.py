"""A chat template as the harness applies it to the messages that it has written.

Invariant: what comes out holds the template's own special tokens, to be read as such.
"""

import logging
from collections.abc import Callable, Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.reading.model import NO_CHAT_TEMPLATE

Message = dict[str, str]

_logger = logging.getLogger("lm_eval.labelscore")  # beside the harness' own lines; quiet elsewhere


def make_render(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """A function of (messages, add_generation_prompt=True). Raises InputError where the tokenizer has no template.

    A template that takes no system message gets the others, as with the harness.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(NO_CHAT_TEMPLATE)

    def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        try:
            return _apply(tokenizer, messages, add_generation_prompt)
        except TemplateError:
            _logger.warning("the chat template takes no system message: it is left out")
            others = [message for message in messages if message["role"] != "system"]
            return _apply(tokenizer, others, add_generation_prompt)

    return render


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], begins_answer: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=begins_answer,
            continue_final_message=not begins_answer,
        )
    )
