"""Predictions of every rule: from the score table to predictions.parquet, a block of items at a time.

Invariant: memory holds one block of items, whatever the run's size; a prediction is made only from an item whose
labels are all there, exactly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.analysis import scan, scan_scores
from pipeline.errors import InputError, RunError
from pipeline.reporting.items import ItemFacts, in_block, read_item_facts
from pipeline.reporting.rules import RULES, decide, label_constants, log_sum_exp, wide_scores, with_inputs, with_log_q
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEMS, PREDICTIONS_SCHEMA, PRIORS, SCORES, SCORES_SCHEMA
from pipeline.storing.manifest import Manifest, PromptRecord
from pipeline.storing.tables import write_table

BLOCK_ROWS = 1 << 16  # score rows in memory at once: some 40 MB with eight rules; larger blocks are no faster

NOT_READ = ("model", "revision", "label", "label_words")  # the same in every row of a prompt and label
SCORE_COLUMNS = [name for name in SCORES_SCHEMA.names if name not in NOT_READ]

Block = tuple[int, int]  # a range [low, high) of item ids


@dataclass(frozen=True, slots=True)
class Source:
    """A run's tables, and what predictions are made from.

    `headline` is one of `rules`; `constants` are the rules' inputs for each (prompt, label): `log_prior`, `log_cf` and
    `log_batch`; the `blocks` cover the run's `num_items`.
    """

    manifest: Manifest
    scores: pl.LazyFrame
    items: pl.LazyFrame
    facts: ItemFacts
    rules: Sequence[str]
    headline: str
    num_items: int
    blocks: Sequence[Block]
    constants: pl.DataFrame

    def wide_scores(self, prompt: PromptRecord, rules: Sequence[str], chosen: pl.Expr) -> pl.DataFrame:
        """One row per chosen item of one prompt, with each rule's score of each label."""
        rows = self.scores.select(SCORE_COLUMNS).filter(chosen, pl.col("prompt") == prompt.name)
        constants = self.constants.filter(pl.col("prompt") == prompt.name)
        return wide_scores(with_inputs(rows, constants), rules, prompt.label_ids).collect()


