"""Known tasks on real items, from configurations of ours: what lm-evaluation-harness wrote, scored and predicted.

Skipped where the shared folder is missing; tasks of our own writing in the same shapes are in test_choices.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.config import load_config
from pipeline.inputs import read_inputs
from pipeline.items import Item
from tests.flows.conftest import Command
from tests.flows.known_tasks import TASKS, configuration, expected

NUM_ITEMS = 60


@pytest.mark.parametrize("boundary", ["harness", "joint"])
@pytest.mark.parametrize("task", TASKS)
def test_a_known_task_gives_what_the_harness_gives(
    labelscore: Command, shared: Path, tmp_path: Path, task: str, boundary: str
) -> None:
    """Contexts and continuations equal to the byte, log-likelihoods within 1e-4, acc and acc_norm item by item."""
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(configuration(shared, task).replace('"harness"', f'"{boundary}"'))
    model = str(shared / "models" / "agnews-tiny-gemma")
    arguments = ["run", str(config), "--model", model, "--limit", str(NUM_ITEMS), "--out", str(out)]
    done = labelscore(*arguments)
    assert done.code == 0, done.err
    wanted = expected(shared, task)
    found = pl.read_parquet(out / "scores/scores.parquet").sort("item_id", "label_id")
    assert requests(str(config)) == [(row["context"], row["continuation"]) for row in wanted]
    assert found["item_id"].to_list() == [row["item"] for row in wanted]
    assert found["logprob"].to_list() == pytest.approx([row["logprob"] for row in wanted], abs=1e-4)
    predictions = pl.read_parquet(out / "report/predictions.parquet").sort("item_id")
    for rule, name in (("sum", "acc_pred"), ("mean_char", "acc_norm_pred")):
        own = predictions.filter(pl.col("rule") == rule)
        theirs = {row["item"]: row[name] for row in wanted}
        assert own["predicted_id"].to_list() == list(theirs.values())
    golds = {row["item"]: row["gold"] for row in wanted}
    assert pl.read_parquet(out / "items.parquet")["gold_id"].to_list() == list(golds.values())
    assert "nothing to score" in labelscore(*arguments).err


def requests(config: str) -> list[tuple[str, str]]:
    """Context and continuation of each item and choice, as the configuration writes them."""
    inputs = read_inputs(load_config(config, None, {}))
    (prompt,) = inputs.prompts
    written: list[tuple[str, str]] = []
    for row in list(inputs.dataset.rows())[:NUM_ITEMS]:
        item = inputs.shape.read(row, inputs.golds)
        assert isinstance(item, Item)
        each = prompt.write(item.values)
        contexts = each.contexts * (len(each.continuations) if len(each.contexts) == 1 else 1)
        written += zip(contexts, each.continuations, strict=True)
    return written


def test_the_harness_counts_accuracy_as_we_do(shared: Path) -> None:
    """Its own summary of these tasks follows from its scores by the same two rules."""

    summary: dict[str, Any] = json.loads((shared / "data/tasks/expected/summary.json").read_text())
    for task in TASKS:
        rows = pl.DataFrame(expected(shared, task)).group_by("item", maintain_order=True).agg("logprob", "gold")
        right = [int(np.argmax(scores)) == gold[0] for _, scores, gold in rows.iter_rows()]
        assert sum(right) / len(right) == pytest.approx(summary[f"{task}.agnews-tiny-gemma"]["acc"], abs=5e-5)
