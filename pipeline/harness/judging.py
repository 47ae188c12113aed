"""Which choices of a document its task calls right, and what the harness makes of the scores.

Invariant: the harness' own code judges; scores are only handed to it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import lm_eval.api.task
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate

from pipeline.errors import InputError, LabelscoreError

LIKELY, UNLIKELY = 0.0, -1000.0  # log-likelihoods of a choice that is sure, and of one that is impossible


class _NotKept:
    """Whether the model itself would write a choice, which is not kept: a judge that asks is told so.

    The harness' own judge asks in any case, for a metric that is refused where a task wants it; to it this is 0.
    """

    def __int__(self) -> int:
        return _refuse_unless_harness(sys._getframe(1))

    def __bool__(self) -> bool:
        return bool(_refuse_unless_harness(sys._getframe(1)))

    def _refuse(self, *_: object) -> Any:
        return _refuse_unless_harness(None)

    __float__ = __index__ = __eq__ = __array__ = _refuse
    __hash__ = object.__hash__


def _refuse_unless_harness(caller: FrameType | None) -> int:
    if caller is not None and caller.f_globals.get("__name__") == lm_eval.api.task.__name__:
        return 0
    raise InputError(
        "its code asks whether the model itself would write a choice, which is not kept here; `labelscore lm-eval` "
        "runs it"
    )


NOT_KEPT: Any = _NotKept()


def right_choices(task: Task, doc: Any, choices: Sequence[str], *, own_judge: bool) -> list[int]:
    """The places of a document's right choices, none where they cannot be told.

    Code of the task (`own_judge`) is asked choice by choice: what would it say of a model that is sure of this one?
    """
    if own_judge:
        return _by_trial(task, doc, len(choices))
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    golds = gold if isinstance(gold, list) else [gold]
    called = [choices.index(each) if isinstance(each, str) and each in choices else each for each in golds]
    # As the harness compares them: whatever equals a place is one, numpy's integers among them.
    return [place for place in range(len(choices)) if any(place == each for each in called)]


def _by_trial(task: Task, doc: Any, num_choices: int) -> list[int]:
    found = []
    for place in range(num_choices):
        results = [(LIKELY if other == place else UNLIKELY, NOT_KEPT) for other in range(num_choices)]
        try:
            accuracy = task.process_results(doc, results).get("acc")
        except LabelscoreError:
            raise
        except Exception:  # it may take the logarithm of what is impossible here
            return []
        if accuracy is None or float(accuracy) not in (0.0, 1.0):
            return []
        if accuracy:
            found.append(place)
    return found


class StoredScores(LM):  # type: ignore[misc]
    """A model for the harness that has scored everything already.

    `logprobs`: of each task, and number of a document in it, the log-likelihood of every choice in order.
    """

    def __init__(self, logprobs: Mapping[str, Mapping[int, Sequence[float]]], own_judges: frozenset[str]) -> None:
        super().__init__()
        self._logprobs, self._own_judges = logprobs, own_judges

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, Any]]:
        return [
            (
                float(self._logprobs[str(request.task_name)][int(request.doc_id or 0)][request.idx]),
                NOT_KEPT if request.task_name in self._own_judges else False,
            )
            for request in requests
        ]

    def loglikelihood_rolling(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError("a choice asks for no whole text")

    def generate_until(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError("a choice asks for no generated text")


def judge(loaded: Any, limit: int | None, model: StoredScores) -> list[dict[str, Any]]:
    """The metrics of loaded tasks and groups, whose requests are written, as rows of tasks.parquet."""
    for task in loaded["tasks"].values():
        # Both are there; making them again would draw other solved examples, and documents in another order.
        task.build_all_requests = _keep_requests
        task.doc_iterator = partial(_kept_documents, task)
        for instance in task.instances:
            instance.resps.clear()
            instance.filtered_resps.clear()
    found = evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=False)
    return [row for name, metrics in found["results"].items() for row in _rows(name, metrics, found)]


def _keep_requests(**_: Any) -> None:
    return None


def _kept_documents(task: Task, **_: Any) -> Iterator[tuple[int, Any]]:
    return iter({request.doc_id: request.doc for request in task.instances}.items())


def _rows(name: str, metrics: Mapping[str, Any], found: Any) -> Iterator[dict[str, Any]]:
    higher = found["higher_is_better"].get(name, {})
    for key, value in metrics.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float | np.number):
            continue
        yield {
            "task": name,
            "is_group": name in found["group_subtasks"],
            "metric": metric,
            "filter": filter_name,
            "value": float(value),
            "higher_is_better": higher.get(metric),
            "num_items": metrics.get("sample_len") or metrics.get("sample_count", {}).get(key),
            "num_shots": _whole(found["n-shot"].get(name)),
            "version": version_of(found["versions"].get(name)),
        }


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def version_of(value: object) -> str | None:
    """A task's own version; the harness says "Yaml" where a file has none."""
    return None if value in (None, "Yaml") else str(value)
