"""Two runs side by side: the same items, by what their prompts read, and those whose prediction flipped.

Invariant: an item of one run is paired with at most one of the other, and only where a hash proves that they are the
same; a text that occurs several times is paired by its order of occurrence.
"""

from dataclasses import dataclass, replace

import polars as pl

from pipeline.analysis import Run
from pipeline.errors import InputError
from pipeline.reporting.agreement import Arm
from pipeline.reporting.comparisons import compare_pairs
from pipeline.reporting.items import TEXT_HASH, item_texts, text_column
from pipeline.reporting.pairing import Met, meet, named_flips, own_items
from pipeline.reporting.places import are_tasks, join_names
from pipeline.reporting.predictions import drop_outdated, predict
from pipeline.reporting.rules import NORM_RULES
from pipeline.reporting.run_facts import run_differences
from pipeline.storing.files import Output
from pipeline.storing.manifest import PromptRecord

BY_TEXT, BY_COLUMNS, BY_ROW = "by their text", "by all that their prompts read", "by their row and its text"
BY_REQUESTS = "by their task and all that it asks"


@dataclass(frozen=True, slots=True)
class RunComparison:
    """num_common items are the same in both (`paired_by`: how that is known), and have num_distinct texts.

    `unpaired` are pairs of prompts, as words, that read other columns, so that no item is known to be the same.
    Where both runs are of tasks (`of_tasks`) the prompts are tasks, and the numbers of items are sums over them.

    `comparisons` are as in `compare_pairs`, one row per shared prompt, and empty where no common item has the same gold
    label in both. `differences`: what else differs, and its value in each.
    `flips`: prompt, text, gold, predicted_a, predicted_b, confidence_a, confidence_b, correct_a, correct_b, item_id_a,
    item_id_b: of the num_flips items predicted differently at most MAX_FLIPS of each pair of prompts, those where a run
    was surest first. Where the runs do not have the same gold label, `gold`, `correct_a` and `correct_b` are null: no
    one label says which of them is right.
    """

    name_a: str
    name_b: str
    rule: str
    num_a: int
    num_b: int
    num_common: int
    num_distinct: int
    paired_by: str
    of_tasks: bool
    num_tasks: int
    unpaired: list[str]
    num_gold_differs: int
    differences: list[tuple[str, str, str]]
    comparisons: pl.DataFrame
    num_flips: int
    flips: pl.DataFrame


def compare_runs(a: Run, b: Run, rule: str = "sum") -> RunComparison:
    """Compare two runs on their common items, prompt by prompt, under one rule.

    Where no prompt's name is in both, each prompt of A meets each of B. Items whose gold labels differ between the
    runs are counted and left out of the accuracies; several right classes are the same where all their names are.
    Raises InputError where no item is known to be in both.
    """
    a, b = (replace(run, predictions=_predictions(run, rule)) for run in (a, b))
    of_tasks = are_tasks(a.manifest.prompts) and are_tasks(b.manifest.prompts)
    pairs = [(x, y, *_meet(a, b, x, y)) for x, y in _pair_prompts(a, b, rule)]
    met = [(x, y, found) for x, y, found, _ in pairs if found.num_items]
    if not met:
        same = "tasks with the same solved examples" if of_tasks else "data set and columns"
        raise InputError(f"{a.out} and {b.out} have no text in common; compare runs over the same {same}")
    # Prompts have the same items, all of which the first pair has met; tasks have their own.
    common = [found for _, _, found in (met if of_tasks else met[:1])]
    flips = pl.concat(_flips(found, a, b, x, y) for x, y, found in met)
    tables = [(Arm(x.name, rule), Arm(y.name, rule), found.pairs) for x, y, found in met]
    judged = [pair for pair in tables if pair[2].num_items]
    return RunComparison(
        name_a=a.out,
        name_b=b.out,
        rule=rule,
        num_a=a.items.select(pl.len()).collect().item(),
        num_b=b.items.select(pl.len()).collect().item(),
        num_common=sum(found.num_items for found in common),
        num_distinct=sum(found.num_texts for found in common),
        paired_by=next(how for _, _, found, how in pairs if found.num_items),
        of_tasks=of_tasks,
        num_tasks=len(met) if of_tasks else 0,
        unpaired=[f"'{x.name}' in A and '{y.name}' in B" for x, y, found, _ in pairs if not found.num_items],
        num_gold_differs=sum(found.num_gold_differs for found in common),
        differences=run_differences(a.manifest, b.manifest),
        comparisons=compare_pairs(judged, len(judged)),
        num_flips=sum(found.num_flips for _, _, found in met),
        flips=_surest_first(flips) if of_tasks else flips,
    )


def _surest_first(flips: pl.DataFrame) -> pl.DataFrame:
    """Of all tasks together: the first of them would fill what is shown."""
    return flips.sort(pl.max_horizontal("confidence_a", "confidence_b"), descending=True, maintain_order=True)


def _predictions(run: Run, rule: str) -> pl.LazyFrame:
    """A run's predictions under one rule; made again where the rule is another than when they were written."""
    stored = drop_outdated(run.predictions).filter(pl.col("rule") == rule)
    if rule in NORM_RULES and stored.head(1).collect().is_empty():
        return predict(Output(run.folder, create=False), run.manifest.prompts, [rule]).lazy()
    return stored


def _pair_prompts(a: Run, b: Run, rule: str) -> list[tuple[PromptRecord, PromptRecord]]:
    prompts_a, prompts_b = (_prompts(run, rule) for run in (a, b))
    common = [(prompts_a[name], prompts_b[name]) for name in prompts_a if name in prompts_b]
    if not common and are_tasks(a.manifest.prompts) and are_tasks(b.manifest.prompts):
        raise InputError(
            f"{a.out} and {b.out} have no task in common ({', '.join(prompts_a)}; {', '.join(prompts_b)}); "
            "compare runs that share one"
        )
    return common or [(x, y) for x in prompts_a.values() for y in prompts_b.values()]


def _prompts(run: Run, rule: str) -> dict[str, PromptRecord]:
    names = run.predictions.select("prompt").unique().collect()["prompt"]
    prompts = {prompt.name: prompt for prompt in run.manifest.prompts if prompt.name in names}
    if not prompts:
        raise InputError(f"{run.out} has no predictions under rule '{rule}'; choose a rule that both reports have")
    return prompts


def _meet(a: Run, b: Run, x: PromptRecord, y: PromptRecord) -> tuple[Met, str]:
    """The items that are the same in both runs, and how that is known."""
    met = meet(a, b, x, y, by_row=False)
    if x.task and y.task:
        return met, BY_REQUESTS
    if met.num_items:
        return met, BY_TEXT if text_column(x) == TEXT_HASH else BY_COLUMNS
    return meet(a, b, x, y, by_row=True), BY_ROW


def _flips(met: Met, a: Run, b: Run, x: PromptRecord, y: PromptRecord) -> pl.DataFrame:
    name = x.name if x.name == y.name else f"{x.name} / {y.name}"
    flips = named_flips(met, a, b, x, y)
    chosen = pl.col("item_id").is_in(flips["item_id_a"].implode())
    texts = item_texts(own_items(a.items, x).filter(chosen), x).rename({"item_id": "item_id_a"}).collect()
    return flips.join(texts, on="item_id_a", how="left", maintain_order="left").select(
        pl.lit(name).alias("prompt"), "text", join_names(pl.col("gold_a")).alias("gold"), "predicted_a", "predicted_b",
        "confidence_a", "confidence_b", "correct_a", "correct_b", "item_id_a", "item_id_b",
    )  # fmt: skip