def open_source(folder: Output, manifest: Manifest, headline: str) -> Source:
    """Open the run in `folder`. Raises InputError where the rule `headline` needs scores that are not stored."""
    scores, items = scan_scores(folder, manifest), scan(folder, ITEMS)
    priors = scan(folder, PRIORS).collect() if folder.exists(PRIORS) else None
    rules = _pick_rules(scores, headline, has_priors=priors is not None)
    ids = items.select("item_id").collect()["item_id"].sort()
    rows_per_item = sum(len(prompt.labels) for prompt in manifest.prompts)
    starts = ids.gather_every(max(1, BLOCK_ROWS // rows_per_item)).to_list()
    blocks = list(zip(starts, [*starts[1:], int(ids[-1]) + 1], strict=True))
    constants = _make_constants(scores, manifest.prompts, blocks, priors)
    return Source(manifest, scores, items, read_item_facts(items), rules, headline, len(ids), blocks, constants)


def _pick_rules(scores: pl.LazyFrame, headline: str, *, has_priors: bool) -> tuple[str, ...]:
    """The rules whose inputs are stored."""
    missing = set() if has_priors else {"pmi", "contextual"}
    if not scores.select(pl.col("notebook_logit").is_not_null().all()).collect().item():
        missing.add("notebook")
    if headline not in RULES:
        raise InputError(f"unknown rule '{headline}'; use one of {', '.join(RULES)}")
    if headline in missing:
        option = "--notebook-rule" if headline == "notebook" else "a prior for each prompt"
        raise InputError(f"rule '{headline}' needs scores that this run did not store; run again with {option}")
    return tuple(rule for rule in RULES if rule not in missing)


def _make_constants(
    scores: pl.LazyFrame, prompts: Sequence[PromptRecord], blocks: Sequence[Block], priors: pl.DataFrame | None
) -> pl.DataFrame:
    """`log_prior` and `log_cf` of each (prompt, label), and `log_batch` from a pass over all items."""
    keys = ["prompt", "label_id"]
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


class Tallies:
    """What predictions.parquet does not hold, added up over all items, a block at a time."""

    def __init__(self) -> None:
        self._brier: list[pl.DataFrame] = []
        self._mass: list[pl.DataFrame] = []
        self._length: list[pl.DataFrame] = []

    def add(self, prompt: str, headline: str, wide: pl.DataFrame, decisions: dict[str, pl.DataFrame]) -> None:
        """One prompt in one block: its scores, and in the same order of items the decisions of each rule."""
        name, brier = pl.lit(prompt), pl.col("brier")
        for rule, decision in decisions.items():
            self._brier.append(decision.select(brier.sum(), prompt=name, rule=pl.lit(rule), n=brier.count()))
        self._mass.append(wide.select(pl.col("label_mass").sum(), prompt=name, n=pl.len()))
        judged = decisions[headline].select("correct", "copies", wide["prompt_tokens"]).drop_nulls("correct")
        counts = judged.group_by("prompt_tokens").agg(
            n=pl.len(), num_correct=pl.col("correct").sum(), copies=pl.col("copies").cast(pl.Int64).sum()
        )
        self._length.append(counts.with_columns(prompt=name))

    @property
    def brier(self) -> pl.DataFrame:
        """prompt, rule, brier (mean over items with one gold label), n."""
        return _mean(self._brier, "brier", "prompt", "rule")

    @property
    def mass(self) -> pl.DataFrame:
        """prompt, label_mass (mean over items), n."""
        return _mean(self._mass, "label_mass", "prompt")

    @property
    def length(self) -> pl.DataFrame:
        """prompt, prompt_tokens, n, num_correct, copies (summed; items with gold, headline rule)."""
        keys = ["prompt", "prompt_tokens"]
        return pl.concat(self._length).group_by(keys).agg(pl.col("n", "num_correct", "copies").sum()).sort(keys)


def _mean(sums: list[pl.DataFrame], name: str, *keys: str) -> pl.DataFrame:
    """Add up sums and counts over all blocks, and divide; null where nothing was counted."""
    total = pl.concat(sums).group_by(keys, maintain_order=True).agg(pl.col(name, "n").sum())
    return total.with_columns(pl.when(pl.col("n") > 0).then(pl.col(name) / pl.col("n")))


def write_predictions(source: Source, path: Path) -> Tallies:
    """Write predictions.parquet to `path`, sorted by item, prompt and rule; return what is counted on the way.

    Raises RunError where an item lacks a label's scores or has them twice.
    """
    tallies = Tallies()
    write_table(path, PREDICTIONS_SCHEMA, _predict_blocks(source, tallies))
    for prompt_name, num_found in tallies.mass.select("prompt", "n").iter_rows():
        if num_found != source.num_items:
            raise RunError(
                f"{SCORES} has scores of {num_found:,} items under prompt '{prompt_name}', {ITEMS} has "
                f"{source.num_items:,} items; run `labelscore run` again"
            )
    return tallies


def _predict_blocks(source: Source, tallies: Tallies) -> Iterator[pa.Table]:
    """The rows of predictions.parquet, a block of items at a time."""
    for block in source.blocks:
        several, parts = source.facts.gold_ids(block), []
        for prompt in source.manifest.prompts:
            wide = _whole_items(source, prompt, block)
            gold = wide.select("item_id").join(several, on="item_id", how="left", maintain_order="left")
            gold = gold.select("gold_ids", source.facts.count_copies(wide))
            decisions = {rule: _judge(decide(wide, rule, prompt.label_ids), gold) for rule in source.rules}
            tallies.add(prompt.name, source.headline, wide, decisions)
            parts += [_as_rows(decision, prompt, rule) for rule, decision in decisions.items()]
        rows = pl.concat(parts).sort("item_id", maintain_order=True)  # keeps prompts and rules in their order
        yield rows.to_arrow().cast(PREDICTIONS_SCHEMA)


def _whole_items(source: Source, prompt: PromptRecord, block: Block) -> pl.DataFrame:
    wide = source.wide_scores(prompt, source.rules, in_block(block))
    lacks_one = pl.any_horizontal(pl.col(f"^{source.rules[0]}:.*$").is_null())
    broken = wide.filter((pl.col("num_labels") != len(prompt.labels)) | lacks_one)
    if broken.height:
        raise RunError(
            f"{SCORES}: item {broken['item_id'][0]} has {broken['num_labels'][0]} label scores under prompt "
            f"'{prompt.name}', not one for each of its {len(prompt.labels)} labels; run `labelscore run` again"
        )
    return wide


def _judge(decision: pl.DataFrame, gold: pl.DataFrame) -> pl.DataFrame:
    """A decision with gold_ids and copies; where an item has several right classes, any of them is correct."""
    any_of_them = pl.col("gold_ids").list.contains(pl.col("predicted_id"))
    correct = pl.when(pl.col("gold_ids").is_not_null()).then(any_of_them).otherwise("correct")
    judged = decision.with_columns(gold).with_columns(correct=correct)
    return judged.with_columns(copies=pl.when(pl.col("correct").is_not_null()).then("copies"))


def _as_rows(decision: pl.DataFrame, prompt: PromptRecord, rule: str) -> pl.DataFrame:
    names = prompt.label_names
    return decision.with_columns(
        prompt=pl.lit(prompt.name),
        rule=pl.lit(rule),
        predicted=pl.col("predicted_id").replace_strict(names, return_dtype=pl.String),
        gold=pl.col("gold_id").replace_strict(names, default=None, return_dtype=pl.String),
    ).select(PREDICTIONS_SCHEMA.names)
