"""Random runs of tasks: each with items of its own, and with what lm-evaluation-harness might make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.prompts import REQUESTS, hash_item
from pipeline.storing.files import Output
from pipeline.storing.layout import DOCUMENTS, ITEM_CHOICES, SCORES_SCHEMA, TASK, TASKS_SCHEMA
from pipeline.storing.manifest import Manifest, write_manifest
from pipeline.storing.tables import write_table
from tests.pipeline.reporting import tables

ITEM_SCHEMA = {
    "item_id": pl.Int64,
    "context": pl.List(pl.String),
    "continuation": pl.List(pl.String),
    "gold_id": pl.Int16,
    "gold": pl.String,
    "text_hash": pl.String,
    "gold_ids": pl.List(pl.Int16),
    ITEM_CHOICES: pl.List(pl.String),
    REQUESTS.hash_column: pl.String,
    TASK: pl.String,
}


@dataclass(frozen=True)
class Task:
    """How the items of a task are made: their number and choices, and what is odd about them."""

    number: int  # nine digits, which its items' ids begin with
    num_items: int
    num_choices: int
    gold: bool = True
    several: float = 0.0  # the share with two right choices
    contexts: bool = False  # whether each choice has a context of its own, and all the same continuation
    repeats: int = 1  # how many documents ask the same
    shots: int = 0


TASKS: Mapping[str, Task] = {  # by falling number: items.parquet is in another order than the tasks
    "quiz": Task(912_345_678, 40, 4, several=0.25, shots=2),
    "pairs": Task(512_345_678, 30, 2, contexts=True, repeats=3),
    "bare": Task(112_345_678, 25, 3, gold=False),
}


def make_items(tasks: Mapping[str, Task], rng: np.random.Generator) -> pl.DataFrame:
    """items.parquet, in the order of the ids."""
    rows = [_item(name, task, n, rng) for name, task in tasks.items() for n in range(task.num_items)]
    return pl.DataFrame(rows, ITEM_SCHEMA, orient="row").sort("item_id")


def _item(name: str, task: Task, number: int, rng: np.random.Generator) -> tuple[Any, ...]:
    asked = number // task.repeats
    choices = [f"{'é' * (asked % 3)}way {place}{'x' * place}" for place in range(task.num_choices)]
    choices[0] = "" if asked % 5 == 0 else choices[0]
    shots = "A solved example. " * 20 * task.shots
    question = f"{shots}{name} {asked} | <script>alert({asked})</script>\n*what* `then`"
    values = {"context": [question] * len(choices), "continuation": [f" {choice}" for choice in choices]}
    if task.contexts:
        values = {"context": [f"{question} {c}" for c in choices], "continuation": [" and so on"] * len(choices)}
    gold = int(rng.integers(task.num_choices)) if task.gold else None
    golds = None
    if gold is not None and rng.random() < task.several:
        golds, gold = sorted({gold, (gold + 1) % task.num_choices}), None
    text = None if gold is None else choices[gold]
    item_id = task.number * DOCUMENTS + number
    return (item_id, *values.values(), gold, text, None, golds, choices, hash_item(REQUESTS, values), name)


def make_scores(items: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Whole numbers, so that ties are frequent; what is asked twice has the same scores."""
    drawn: dict[str, list[float]] = {}
    rows = []
    for item in items.iter_rows(named=True):
        digest, choices = item[REQUESTS.hash_column], item[ITEM_CHOICES]
        logprobs = drawn.setdefault(digest, (-rng.integers(1, 9, len(choices)).astype(float)).tolist())
        for place, (choice, words) in enumerate(zip(choices, item["continuation"], strict=True)):
            rows.append(
                (
                    item["item_id"], digest, item[TASK], "random", "sha256:0123456789abcdef", place, choice, words,
                    item["gold_id"], 1 + len(choice) % 3, len(words.encode()), len(choice) or 1,
                    len(choice.encode()) or 1, logprobs[place], logprobs[place] + len(choice) % 2, None,
                    20 + item["item_id"] % 30, item["item_id"] % 7 == 0,
                )
            )  # fmt: skip
    return pl.DataFrame(rows, tables.SCORE_SCHEMA, orient="row")


HARNESS = (
    ("quiz", False, "acc", "none", 0.5125, True, 40, 2),
    ("quiz", False, "acc_norm", "none", 0.475, True, 40, 2),
    ("pairs", False, "acc", "none", 0.6, True, 30, 0),
    ("pairs", False, "acc", "strict", 0.55, True, 30, 0),
    ("pairs", False, "mcc", "none", -0.125, True, 30, 0),
    ("bare", False, "brier_score", "none", 0.75, False, 25, 0),
    ("both", True, "acc", "none", 0.55, True, 70, 0),
)


def make_manifest(tasks: Mapping[str, Task], **facts: Any) -> Manifest:
    num_items = sum(task.num_items for task in tasks.values())
    plain = tables.make_manifest(num_items, tuple(tasks)).model_dump(mode="json")
    plain["libraries"]["lm_eval"] = "0.4.13"
    plain["config"] = {"task": list(tasks), "num_shots": 0}
    records = [
        record
        | {"labels": [], "template": "{context}", "boundary": "harness", "columns": ["context"]}
        | {"choices": ["continuation"], "choice": "{choice}"}
        | {"task": {"num_items": task.num_items, "version": "1.0", "num_shots": task.shots}}
        for record, task in zip(plain["prompts"], tasks.values(), strict=True)
    ]
    return Manifest.model_validate(plain | {"prompts": records} | facts)


def write_run(
    out: Path,
    tasks: Mapping[str, Task] = TASKS,
    *,
    seed: int = 0,
    items: pl.DataFrame | None = None,
    harness: Sequence[tuple[Any, ...]] = HARNESS,
    **facts: Any,
) -> Path:
    """A whole run of tasks in `out`, as `labelscore run` leaves it before its report; `seed` is that of its scores."""
    if items is None:
        items = make_items(tasks, np.random.default_rng(1))
    scores = make_scores(items, np.random.default_rng(seed))
    (out / "scores").mkdir(parents=True, exist_ok=True)
    write_table(out / "scores" / "scores.parquet", SCORES_SCHEMA, [scores.to_arrow().cast(SCORES_SCHEMA)])
    items.write_parquet(out / "items.parquet")
    rows = pl.DataFrame([(*row, "1.0") for row in harness], pl.Schema(TASKS_SCHEMA), orient="row")
    write_table(out / "tasks.parquet", TASKS_SCHEMA, [rows.to_arrow().cast(TASKS_SCHEMA)])
    write_manifest(Output(out), make_manifest(tasks, **facts))
    return out
