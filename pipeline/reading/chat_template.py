"""A tokenizer's chat template: conversations in, one string out, the same on every day.

Invariant: what comes out is what the tokenizer's own `apply_chat_template` writes with these variables on the date of
the clock here, which never moves by itself.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, cast

import jinja2.meta
from jinja2 import nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.model import NO_CHAT_TEMPLATE

Message = dict[str, str]
Variable = str | bool | int | float


class ChatTemplate:
    """The template of a tokenizer, with variables of the user's and a clock that stands at `day` (YYYY-MM-DD).

    Raises InputError where the tokenizer has none, it is no valid template, or does not use a variable.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        day: str,
        variables: Mapping[str, Variable] | None = None,
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(NO_CHAT_TEMPLATE)
        self.tokenizer, self.day = tokenizer, day
        self._variables = dict(variables or {})
        self._special: dict[str, Any] = dict(tokenizer.special_tokens_map)
        try:
            source = tokenizer.get_chat_template()
            # The same environment as in `apply_chat_template`, which itself takes no other clock than the real one.
            self._template = cast(Any, chat_template_utils)._compile_jinja_template(source)
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise InputError(f"the tokenizer's chat template cannot be read: {one_line(error)}") from None
        self._syntax: nodes.Template = self._template.environment.parse(source)
        self._refuse_unused()

    @property
    def constants(self) -> list[str | int]:
        """The texts and numbers that the template looks for, or puts in, each once."""
        values = (value for node in self._syntax.find_all(nodes.Const) for value in _parts(node.value))
        return list(dict.fromkeys(value for value in values if type(value) in (str, int)))

    @property
    def variables(self) -> list[str]:
        """The names that the template asks for beside those that every conversation gives."""
        names = self._syntax.find_all(nodes.Name)
        own = {node.name for node in names if node.ctx == "store"}
        asked = {
            test.node.name
            for test in self._syntax.find_all(nodes.Test)
            if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
        }
        found = jinja2.meta.find_undeclared_variables(self._syntax) - (own - asked)
        return sorted(found - self._given - self._template.environment.globals.keys())

    def unset(self, part: str) -> str | None:
        """The first of its variables with `part` in its name that was given no value."""
        return next((name for name in self.variables if part in name and name not in self._variables), None)

    @property
    def _given(self) -> set[str]:
        """The names that a conversation gives: its messages, the special tokens, what the tokenizer's method takes."""
        method = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
        return {"messages", *self._special, *method}

    def _refuse_unused(self) -> None:
        known = self.variables
        if unused := [name for name in self._variables if name not in known]:
            known_ones = f"it uses {', '.join(known)}" if known else "it uses none"
            raise InputError(f"chat: the tokenizer's chat template has no variable '{unused[0]}'; {known_ones}")

    def render(self, messages: Sequence[Message], *, begins_answer: bool = True, day: str | None = None) -> str:
        """The conversation as one string, with the generation prompt behind it; on another day if one is given.

        Raises InputError where the template refuses it.
        """
        now = date.fromisoformat(day or self.day)
        try:
            return str(
                self._template.render(
                    messages=[dict(message) for message in messages],
                    tools=None,
                    documents=None,
                    add_generation_prompt=begins_answer,
                    strftime_now=now.strftime,
                    **{**self._special, **self._variables},
                )
            )
        except Exception as error:  # whatever the template's own code raises, of Jinja's errors or Python's
            raise InputError(f"the tokenizer's chat template refuses the conversation: {one_line(error)}") from None


def _parts(constant: object) -> Iterator[Any]:
    """A constant, or what it holds: Jinja makes one of a list that is written out."""
    if isinstance(constant, dict):
        constant = [*constant, *constant.values()]
    if isinstance(constant, list | tuple):
        for each in constant:
            yield from _parts(each)
    else:
        yield constant
