"""Predictions of every rule: from the score table to predictions.parquet, a block of items at a time.

Invariant: memory holds one block of items, whatever the run's size; a prediction is made only from an item whose
labels are all there, exactly once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.analysis import scan, scan_scores
from pipeline.errors import InputError, RunError
from pipeline.prompts import CLASS_RULES
from pipeline.reporting.agreement import COMMONEST, Arm
from pipeline.reporting.items import ItemFacts, commonest_class, in_block, item_key, read_item_facts
from pipeline.reporting.places import Places, are_tasks, num_places
from pipeline.reporting.rules import (
    CONSTANTS,
    RULES,
    decide,
    label_constants,
    log_sum_exp,
    score_items,
    with_inputs,
    with_log_q,
)
from pipeline.reporting.tallies import Tallies
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEMS, PREDICTIONS_SCHEMA, PRIORS, SCORES, SCORES_SCHEMA, TASK
from pipeline.storing.manifest import Manifest, PromptRecord
from pipeline.storing.tables import write_table

BLOCK_ROWS = 1 << 16  # score rows in memory at once: some 40 MB with eight rules; larger blocks are no faster
ROWS_IN_GROUP = 1 << 16  # predictions of each rule that are written at once ...
BYTES_WAITING = 256_000_000  # ... or fewer, where the names of choices are long

NOT_READ = ("model", "revision", "label", "label_words")  # long, and told by prompt, item and label id
SCORE_COLUMNS = [name for name in SCORES_SCHEMA.names if name not in NOT_READ]
COLUMNS = pl.Schema(PREDICTIONS_SCHEMA)

Block = tuple[int, int]  # a range [low, high) of item ids


@dataclass(frozen=True, slots=True)
class Source:
    """The tables of a run of `prompts`, and what predictions are made from.

    `headline` is one of `rules`; `constants` are the rules' inputs for each (prompt, label): `log_prior`, `log_cf` and
    `log_batch`; the `blocks` cover the run's items, of which each prompt has `num_items`. `commonest` is the id of the
    class that most items have, where items share their classes and one has a gold label.
    """

    prompts: Sequence[PromptRecord]
    scores: pl.LazyFrame
    items: pl.LazyFrame
    facts: ItemFacts
    rules: Sequence[str]
    headline: str
    num_items: dict[str, int]
    blocks: Sequence[Block]
    constants: pl.DataFrame
    commonest: int | None

    @property
    def passes(self) -> Sequence[PromptRecord]:
        """The prompts that the items are gone through for: each of them, but once for all tasks."""
        return _passes(self.prompts)

    def places(self, prompt: PromptRecord, chosen: pl.Expr) -> Places:
        """The places of the chosen items under one prompt."""
        return Places(prompt, self.items.filter(chosen)).read()

    def rows(self, prompt: PromptRecord, chosen: pl.Expr, *more: str) -> pl.LazyFrame:
        """The score rows of the chosen items under one prompt, ready for any rule, with `more` columns.

        Of a prompt that is a task all that the items have, whichever task they are of.
        """
        own = pl.lit(True) if prompt.task is not None else pl.col("prompt") == prompt.name
        rows = self.scores.select(*SCORE_COLUMNS, *more).filter(chosen, own)
        return with_inputs(rows, self.constants.filter(pl.col("prompt") == prompt.name))


def open_source(folder: Output, prompts: Sequence[PromptRecord], headline: str) -> Source:
    """Open the tables in `folder`, of a run of these prompts.

    Raises InputError where the rule `headline` has not what it needs, RunError where items are of no task of the run.
    """
    scores, items = scan_scores(folder, prompts), scan(folder, ITEMS)
    priors = scan(folder, PRIORS).collect() if folder.exists(PRIORS) else None
    has_classes = not any(prompt.has_choices for prompt in prompts)
    rules = _pick_rules(scores, headline, has_priors=priors is not None, has_classes=has_classes)
    passes = _passes(prompts)
    rows = pl.sum_horizontal(map(num_places, passes)).cast(pl.UInt32)  # twelve bytes an item, for a moment
    sizes = items.select("item_id", rows=rows).collect(engine="streaming").sort("item_id")
    num_items = _count_items(items, prompts, sizes.height)
    blocks = cut_blocks(sizes["item_id"].to_numpy(), sizes["rows"].to_numpy())
    del sizes
    constants = _make_constants(scores, [prompt for prompt in prompts if has_classes], blocks, priors)
    facts = read_item_facts(items, passes)
    commonest = commonest_class(items) if has_classes else None
    return Source(prompts, scores, items, facts, rules, headline, num_items, blocks, constants, commonest)


def _passes(prompts: Sequence[PromptRecord]) -> Sequence[PromptRecord]:
    return prompts[:1] if are_tasks(prompts) else prompts


def _count_items(items: pl.LazyFrame, prompts: Sequence[PromptRecord], num_items: int) -> dict[str, int]:
    """How many items each prompt has. Raises RunError where the items are not those of the run's tasks."""
    if not are_tasks(prompts):
        return {prompt.name: num_items for prompt in prompts}
    found = dict(items.group_by(TASK).len().collect().iter_rows())
    if odd := set(found) ^ {prompt.name for prompt in prompts}:
        name = min(map(str, odd))
        where = f"{ITEMS} has items of" if name in found else f"{ITEMS} has no items of"
        raise RunError(f"{where} the task '{name}', which is not what the run was of; run `labelscore run` again")
    return {prompt.name: found[prompt.name] for prompt in prompts}


