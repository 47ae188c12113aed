"""Two runs side by side: the same texts, by hash, and the items whose prediction flipped.

Invariant: an item of one run is paired with at most one of the other; a text that occurs several times is paired by
its order of occurrence.
"""

from dataclasses import dataclass

import polars as pl

from pipeline.analysis import Run
from pipeline.errors import InputError
from pipeline.reporting.comparisons import RUN_FAMILY, Side, compare_sides, count_patterns
from pipeline.reporting.items import join_classes, right_classes, text_key, with_gold_ids
from pipeline.reporting.run_facts import run_differences
from pipeline.reporting.stats import Pairs

GOLD_DIFFERS = pl.col("gold_a").ne_missing(pl.col("gold_b"))


@dataclass(frozen=True, slots=True)
class RunComparison:
    """num_common items have the same text, one of num_distinct texts.

    `comparisons` are as in `compare_sides`, one row per shared prompt, and empty where no common item has the same gold
    label in both. `differences`: what else differs, and its value in each.
    `flips`: prompt, text, gold, predicted_a, predicted_b, confidence_a, confidence_b, correct_a, correct_b, item_id_a,
    item_id_b: the items predicted differently, those where a run was surest first.
    """

    name_a: str
    name_b: str
    rule: str
    num_a: int
    num_b: int
    num_common: int
    num_distinct: int
    num_gold_differs: int
    differences: list[tuple[str, str, str]]
    comparisons: pl.DataFrame
    flips: pl.DataFrame


def compare_runs(a: Run, b: Run, rule: str = "sum") -> RunComparison:
    """Compare two runs on their common texts, prompt by prompt, under one rule.

    Where no prompt's name is in both, each prompt of A meets each of B. Items whose gold labels differ between the
    runs are counted and left out of the accuracies; several right classes are the same where all their names are.
    Raises InputError where no text is common to both.
    """
    pairs = _pair_prompts(a, b, rule)
    joined = [_join(a, b, x, y, rule) for x, y in pairs]
    if joined[0].is_empty():
        raise InputError(f"{a.out} and {b.out} have no text in common; compare runs over the same data set")
    found = [
        (Side(x, rule, f"'{x}' in A"), Side(y, rule, f"'{y}' in B"), _count_pairs(table))
        for (x, y), table in zip(pairs, joined, strict=True)
    ]
    flips = pl.concat(_flips(table, x, y) for (x, y), table in zip(pairs, joined, strict=True))
    texts = a.items.select(item_id_a="item_id", text="text")
    return RunComparison(
        name_a=a.out,
        name_b=b.out,
        rule=rule,
        num_a=a.items.select(pl.len()).collect().item(),
        num_b=b.items.select(pl.len()).collect().item(),
        num_common=joined[0].height,
        num_distinct=joined[0]["text_hash"].n_unique(),
        num_gold_differs=joined[0].filter(GOLD_DIFFERS).height,
        differences=run_differences(a.manifest, b.manifest),
        comparisons=compare_sides(RUN_FAMILY, [sides for sides in found if sides[2].num_items]),
        flips=flips.lazy().join(texts, on="item_id_a", how="left", maintain_order="left").collect(),
    )


def changed_predictions(old: pl.LazyFrame | None, new: pl.LazyFrame) -> pl.DataFrame:
    """prompt, rule, num_common, num_changed: over the texts that both tables hold, those predicted differently.

    A text counts once however many items have it: within a run they all get the same prediction. Without `old` the
    table is empty.
    """
    schema = {"prompt": pl.String, "rule": pl.String, "num_common": pl.Int64, "num_changed": pl.Int64}
    if old is None:
        return pl.DataFrame(schema=schema)
    keys = ["prompt", "rule"]
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


def _pair_prompts(a: Run, b: Run, rule: str) -> list[tuple[str, str]]:
    names_a, names_b = (_prompts(run, rule) for run in (a, b))
    common = [(name, name) for name in names_a if name in names_b]
    return common or [(x, y) for x in names_a for y in names_b]


def _prompts(run: Run, rule: str) -> list[str]:
    chosen = run.predictions.filter(pl.col("rule") == rule).select("prompt").unique().collect()
    names = [prompt.name for prompt in run.manifest.prompts if prompt.name in chosen["prompt"]]
    if not names:
        raise InputError(f"{run.out} has no predictions under rule '{rule}'; choose a rule that both reports have")
    return names


def _join(a: Run, b: Run, prompt_a: str, prompt_b: str, rule: str) -> pl.DataFrame:
    left, right = _side(a, prompt_a, rule, "a"), _side(b, prompt_b, rule, "b")
    return left.join(right, on=["text_hash", "occurrence"]).sort("item_id_a").collect()


def _side(run: Run, prompt: str, rule: str, letter: str) -> pl.LazyFrame:
    """One run's predictions: text_hash, the item's place among those with its text, and what has the run's letter.

    `gold` is the names of the right classes in alphabetical order: the classes of the other run may have other ids.
    """
    (names,) = (p.label_names for p in run.manifest.prompts if p.name == prompt)
    chosen = run.predictions.filter(pl.col("prompt") == prompt, pl.col("rule") == rule)
    return with_gold_ids(chosen).select(
        "text_hash",
        pl.int_range(pl.len()).over("text_hash", order_by="item_id").alias("occurrence"),
        right_classes(names).list.sort().alias(f"gold_{letter}"),
        pl.col("item_id", "predicted", "confidence", "correct").name.suffix(f"_{letter}"),
    )


def _count_pairs(joined: pl.DataFrame) -> Pairs:
    a, b = pl.col("correct_a"), pl.col("correct_b")
    judged = joined.filter(~GOLD_DIFFERS).drop_nulls(["correct_a", "correct_b"])
    both, only_a, only_b, neither = judged.select(
        (a & b).sum(), only_a=(a & ~b).sum(), only_b=(~a & b).sum(), neither=(~a & ~b).sum()
    ).row(0)
    net = a.cast(pl.Int64).sum() - b.cast(pl.Int64).sum()
    texts = judged.group_by("text_hash").agg(rows=pl.len(), net=net, n=1)
    return Pairs(both, only_a, only_b, neither, count_patterns(texts) if texts.height < judged.height else ())


def _flips(joined: pl.DataFrame, prompt_a: str, prompt_b: str) -> pl.DataFrame:
    name = prompt_a if prompt_a == prompt_b else f"{prompt_a} / {prompt_b}"
    return (
        joined.filter(pl.col("predicted_a") != pl.col("predicted_b"))
        .sort(pl.max_horizontal("confidence_a", "confidence_b"), "item_id_a", descending=[True, False])
        .select(
            pl.lit(name).alias("prompt"), join_classes(pl.col("gold_a")).alias("gold"), "predicted_a", "predicted_b",
            "confidence_a", "confidence_b", "correct_a", "correct_b", "item_id_a", "item_id_b",
        )
    )  # fmt: skip
