"""The report of a finished run: every table, then OUT/report/ with predictions, metrics, Markdown and the page.

Invariant: a report is made from the published files alone, so it can be made again at any time, under any rule, without
the model; each file of it is replaced whole.
"""

import io
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from pipeline.analysis import scan
from pipeline.errors import InputError
from pipeline.reporting import calibration, metrics
from pipeline.reporting.compare import changed_predictions
from pipeline.reporting.comparisons import compare_prompts, compare_rules
from pipeline.reporting.items import read_item_facts, right_classes, say_classes
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.page import render_page
from pipeline.reporting.predictions import Tallies, make_blocks, make_constants, write_predictions
from pipeline.reporting.rules import RULES, available_rules, score_column, wide_scores, with_inputs
from pipeline.storing.layout import HISTORY_SCHEMA, ITEMS, MARKDOWN, METRICS, PAGE, PREDICTIONS, PRIORS, SCORES
from pipeline.storing.manifest import Manifest, PromptRecord

NUM_WRONG = 60  # confidently wrong items kept for each prompt


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows, as small tables (their columns: the functions that make them).

    What is counted over items with a gold label is the same under every prompt and rule.
    """

    out: str
    manifest: Manifest
    headline_rule: str
    rules: tuple[str, ...]
    summary: pl.DataFrame
    classes: pl.DataFrame
    confusion: pl.DataFrame
    histogram: pl.DataFrame
    collapsed: pl.DataFrame
    reliability: pl.DataFrame
    coverage: pl.DataFrame
    margins: pl.DataFrame
    mass: pl.DataFrame
    length: pl.DataFrame
    prompt_comparisons: pl.DataFrame
    rule_comparisons: pl.DataFrame
    wrong: pl.DataFrame
    history: pl.DataFrame
    history_rows: pl.DataFrame
    metrics: pl.DataFrame

    @property
    def num_gold(self) -> int:
        """Items with a gold label, that is with one right class or several."""
        return int(self.summary["num_gold"][0])

    @property
    def has_gold(self) -> bool:
        return self.num_gold > 0

    @property
    def num_single(self) -> int:
        """Items with exactly one right class: all with a gold label, but for those with several."""
        return int(self.summary["num_single"][0])

    @property
    def num_distinct(self) -> int:
        """Distinct texts of the items with a gold label."""
        return int(self.summary["num_distinct"][0])

    @property
    def repeats(self) -> bool:
        """Whether items with a gold label share a text."""
        return self.num_distinct < self.num_gold

    @property
    def num_effective(self) -> float:
        """As how many independent items those with a gold label count in intervals (Kish)."""
        return float(self.summary["num_effective"][0] or 0)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the labels of the first prompt: several right classes are guessed sooner."""
        return float(self.summary["mean_right"][0] or 1) / len(self.manifest.prompts[0].labels)

    @property
    def headline(self) -> pl.DataFrame:
        """The rows of `summary` under the headline rule, in the order of the run's prompts."""
        return self.summary.filter(pl.col("rule") == self.headline_rule)


def make_report(folder, manifest, headline_rule, *, out, previous, past):  # type: ignore
    output = folder
    scores, items = scan(output, SCORES), scan(output, ITEMS)
    priors = scan(output, PRIORS).collect() if output.exists(PRIORS) else None
    rules = _pick_rules(scores, priors, headline_rule)

    rows_per_item = sum(len(prompt.labels) for prompt in manifest.prompts)
    blocks = make_blocks(items.select("item_id").collect()["item_id"], rows_per_item)
    constants = make_constants(scores, manifest.prompts, blocks, priors)
    with output.writing(PREDICTIONS) as path:
        tallies = write_predictions(
            scores, read_item_facts(items), manifest.prompts, rules, constants, blocks, path, headline_rule
        )
        predictions = pl.scan_parquet(path)
        changed = changed_predictions(previous, predictions)
        report = _build(
            out, manifest, headline_rule, rules, scores, items, predictions, constants, tallies, changed, past
        )
    output.write_bytes(METRICS, _parquet_bytes(report.metrics))
    output.write_bytes(MARKDOWN, render_markdown(report).encode())
    output.write_bytes(PAGE, render_page(report).encode())
    return report


def _pick_rules(scores: pl.LazyFrame, priors: pl.DataFrame | None, headline: str) -> tuple[str, ...]:
    has_notebook = bool(scores.select(pl.col("notebook_logit").is_not_null().all()).collect().item())
    rules = available_rules(has_notebook=has_notebook, has_priors=priors is not None)
    if headline not in RULES:
        raise InputError(f"unknown rule '{headline}'; use one of {', '.join(RULES)}")
    if headline not in rules:
        option = "--notebook-rule" if headline == "notebook" else "a prior for each prompt"
        raise InputError(f"rule '{headline}' needs scores that this run did not store; run again with {option}")
    return rules


