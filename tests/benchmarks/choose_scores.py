"""Real scores to choose from: who is right on what, by prompt and rule, from runs of the real command.

Invariant: an item is a distinct text whose rows have one gold label; an arm is a prompt under a rule whose prediction
depends on its own item alone.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.analysis import load_run
from pipeline.bundled import MODELS
from tests.benchmarks import inputs
from tests.benchmarks.command import CommandRun, run_with

PROMPTS = Path(__file__).with_name("choose.toml")
OWN_MODEL = "agnews-tiny-gemma"  # in the shared folder
LEFT_OUT = ("batch", "notebook")  # rules that look at other items, or are a known mistake


@dataclass(frozen=True, slots=True)
class Scored:
    """Arms: `right` (arms, items) bool, `prompts` (arms,) the number of each one's prompt, rising from 0, `names`."""

    right: np.ndarray
    prompts: np.ndarray
    names: tuple[str, ...]

    @property
    def num_prompts(self) -> int:
        return int(self.prompts[-1]) + 1

    @property
    def num_items(self) -> int:
        return self.right.shape[1]

    @property
    def accuracies(self) -> np.ndarray:
        found: np.ndarray = self.right.mean(axis=1)
        return found

    def of_first(self, num_prompts: int) -> "Scored":
        """The arms of the first so many prompts."""
        kept = self.prompts < num_prompts
        names = tuple(name for name, is_kept in zip(self.names, kept, strict=True) if is_kept)
        return Scored(self.right[kept], self.prompts[kept], names)


def score(model: str, num_items: int, prompts: Sequence[str], out: Path) -> CommandRun:
    """`labelscore run` with these prompts over the first rows; what `out` holds is not scored again."""
    folder = inputs.shared_folder()
    given = folder / "models" / OWN_MODEL if model == OWN_MODEL else Path(model)
    is_name = model in MODELS or not given.exists()
    options = ("--dataset", str(folder / "data/ag_news_test.parquet"), "--limit", str(num_items))
    chosen = [option for prompt in prompts for option in ("--prompt", prompt)]
    # The run is started in the project's root.
    return run_with(out, str(PROMPTS), "--model", model if is_name else str(given.absolute()), *options, *chosen)


def prompt_names() -> list[str]:
    """In the order of the file: the five built-in prompts first."""
    names: list[str] = tomllib.loads(PROMPTS.read_text(encoding="utf-8"))["prompt"]
    return names


def read(out: Path, prompts: Sequence[str]) -> Scored:
    """Of a finished run, these prompts in this order."""
    run = load_run(out)
    items = run.items.select("item_id", "text", "gold_id").collect()
    agreed = items.filter(pl.col("gold_id").is_not_null().all().over("text"))
    agreed = agreed.filter(pl.col("gold_id").n_unique().over("text") == 1).unique("text", keep="first")
    rows = run.predictions.filter(~pl.col("rule").is_in(LEFT_OUT)).select("item_id", "prompt", "rule", "correct")
    kept = rows.collect().join(agreed.select("item_id"), on="item_id").sort("item_id")
    by_arm = kept.partition_by("prompt", "rule", as_dict=True, maintain_order=True)
    arms = [arm for prompt in prompts for arm in by_arm if arm[0] == prompt]
    right = np.stack([by_arm[arm]["correct"].to_numpy() for arm in arms])
    numbers = np.array([list(prompts).index(prompt) for prompt, _ in arms])
    return Scored(right, numbers, tuple(f"{prompt}, {rule}" for prompt, rule in arms))
