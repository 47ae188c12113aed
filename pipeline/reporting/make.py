"""A run's tables, then its report: predictions.parquet, metrics.parquet, and one document rendered twice.

Invariant: a report is made from the run's own tables alone, so it can be made again at any time, under any rule and
without the model; each file of it is replaced whole.
"""

import polars as pl

from pipeline.analysis import scan
from pipeline.errors import InputError
from pipeline.reporting import calibration, metrics
from pipeline.reporting.compare import changed_predictions
from pipeline.reporting.comparisons import compare_prompts, compare_rules
from pipeline.reporting.items import read_item_facts
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.page import render_page
from pipeline.reporting.past_runs import history_rows, with_past
from pipeline.reporting.predictions import Source, Tallies, make_blocks, make_constants, write_predictions
from pipeline.reporting.report import Report
from pipeline.reporting.rules import RULES, available_rules
from pipeline.reporting.sections import make_document
from pipeline.reporting.wrong import wrong_items
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEMS, MARKDOWN, METRICS, METRICS_SCHEMA, PAGE, PREDICTIONS, PRIORS, SCORES
from pipeline.storing.manifest import Manifest
from pipeline.storing.tables import write_table


def make_report(
    folder: Output,
    manifest: Manifest,
    rule: str,
    *,
    out: str,
    previous: pl.LazyFrame | None,
    past: pl.DataFrame | None,
) -> Report:
    """Write the four files of a report into `folder`, which holds the run's tables, and return what they say.

    `rule` leads the report, `out` is what it calls the output, `previous` are the predictions of the run before and
    `past` the rows of history.parquet. Raises InputError where the rule's scores are not stored, RunError where the
    score table is broken; nothing is replaced then.
    """
    scores, items = scan(folder, SCORES), scan(folder, ITEMS)
    priors = scan(folder, PRIORS).collect() if folder.exists(PRIORS) else None
    source = _make_source(manifest, rule, scores, items, priors)
    with folder.writing(PREDICTIONS) as path:
        tallies = write_predictions(source, path)
        predictions = pl.scan_parquet(path)
        changed = changed_predictions(previous, predictions)
        report = _make_tables(out, manifest, source, items, predictions, tallies, changed, past)
    with folder.writing(METRICS) as path:
        write_table(path, METRICS_SCHEMA, [report.metrics.to_arrow().cast(METRICS_SCHEMA)])
    document = make_document(report)
    folder.write_bytes(MARKDOWN, render_markdown(document).encode())
    folder.write_bytes(PAGE, render_page(document).encode())
    return report


def _make_source(
    manifest: Manifest, headline: str, scores: pl.LazyFrame, items: pl.LazyFrame, priors: pl.DataFrame | None
) -> Source:
    rules = _pick_rules(scores, headline, has_priors=priors is not None)
    rows_per_item = sum(len(prompt.labels) for prompt in manifest.prompts)
    blocks = make_blocks(items.select("item_id").collect()["item_id"], rows_per_item)
    constants = make_constants(scores, manifest.prompts, blocks, priors)
    return Source(scores, read_item_facts(items), manifest.prompts, rules, headline, blocks, constants)


def _pick_rules(scores: pl.LazyFrame, headline: str, *, has_priors: bool) -> tuple[str, ...]:
    has_notebook = bool(scores.select(pl.col("notebook_logit").is_not_null().all()).collect().item())
    rules = available_rules(has_notebook=has_notebook, has_priors=has_priors)
    if headline not in RULES:
        raise InputError(f"unknown rule '{headline}'; use one of {', '.join(RULES)}")
    if headline not in rules:
        option = "--notebook-rule" if headline == "notebook" else "a prior for each prompt"
        raise InputError(f"rule '{headline}' needs scores that this run did not store; run again with {option}")
    return rules


def _make_tables(
    out: str,
    manifest: Manifest,
    source: Source,
    items: pl.LazyFrame,
    predictions: pl.LazyFrame,
    tallies: Tallies,
    changed: pl.DataFrame,
    past: pl.DataFrame | None,
) -> Report:
    prompts, rules, headline = source.prompts, source.rules, source.headline
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
        out=out,
        manifest=manifest,
        headline_rule=headline,
        rules=tuple(rules),
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
        wrong=pl.concat(wrong_items(predictions, source, items, prompt) for prompt in prompts),
        history=with_past(past, rows),
        history_rows=rows,
        metrics=metrics.tidy(summary, classes, histogram, tallies.mass),
    )