def _build(
    output: str,
    manifest: Manifest,
    headline: str,
    rules: tuple[str, ...],
    scores: pl.LazyFrame,
    items: pl.LazyFrame,
    predictions: pl.LazyFrame,
    constants: pl.DataFrame,
    tallies: Tallies,
    changed: pl.DataFrame,
    past: pl.DataFrame,
) -> Report:
    prompts = manifest.prompts
    names = [prompt.name for prompt in prompts]
    counts = metrics.count_confusions(predictions)
    confusion = metrics.confusion_table(counts, prompts, rules)
    classes = metrics.class_table(confusion)
    histogram = metrics.histogram_table(counts, prompts, rules)
    reliability = calibration.reliability_table(predictions)
    coverage = calibration.coverage_table(predictions, names, rules)
    facts = metrics.count_facts(predictions)
    summary = metrics.summary_table(classes, facts, reliability, coverage, tallies.brier)
    repeated = bool((summary["num_distinct"] < summary["num_gold"]).any())
    rows = history_rows(manifest, headline, summary, changed)
    return Report(
        out=str(output),
        manifest=manifest,
        headline_rule=headline,
        rules=rules,
        summary=summary,
        classes=classes,
        confusion=confusion,
        histogram=histogram,
        collapsed=metrics.collapsed(histogram),
        reliability=reliability,
        coverage=coverage,
        margins=calibration.margin_table(predictions, headline, names),
        mass=tallies.mass,
        length=metrics.length_table(tallies.length),
        prompt_comparisons=compare_prompts(predictions, names, headline, repeated=repeated),
        rule_comparisons=compare_rules(predictions, names, rules, headline, repeated=repeated),
        wrong=pl.concat(wrong_items(predictions, scores, items, constants, prompt, headline) for prompt in prompts),
        history=_history(past, rows),
        history_rows=rows,
        metrics=metrics.tidy(summary, classes, histogram, tallies.mass),
    )


def wrong_items(
    predictions: pl.LazyFrame,
    scores: pl.LazyFrame,
    items: pl.LazyFrame,
    constants: pl.DataFrame,
    prompt: PromptRecord,
    rule: str,
) -> pl.DataFrame:
    """The NUM_WRONG wrong items of one prompt with the largest margin, text and all label scores beside them.

    prompt, item_id, text, gold (in words), predicted, confidence, margin, truncated, right (a list: the names of the
    right classes), labels and scores (lists in label order, the scores under `rule`).
    """
    right = right_classes(prompt.label_names)
    worst = (
        predictions.filter(pl.col("prompt") == prompt.name, pl.col("rule") == rule, ~pl.col("correct"))
        .top_k(NUM_WRONG, by=["margin", "item_id"])
        .collect()
        .sort("margin", "item_id", descending=[True, False])
    )
    chosen = worst["item_id"].implode()
    texts = items.filter(pl.col("item_id").is_in(chosen)).select("item_id", "text").collect()
    narrowed = scores.filter(pl.col("item_id").is_in(chosen), pl.col("prompt") == prompt.name)
    wide = wide_scores(
        with_inputs(narrowed, constants.filter(pl.col("prompt") == prompt.name)), [rule], prompt.label_ids
    ).collect()
    cells = wide.select("item_id", scores=pl.concat_list(score_column(rule, i) for i in prompt.label_ids))
    labels = pl.concat_list(pl.lit(prompt.label_names[i]) for i in prompt.label_ids)
    return (
        worst.join(texts, on="item_id", how="left", maintain_order="left")
        .join(cells, on="item_id", how="left", maintain_order="left")
        .select(
            "prompt", "item_id", "text", say_classes(right).alias("gold"), "predicted", "confidence", "margin",
            "truncated", right.alias("right"), labels.alias("labels"), "scores",
        )
    )  # fmt: skip


HISTORY_COLUMNS = pl.DataFrame(HISTORY_SCHEMA.empty_table()).schema


def history_rows(manifest: Manifest, headline: str, summary: pl.DataFrame, changed: pl.DataFrame) -> pl.DataFrame:
    """The rows that this run adds to history.parquet: one per prompt and rule."""
    has_gold = pl.col("num_gold") > 0
    return summary.join(changed, on=metrics.KEY, how="left", maintain_order="left").select(
        pl.lit(manifest.run_id).alias("run_id"),
        pl.lit(datetime.fromisoformat(manifest.finished)).cast(HISTORY_COLUMNS["finished"]).alias("finished"),
        pl.col("num_items"),
        "prompt",
        "rule",
        (pl.col("rule") == headline).alias("headline"),
        "accuracy",
        pl.when(has_gold).then(pl.col("num_correct")),
        pl.col("num_gold").cast(pl.Int64),
        pl.col("num_changed"),
        pl.lit(manifest.counts.scored).cast(pl.Int64).alias("num_scored"),
        pl.lit(manifest.scoring.seconds).cast(pl.Float64).alias("seconds"),
    )


def _history(past: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Past runs and this one, oldest first; a run that is reported again keeps the row it has."""
    past = past.select(HISTORY_COLUMNS.names()).cast(HISTORY_COLUMNS)
    new = rows.filter(~pl.col("run_id").is_in(past["run_id"].implode()))
    return pl.concat([past, new]).sort("finished", maintain_order=True)


def _parquet_bytes(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
