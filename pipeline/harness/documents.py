"""What a task asks about each of its documents: contexts, continuations, choices, and which of these are right.

Invariant: a document has one request for each choice, in the task's order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from pipeline.errors import InputError
from pipeline.harness.compiling import templates_are_compiled_once
from pipeline.harness.judging import right_choices
from pipeline.harness.loading import explained, has_own_judge


@dataclass(frozen=True, slots=True)
class Document:
    """`number`: its place in the task. `choices`: as the task calls them, which is what its own metrics measure."""

    number: int
    contexts: list[str]
    continuations: list[str]
    choices: list[str]
    right: list[int]


def read_documents(name: str, task: Task) -> Iterator[Document]:
    """The documents whose requests are written. Raises InputError where one asks for anything else than a choice."""
    for number, group in groupby(task.instances, lambda instance: instance.doc_id):
        with templates_are_compiled_once(), explained(name, f"document {number} cannot be read"):
            document = _read(task, int(number or 0), list(group))
        yield document


def _read(task: Task, number: int, instances: list[Instance]) -> Document:
    requests = [instance.args for instance in instances]
    is_choice = all(instance.request_type == "loglikelihood" for instance in instances)
    if not is_choice or not all(len(args) == 2 and all(isinstance(a, str) for a in args) for args in requests):
        raise InputError(f"document {number} asks for more than the likelihood of continuations")
    if len(requests) < 2:
        raise InputError(f"document {number} has {len(requests)} choice; two at least make a choice")
    contexts, continuations = [context for context, _ in requests], [continuation for _, continuation in requests]
    choices = _choices(task, instances[0].doc, contexts, continuations)
    right = right_choices(task, instances[0].doc, choices, own_judge=has_own_judge(task))
    return Document(number, contexts, continuations, choices, right)


def _choices(task: Task, doc: Any, contexts: list[str], continuations: list[str]) -> list[str]:
    """The choices as the task calls them, if these are the ones that it has written: some draw them anew each time."""
    varying = contexts if getattr(task, "multiple_input", 0) else continuations
    called = task.doc_to_choice(doc) if task.get_config("doc_to_choice") is not None else None
    if not isinstance(called, list) or len(called) != len(varying):
        return varying
    choices = [str(choice) for choice in called]
    return choices if all(choice in text for choice, text in zip(choices, varying, strict=True)) else varying
