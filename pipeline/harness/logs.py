"""What a log of the harness does not say, asked from the task that made it.

Invariant: only the task's own code answers; its data is not needed.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import UndefinedError
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template

from pipeline.harness.index import index_of
from pipeline.harness.quiet import harness_is_quiet


def right_context(task: str, document: Mapping[str, Any]) -> int | None:
    """The place of the right one of a document's contexts, None where no such task is known or it does not say."""
    asked = _asked(task)
    if asked is None:
        return None
    try:
        return int(asked(document) if callable(asked) else apply_template(str(asked), document))
    except (LookupError, TypeError, ValueError, UndefinedError):  # documents of another task, or another version's
        return None


@cache
def _asked(task: str) -> Any:
    """`doc_to_text` of a task, which says it where contexts differ: a function or a template."""
    entry = index_of(None).task_index.get(task)
    if entry is None or entry.yaml_path is None:
        return None
    with harness_is_quiet():
        return load_yaml(entry.yaml_path, resolve_func=True, recursive=True).get("doc_to_text")