def check_rule(folder: Output, manifest: Manifest, rule: str) -> None:
    """Raises InputError where a report cannot be led by the rule: its scores are not stored, or make no sense here."""
    has_classes = not any(prompt.has_choices for prompt in manifest.prompts)
    _pick_rules(scan_scores(folder, manifest.prompts), rule, has_priors=folder.exists(PRIORS), has_classes=has_classes)


def cut_blocks(ids: np.ndarray, rows: np.ndarray) -> list[Block]:
    """Ranges of rising item ids, of at most BLOCK_ROWS score rows each, or of one item that has more.

    `rows`: how many each item has.
    """
    before = np.concatenate([[0], rows.cumsum(dtype=np.int64)])  # (items + 1,), score rows before each item
    starts, first = [], 0
    while first < len(ids):
        starts.append(int(ids[first]))
        first = max(first + 1, int(np.searchsorted(before, before[first] + BLOCK_ROWS, side="right")) - 1)
    return list(zip(starts, [*starts[1:], int(ids[-1]) + 1], strict=True))


def _pick_rules(scores: pl.LazyFrame, headline: str, *, has_priors: bool, has_classes: bool) -> tuple[str, ...]:
    """The rules whose inputs are stored, of those that make sense of these items."""
    rules = [rule for rule in RULES if has_classes or rule not in CLASS_RULES]
    missing = set() if has_priors else {"pmi", "contextual"}
    if not scores.select(pl.col("notebook_logit").is_not_null().all()).collect(engine="streaming").item():
        missing.add("notebook")
    if headline not in RULES:
        raise InputError(f"unknown rule '{headline}'; use one of {', '.join(RULES)}")
    if headline not in rules:
        raise InputError(
            f"rule '{headline}' needs labels that all items share, and here each item brings its own choices; use one "
            f"of {', '.join(rules)}"
        )
    if headline in missing:
        option = "--notebook-rule" if headline == "notebook" else "a prior for each prompt"
        raise InputError(f"rule '{headline}' needs scores that this run did not store; run again with {option}")
    return tuple(rule for rule in rules if rule not in missing)


def _make_constants(
    scores: pl.LazyFrame, prompts: Sequence[PromptRecord], blocks: Sequence[Block], priors: pl.DataFrame | None
) -> pl.DataFrame:
    """`log_prior` and `log_cf` of each (prompt, label), and `log_batch` from a pass over all items."""
    keys = ["prompt", "label_id"]
    if not prompts:
        return pl.DataFrame(schema={"prompt": pl.String, "label_id": pl.Int16, **dict.fromkeys(CONSTANTS, pl.Float64)})
    sums = [
        with_log_q(scores.filter(in_block(block), pl.col("prompt") == prompt.name))
        .group_by(keys)
        .agg(log_sum=log_sum_exp(pl.col("log_q")), n=pl.len())
        .collect()
        for block in blocks
        for prompt in prompts
    ]
    log_mean = log_sum_exp(pl.col("log_sum")) - pl.col("n").sum().cast(pl.Float64).log()
    return label_constants(pl.concat(sums).group_by(keys).agg(log_batch=log_mean).sort(keys), priors)


