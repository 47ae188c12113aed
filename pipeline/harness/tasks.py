"""Tasks of lm-evaluation-harness as a source of items: written out as requests by its own code, and judged by it.

Invariant: every word that is scored, and which choice is right, comes from the harness.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.evaluator_utils import get_sample_size

from pipeline.errors import InputError
from pipeline.harness.compiling import templates_are_compiled_once
from pipeline.harness.documents import read_documents
from pipeline.harness.index import version
from pipeline.harness.judging import StoredScores, judge, version_of
from pipeline.harness.loading import (
    Seeds,
    commit_of,
    explained,
    has_own_judge,
    load_tasks,
    num_shots_of,
    numbers_kept,
    remarks_on_shots,
    set_shots,
)
from pipeline.harness.quiet import harness_is_quiet
from pipeline.reading.dataset import Row
from pipeline.storing.layout import DOCUMENTS
from pipeline.storing.manifest import TaskRecord

Render = Callable[..., str]
"""Chat messages as one string, as the harness calls it: (messages, add_generation_prompt=True)."""


class Tasks:
    """Loaded tasks: a row for each document, with the contexts and continuations of its choices.

    `row`: position (see `first_id`), contexts, continuations, choices and the task's name as values, and as label the
    places of the right choices, None where there are none.
    """

    label = None
    where = ()
    revision = None
    split = ""  # each task has its own

    def __init__(
        self, names: Sequence[str], path: str | None, *, num_shots: int | None, seed: int, limit: int | None
    ) -> None:
        """Load the tasks' data. Raises InputError for what cannot be loaded or is no choice between continuations."""
        self.name = ", ".join(names)
        self.location = f"lm-evaluation-harness {version()}"
        self._limit, self._seeds, self._seed = limit, Seeds(), seed
        with self._seeds.drawn():
            self._loaded = load_tasks(names, path)
        self.by_name: dict[str, Task] = self._loaded["tasks"]
        if len({first_id(name) for name in self.by_name}) < len(self.by_name):
            raise InputError(f"two of the tasks {self.name} cannot be told apart by their ids; run them apart")
        for task in self.by_name.values():
            set_shots(task, num_shots, seed)
        self.remarks = tuple(remarks_on_shots(self.by_name, num_shots))

    def build(self, render: Render | None = None, special: re.Pattern[str] | None = None) -> None:
        """Have the requests written out, in the order in which the tasks were asked for.

        `render` puts contexts into a chat template; without one what matches `special`, the written forms of special
        tokens, stays text. Raises InputError where a task's own code fails.
        """
        for name, task in self.by_name.items():
            with self._harness_runs(), explained(name, "its requests cannot be written"):
                if self._write_requests(task, render):
                    self.remarks += (
                        f"task '{name}' draws at random while it writes its requests: its words here are not those of "
                        "a run of the harness",
                    )
            self._try_judge(name, task)
            if special and (num_spelt := _count_spelling(special, task.instances)):
                self.remarks += (
                    f"task '{name}': {num_spelt:,} documents spell a special token of the model, which is text here "
                    "and a token in the harness",
                )

    def _write_requests(self, task: Task, render: Render | None) -> bool:
        """Have them written; whether the task draws at random while it does so."""

        def write() -> None:
            task.build_all_requests(
                limit=get_sample_size(task, self._limit),
                apply_chat_template=render is not None,
                fewshot_as_multiturn=render is not None,
                chat_template=render,
            )

        before = random.getstate(), str(np.random.get_state())
        write()
        if before == (random.getstate(), str(np.random.get_state())):
            return False
        # Another thread may have drawn, as those of Prefect do: the task did if its words are others by other numbers.
        written = task.instances
        task.set_fewshot_seed(seed=self._seed)
        with numbers_kept():  # for the tasks behind this one
            write()
        is_drawn = [request.args for request in task.instances] != [request.args for request in written]
        task._instances = written
        return is_drawn

    def rows(self) -> Iterator[Row]:
        """A row for each document, by rising position."""
        for name in sorted(self.by_name, key=first_id):
            num_without = 0
            for document in read_documents(name, self.by_name[name]):
                num_without += not document.right
                values = (document.contexts, document.continuations, document.choices, name)
                yield Row(first_id(name) + document.number, values, document.right or None)
            if num_without:
                self.remarks += (
                    f"task '{name}': of {num_without:,} documents no choice is known to be right; they have no part in "
                    "our accuracy, and what the harness makes of them is its own",
                )

    def _try_judge(self, name: str, task: Task) -> None:
        """Have made-up scores judged, so that a task whose metrics fail does so before anything is scored."""
        sizes = Counter(request.doc_id for request in task.instances)
        logprobs = {name: {number: [-1.0 - place for place in range(size)] for number, size in sizes.items()}}
        own = frozenset([name] if has_own_judge(task) else [])
        with self._harness_runs(), explained(name, "its metrics cannot be made"):
            judge({"tasks": {name: task}}, self._limit, StoredScores(logprobs, own))

    def judge(self, scores: pl.DataFrame) -> list[dict[str, Any]]:
        """What the harness makes of the scores (item_id, label_id, logprob) of all rows, as rows of tasks.parquet."""
        logprobs: dict[str, dict[int, list[float]]] = {name: {} for name in self.by_name}
        names = {first_id(name): name for name in self.by_name}
        rows = scores.sort("item_id", "label_id").group_by("item_id", maintain_order=True).agg("logprob")
        for item, values in rows.iter_rows():
            number = item % DOCUMENTS
            logprobs[names[item - number]][number] = values
        own = frozenset(name for name, task in self.by_name.items() if has_own_judge(task))
        with self._harness_runs(), explained(self.name, "its metrics cannot be made"):
            return judge(self._loaded, self._limit, StoredScores(logprobs, own))

    @contextmanager
    def _harness_runs(self) -> Iterator[None]:
        with self._seeds.drawn(), harness_is_quiet(), templates_are_compiled_once():
            yield

    def records(self) -> dict[str, TaskRecord]:
        """What is recorded of each task, whose requests are written."""
        return {
            name: TaskRecord(
                num_items=len({request.doc_id for request in task.instances}),
                version=version_of(task.VERSION) or "",
                num_shots=num_shots_of(task),
                seed=self._seed if num_shots_of(task) else None,
                dataset=task.get_config("dataset_path"),
                revision=commit_of(task),
            )
            for name, task in self.by_name.items()
        }


def first_id(task: str) -> int:
    """The item id of a task's first document: the same in every run, whatever tasks stand beside it."""
    return int(hashlib.sha256(task.encode()).hexdigest(), 16) % DOCUMENTS * DOCUMENTS


def _count_spelling(special: re.Pattern[str], requests: Sequence[Instance]) -> int:
    """How many documents spell a special token; choices share a context, which is long and looked at once."""
    texts = {text for request in requests for text in request.args if isinstance(text, str)}
    spelt = {text for text in texts if special.search(text)}
    return len({request.doc_id for request in requests if any(text in spelt for text in request.args)})
