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
from pipeline.reporting.items import TEXT_HASH, item_texts, text_column, text_key, with_gold_ids
from pipeline.reporting.places import Places, are_tasks, join_names
from pipeline.reporting.predictions import drop_outdated, predict
from pipeline.reporting.rules import NORM_RULES
from pipeline.reporting.run_facts import run_differences
from pipeline.reporting.stats import Pairs, design_effect
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEM_CHOICES, TASK
from pipeline.storing.manifest import PromptRecord

GOLD_DIFFERS = pl.col("gold_a").ne_missing(pl.col("gold_b"))
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
    item_id_b: the items predicted differently, those where a run was surest first. Where the runs do not have the same
    gold label, `gold`, `correct_a` and `correct_b` are null: no one label says which of them is right.
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
    flips: pl.DataFrame


def compare_runs(a: Run, b: Run, rule: str = "sum") -> RunComparison:
    """Compare two runs on their common items, prompt by prompt, under one rule.

    Where no prompt's name is in both, each prompt of A meets each of B. Items whose gold labels differ between the
    runs are counted and left out of the accuracies; several right classes are the same where all their names are.
    Raises InputError where no item is known to be in both.
    """
    a, b = (replace(run, predictions=_predictions(run, rule)) for run in (a, b))
    of_tasks = are_tasks(a.manifest.prompts) and are_tasks(b.manifest.prompts)
    pairs = [(x, y, *_join(a, b, x, y)) for x, y in _pair_prompts(a, b, rule)]
    met = [(x, y, table) for x, y, table, _ in pairs if table.height]
    if not met:
        same = "tasks with the same solved examples" if of_tasks else "data set and columns"
        raise InputError(f"{a.out} and {b.out} have no text in common; compare runs over the same {same}")
    # Prompts have the same items, all of which the first pair has met; tasks have their own.
    common = [table for _, _, table in (met if of_tasks else met[:1])]
    flips = pl.concat(_flips(table, a.items, x, y) for x, y, table in met)
    found = [(Arm(x.name, rule), Arm(y.name, rule), _count_pairs(table)) for x, y, table in met]
    judged = [pair for pair in found if pair[2].num_items]
    return RunComparison(
        name_a=a.out,
        name_b=b.out,
        rule=rule,
        num_a=a.items.select(pl.len()).collect().item(),
        num_b=b.items.select(pl.len()).collect().item(),
        num_common=sum(table.height for table in common),
        num_distinct=sum(table[TEXT_HASH].n_unique() for table in common),
        paired_by=next(how for _, _, table, how in pairs if table.height),
        of_tasks=of_tasks,
        num_tasks=len(met) if of_tasks else 0,
        unpaired=[f"'{x.name}' in A and '{y.name}' in B" for x, y, table, _ in pairs if table.is_empty()],
        num_gold_differs=sum(table.filter(GOLD_DIFFERS).height for table in common),
        differences=run_differences(a.manifest, b.manifest),
        comparisons=compare_pairs(judged, len(judged)),
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


def changed_predictions(old: pl.LazyFrame | None, new: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, num_common, num_changed: over the texts that both tables hold, those predicted differently.

    A text counts once however many items have it: within a run they all get the same prediction. Without `old` the
    table is empty; a rule that was another then has no row.
    """
    schema = {"prompt": pl.String, "rule": pl.String, "num_common": pl.Int64, "num_changed": pl.Int64}
    if old is None:
        return pl.DataFrame(schema=schema)
    keys = ["prompt", "rule"]
    old = drop_outdated(old)
    there, here = (frame.select(keys).unique().collect(engine="streaming") for frame in (old, new))
    shared = there.join(here, on=keys).sort(keys)
    tables = []
    for (prompt,), group in shared.group_by("prompt", maintain_order=True):
        rules = group["rule"].to_list()
        before, after = (_by_text(frame.filter(pl.col("prompt") == prompt), rules) for frame in (old, new))
        joined = after.join(before, on="key", suffix="_old")
        changed = [(pl.col(rule) != pl.col(f"{rule}_old")).sum() for rule in rules]
        num_common, *num_changed = joined.select(pl.len(), *changed).row(0)
        tables += [(prompt, rule, num_common, n) for rule, n in zip(rules, num_changed, strict=True)]
    return pl.DataFrame(tables, schema=schema, orient="row")


def _by_text(predictions: pl.LazyFrame, rules: list[str]) -> pl.DataFrame:
    """One row per text of one prompt: `key` (64 bits of its hash) and a number for the prediction under each rule.

    Numbers, because strings in the table of all items take several GB at millions of items.
    """
    cells = [pl.when(pl.col("rule") == rule).then(pl.col("predicted").hash()).max().alias(rule) for rule in rules]
    keys = predictions.filter(pl.col("rule") == rules[0]).select("item_id", key=text_key()).unique("key")
    by_item = predictions.group_by("item_id").agg(cells)
    return keys.join(by_item, on="item_id").drop("item_id").collect(engine="streaming")


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


def _join(a: Run, b: Run, x: PromptRecord, y: PromptRecord) -> tuple[pl.DataFrame, str]:
    """The items that are the same in both runs, and how that is known.

    Prompts that read the same columns have the same hash of an item, wherever it stands. Where they read others, an
    item is the same if its row is and the text in it.
    """
    left, right = _side(a, x, "a"), _side(b, y, "b")
    by_hash = left.join(right, on=[TEXT_HASH, "occurrence"]).sort("item_id_a").collect()
    if x.task and y.task:
        return by_hash, BY_REQUESTS
    if by_hash.height:
        return by_hash, BY_TEXT if text_column(x) == TEXT_HASH else BY_COLUMNS
    by_row = _of_rows(a, left, "item_id_a").join(
        _of_rows(b, right, "item_id_b"),
        left_on=["item_id_a", TEXT_HASH],
        right_on=["item_id_b", TEXT_HASH],
        coalesce=False,
    )
    choices, others = pl.col("item_choices"), pl.col("item_choices_right")  # an item with others is another item
    same = by_row.filter((choices.is_null() & others.is_null()) | (choices == others).fill_null(False))
    return same.sort("item_id_a").collect(), BY_ROW


def _side(run: Run, prompt: PromptRecord, letter: str) -> pl.LazyFrame:
    """One run's predictions: text_hash, the item's place among those with its text, and what has the run's letter.

    `gold` is the names of the right classes in alphabetical order: the classes of the other run may have other ids.
    """
    places = Places(prompt, _own_items(run.items, prompt))
    chosen = places.beside(with_gold_ids(run.predictions.filter(pl.col("prompt") == prompt.name)))
    return chosen.select(
        TEXT_HASH,
        pl.int_range(pl.len()).over(TEXT_HASH, order_by="item_id").alias("occurrence"),
        places.right_names.list.sort().alias(f"gold_{letter}"),
        pl.col("item_id", "predicted", "confidence", "correct").name.suffix(f"_{letter}"),
    )


def _own_items(items: pl.LazyFrame, prompt: PromptRecord) -> pl.LazyFrame:
    """All items of a run, or those of one of its tasks."""
    return items if prompt.task is None else items.filter(pl.col(TASK) == prompt.name)


def _of_rows(run: Run, side: pl.LazyFrame, item_id: str) -> pl.LazyFrame:
    """One side with the hash of each row's text in the place of that of all that its prompt reads."""
    choices = ITEM_CHOICES if ITEM_CHOICES in run.items.collect_schema() else pl.lit(None, pl.List(pl.String))
    texts = run.items.select(pl.col("item_id").alias(item_id), TEXT_HASH, item_choices=choices)
    return side.drop(TEXT_HASH, "occurrence").join(texts, on=item_id)


def _count_pairs(joined: pl.DataFrame) -> Pairs:
    a, b = pl.col("correct_a"), pl.col("correct_b")
    judged = joined.filter(~GOLD_DIFFERS).drop_nulls(["correct_a", "correct_b"])
    both, only_a, only_b, neither = judged.select(
        (a & b).sum(), only_a=(a & ~b).sum(), only_b=(~a & b).sum(), neither=(~a & ~b).sum()
    ).row(0)
    nets = judged.group_by(TEXT_HASH).agg(
        w=pl.len().cast(pl.Int64), net=a.cast(pl.Int64).sum() - b.cast(pl.Int64).sum()
    )
    w, net = pl.col("w"), pl.col("net")
    sums = nets.select((net**2).sum(), products=(w * net).sum(), weights=(w**2).sum()).row(0)
    effect = design_effect(judged.height, nets.height, only_a, only_b, *sums)
    return Pairs(both, only_a, only_b, neither, effect)


def _flips(joined: pl.DataFrame, items_a: pl.LazyFrame, x: PromptRecord, y: PromptRecord) -> pl.DataFrame:
    name = x.name if x.name == y.name else f"{x.name} / {y.name}"
    texts = item_texts(_own_items(items_a, x), x).rename({"item_id": "item_id_a"})
    judged = pl.when(~GOLD_DIFFERS)
    return (
        joined.lazy()
        .filter(pl.col("predicted_a") != pl.col("predicted_b"))
        .sort(pl.max_horizontal("confidence_a", "confidence_b"), "item_id_a", descending=[True, False])
        .join(texts, on="item_id_a", how="left", maintain_order="left")
        .select(
            pl.lit(name).alias("prompt"), "text", judged.then(join_names(pl.col("gold_a"))).alias("gold"),
            "predicted_a", "predicted_b", "confidence_a", "confidence_b", judged.then("correct_a").alias("correct_a"),
            judged.then("correct_b").alias("correct_b"), "item_id_a", "item_id_b",
        )
        .collect()
    )  # fmt: skip