def predict(folder: Output, prompts: Sequence[PromptRecord], rules: Sequence[str]) -> pl.DataFrame:
    """The rows that predictions.parquet would have under some rules. Raises what `open_source` and a report raise."""
    source = replace(open_source(folder, prompts, rules[0]), rules=rules)
    return pl.concat(_predict_blocks(source, Tallies()))


def drop_outdated(predictions: pl.LazyFrame) -> pl.LazyFrame:
    """Without what was made by a `mean_byte` that divided by num_bytes: then there was no `mean_char`."""
    if predictions.select((pl.col("rule") == "mean_char").any()).collect(engine="streaming").item():
        return predictions
    return predictions.filter(pl.col("rule") != "mean_byte")


def write_predictions(source: Source, path: Path) -> Tallies:
    """Write predictions.parquet to `path`, row groups of one rule each; return what is counted on the way.

    Raises RunError where an item lacks a label's scores or has them twice.
    """
    tallies = Tallies()
    write_table(path, PREDICTIONS_SCHEMA, _row_groups(_predict_blocks(source, tallies), source.rules))
    found = dict(tallies.mass.select("prompt", "n").iter_rows())
    for prompt_name, num_items in source.num_items.items():
        if (num_found := found.get(prompt_name, 0)) != num_items:
            raise RunError(
                f"{SCORES} has scores of {num_found:,} items under prompt '{prompt_name}', {ITEMS} has "
                f"{num_items:,} items; run `labelscore run` again"
            )
    return tallies


def _row_groups(blocks: Iterable[pl.DataFrame], rules: Sequence[str]) -> Iterator[pa.Table]:
    """The row groups of predictions.parquet: of one rule each, so that `WHERE rule = 'sum'` passes over the others.

    In each the rows stand by item, then by prompt. Groups of all rules follow one another, and then those of the next
    items: memory holds one of each rule (some 50 MB of eight), and the rows are written once.
    """
    waiting: list[pl.DataFrame] = []
    for block in blocks:
        waiting.append(block)
        is_long = sum(len(rows) for rows in waiting) >= ROWS_IN_GROUP * len(rules)
        if is_long or sum(rows.estimated_size() for rows in waiting) >= BYTES_WAITING:
            yield from _by_rule(waiting, rules)
            waiting = []
    if waiting:
        yield from _by_rule(waiting, rules)


def _by_rule(blocks: list[pl.DataFrame], rules: Sequence[str]) -> Iterator[pa.Table]:
    for rule in rules:
        rows = pl.concat(block.filter(pl.col("rule") == rule) for block in blocks).sort("item_id", "prompt")
        yield rows.to_arrow().cast(PREDICTIONS_SCHEMA)


def _predict_blocks(source: Source, tallies: Tallies) -> Iterator[pl.DataFrame]:
    """The rows of predictions.parquet, a block of items at a time, in no order."""
    fewest = source.facts.fewest_texts
    for block in source.blocks:
        several, parts = source.facts.gold_ids(block), []
        right: dict[Arm, pl.Series] = {}
        for prompt in source.passes:
            places = source.places(prompt, in_block(block))
            items = _score_whole_items(source, places, block)
            gold = items.select("item_id").join(several, on="item_id", how="left", maintain_order="left")
            gold = gold.select("gold_ids", source.facts.repeats[prompt.name].count_copies(items, item_key(prompt)))
            decisions = {rule: _judge(decide(items, rule), gold) for rule in source.rules}
            if prompt.name == fewest:
                texts = items.select(key=item_key(prompt)).with_columns(gold["copies"].fill_null(1))
            for name, rows in _by_prompt(prompt, items):
                of_prompt = {rule: decision[rows] for rule, decision in decisions.items()}
                tallies.add(name, source.headline, items[rows], of_prompt)
                own = {Arm(name, rule): decision["correct"] for rule, decision in of_prompt.items()}
                if prompt.task is not None:
                    tallies.add_right(name, own, texts[rows])
                right |= own
            parts += [_as_rows(decision, places, rule) for rule, decision in decisions.items()]
        if not are_tasks(source.passes):
            if source.commonest is not None:
                right[Arm(COMMONEST, "")] = _always_right(decisions[source.headline], source.commonest)
            tallies.add_right("", right, texts)
        yield pl.concat(parts)


