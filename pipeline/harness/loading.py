"""Tasks of lm-evaluation-harness, loaded with their data, and made ready to be scored here.

Invariant: what is loaded is a choice between continuations whose metrics need no more than log-likelihoods; anything
else is refused by its name, before anything is scored.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from pipeline.config import HARNESS_SEED
from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.harness.index import find_tasks, index_of
from pipeline.harness.quiet import harness_is_quiet
from pipeline.reading.hub_errors import describe, is_passing
from pipeline.reading.labels import shorten

CHOICE = "multiple_choice"
NOT_SCORED = {  # metrics that need more than the log-likelihood of each choice
    "exact_match": "whether the model itself would write the choice",
    "acc_mutual_info": "the choices' scores without a context",
}


def load_tasks(names: Sequence[str], path: str | None) -> Any:
    """The harness' record of loaded tasks and groups. Raises InputError for what cannot be loaded or scored here."""
    manager = index_of(path)
    with harness_is_quiet():
        loaded = _together(manager, [_load(manager, name) for name in find_tasks(names, path)])
    for name, task in loaded["tasks"].items():
        refuse_unscorable(name, task)
    return loaded


def _load(manager: TaskManager, name: str) -> list[Any]:
    """What a name stands for: a task, a group, or the tasks of a tag."""
    with explained(name, "it cannot be loaded"):
        found = manager.load([name])
        group = found["groups"].get(name)
    return [group] if group is not None else list(found["tasks"].values())


def _together(manager: TaskManager, asked: Sequence[list[Any]]) -> Any:
    try:
        return manager.load([each for found in asked for each in found])
    except ValueError as error:  # the same task twice
        raise InputError(f"task: {describe(error)}; name it once") from None


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Turn what a task's data or code raises into one line with the task's name."""
    try:
        yield
    except MemoryError:
        raise
    except LabelscoreError as error:
        raise type(error)(f"task '{name}': {error}") from None
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # `datasets` wraps what it meets
        line = f"task '{name}': {what} ({type(cause).__name__}: {describe(cause)})"
        if is_passing(error) or isinstance(error, ConnectionError):
            raise RunError(f"{line}; check the network, or give its data as files with a YAML of your own") from error
        advice = "" if "install" in line else "; check its data and its YAML file"
        raise InputError(f"{line}{advice}") from error


@contextmanager
def numbers_kept() -> Iterator[None]:
    """After the block the random numbers go on from where they were before it."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


class Seeds:
    """The random numbers that a task's own code draws: the harness' own, whatever is drawn elsewhere."""

    def __init__(self) -> None:
        self._own: tuple[Any, Any] | None = None

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """In the block the harness' numbers go on from where they were; after it those of everybody else."""
        with numbers_kept():
            if self._own is None:
                random.seed(0)  # as the harness seeds them
                np.random.seed(HARNESS_SEED)
            else:
                random.setstate(self._own[0])
                np.random.set_state(self._own[1])
            try:
                yield
            finally:
                self._own = random.getstate(), np.random.get_state()


# What is refused


def refuse_unscorable(name: str, task: Task) -> None:
    instead = "; `labelscore lm-eval` runs it"
    kind = getattr(task, "OUTPUT_TYPE", None)
    if kind != CHOICE:
        raise InputError(f"task '{name}' asks for {kind}, which is no choice between continuations{instead}")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"task '{name}' shows pictures or sounds, which are not read here")
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"task '{name}' runs code that it calls unsafe{instead} with --confirm_run_unsafe_code")
    for metric in task.aggregation():
        # Code of its own may call by these names what it makes of the likelihoods; the second asks for more requests.
        if (why := NOT_SCORED.get(metric)) and (metric == "acc_mutual_info" or not has_own_judge(task)):
            raise InputError(f"task '{name}' wants the metric {metric}, {why}, which is not kept here{instead}")


def has_own_judge(task: Task) -> bool:
    """Whether a document's metrics are made by code of the task."""
    is_its_own = type(task).process_results is not ConfigurableTask.process_results
    return is_its_own or callable(task.get_config("process_results"))


# Solved examples, and the data that a task is of


def num_shots_of(task: Task) -> int:
    """How many solved examples stand before each of its documents."""
    return int(task.get_config("num_fewshot") or 0)


def set_shots(task: Task, num_shots: int | None, seed: int) -> None:
    """Say how many solved examples there are, by the harness' rule: a task that has 0 keeps it."""
    own = task.get_config("num_fewshot")
    if own is None or (num_shots is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_shots or 0)
    task.set_fewshot_seed(seed=seed)


def remarks_on_shots(tasks: Mapping[str, Task], num_shots: int | None) -> Iterator[str]:
    """What may surprise about the solved examples."""
    if fixed := [name for name, task in tasks.items() if num_shots is not None and num_shots_of(task) != num_shots]:
        yield f"num_shots = {num_shots} has no effect on tasks that say 0 themselves: {shorten(fixed)}"
    if scored := [name for name, task in tasks.items() if num_shots_of(task) and not _has_examples(task)]:
        yield f"solved examples are drawn from the documents that are scored, as there are no others: {shorten(scored)}"


def _has_examples(task: Task) -> bool:
    """Whether its solved examples come from somewhere else than what is scored."""
    config = getattr(task, "fewshot_cfg", None)
    scored = task.get_config("test_split") or task.get_config("validation_split")
    if config is not None and config.split is not None:
        return bool(config.split != scored)
    is_told = config is not None and config.samples is not None
    return bool(is_told or task.has_training_docs() or (task.has_validation_docs() and task.has_test_docs()))


def commit_of(task: Task) -> str | None:
    """The hub's commit that its data is of, which `datasets` keeps in the paths of its cache; None for local files."""
    splits = dict(task.dataset or {}).values()
    files = (file["filename"] for split in splits for file in getattr(split, "cache_files", ()))
    commit = re.search(r"[/\\]([0-9a-f]{40})[/\\]", next(files, ""))
    return commit[1] if commit else None