def _by_prompt(prompt: PromptRecord, items: pl.DataFrame) -> Iterator[tuple[str, slice]]:
    """The rows of `items`, by rising id, that are under each prompt: all of them, or those of each task."""
    if prompt.task is None:
        yield prompt.name, slice(None)
        return
    runs, start = items[TASK].rle().struct.unnest(), 0
    for length, name in runs.iter_rows():
        yield name, slice(start, start + length)
        start += length


def _score_whole_items(source: Source, places: Places, block: Block) -> pl.DataFrame:
    """`score_items` of a block, with `num_places` and, in a run of tasks, `task`.

    Raises RunError where an item has not one row for each place, under its own prompt.
    """
    rows = source.rows(places.prompt, in_block(block)).collect().lazy()
    number, place, num_rows = num_places(places.prompt), places.number("label_id"), pl.col("num_rows")
    name = pl.col("prompt")
    of_tasks = {} if places.prompt.task is None else {"of_one": name.n_unique() == 1, "under": name.first()}
    counts = rows.group_by("item_id").agg(
        num_rows=pl.len(),
        is_apart=place.n_unique() == pl.len(),
        last=place.max(),
        is_known=(place >= 0).all(ignore_nulls=False) & pl.col("logprob").is_not_null().all(),
        **of_tasks,
    )
    own = places.prompt_name
    found = places.beside(counts).with_columns(num_places=number, own=own).sort("item_id").collect()
    # Places from 0 to the last, all different, are all places.
    is_whole = ["is_apart", "is_known", num_rows == pl.col("num_places"), pl.col("last") + 1 == pl.col("num_places")]
    is_whole += ["of_one", pl.col("under") == pl.col("own")] if of_tasks else []
    broken = found.filter(~pl.all_horizontal(is_whole).fill_null(False))
    if broken.height:
        item, name, num_found, num_wanted = broken.select("item_id", "own", "num_rows", "num_places").row(0)
        raise RunError(
            f"{SCORES}: item {item} has {num_found} label scores under prompt '{name}', not one for each of its "
            f"{num_wanted} labels; run `labelscore run` again"
        )
    facts = [found["num_places"], *([] if places.prompt.task is None else [found[TASK]])]
    return score_items(rows, source.rules).collect().with_columns(facts)


def _judge(decision: pl.DataFrame, gold: pl.DataFrame) -> pl.DataFrame:
    """A decision with gold_ids and copies; where an item has several right classes, any of them is correct."""
    any_of_them = pl.col("gold_ids").list.contains(pl.col("predicted_id"))
    correct = pl.when(pl.col("gold_ids").is_not_null()).then(any_of_them).otherwise("correct")
    judged = decision.with_columns(gold).with_columns(correct=correct)
    return judged.with_columns(copies=pl.when(pl.col("correct").is_not_null()).then("copies"))


def _always_right(decision: pl.DataFrame, class_id: int) -> pl.Series:
    """Whether one class is right for each item, null without a gold label."""
    among = pl.col("gold_ids").list.contains(pl.lit(class_id, pl.Int16))
    right = pl.coalesce(among, pl.col("gold_id") == class_id)
    return decision.select(right).to_series()


def _as_rows(decision: pl.DataFrame, places: Places, rule: str) -> pl.DataFrame:
    return (
        places.beside(decision.lazy())
        .with_columns(
            prompt=places.prompt_name,
            rule=pl.lit(rule),
            predicted=places.name("predicted_id"),
            gold=places.name("gold_id"),
        )
        .select(COLUMNS.names())
        .cast(COLUMNS)
        .collect()
    )
