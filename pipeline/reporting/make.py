"""A run's tables, then its report: predictions.parquet, metrics.parquet, and one document rendered twice.

Invariant: a report is made from the run's own tables alone, so it can be made again at any time, under any rule and
without the model; each file of it is replaced whole.
"""

import polars as pl

from pipeline.analysis import scan_tasks
from pipeline.reporting import calibration, metrics
from pipeline.reporting.compare import changed_predictions
from pipeline.reporting.comparisons import RULE_FAMILY, TASK_FAMILY, compare_prompts, compare_rules
from pipeline.reporting.items import item_texts, text_column, text_key
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.page import render_page
from pipeline.reporting.past_runs import history_rows, with_past
from pipeline.reporting.places import are_tasks, join_names
from pipeline.reporting.predictions import Source, Tallies, open_source, write_predictions
from pipeline.reporting.report import Report
from pipeline.reporting.rules import RULES
from pipeline.reporting.sections import make_document
from pipeline.storing.files import Output
from pipeline.storing.layout import MARKDOWN, METRICS, METRICS_SCHEMA, PAGE, PREDICTIONS
from pipeline.storing.manifest import Manifest, PromptRecord
from pipeline.storing.tables import write_table

NUM_WRONG = 60  # confidently wrong items of each prompt, whatever the run's size ...
MAX_WRONG, MIN_WRONG = 240, 5  # ... of all tasks together, and of each however many there are


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
    source = open_source(folder, manifest, rule)
    harness = scan_tasks(folder).collect()
    with folder.writing(PREDICTIONS) as path:
        tallies = write_predictions(source, path)
        report = _make_tables(out, source, tallies, pl.scan_parquet(path), previous, past, harness)
    with folder.writing(METRICS) as path:
        write_table(path, METRICS_SCHEMA, [report.metrics.to_arrow().cast(METRICS_SCHEMA)])
    document = make_document(report)
    folder.write_bytes(MARKDOWN, render_markdown(document).encode())
    folder.write_bytes(PAGE, render_page(document).encode())
    return report


def _make_tables(
    out: str,
    source: Source,
    tallies: Tallies,
    predictions: pl.LazyFrame,
    previous: pl.LazyFrame | None,
    past: pl.DataFrame | None,
    harness: pl.DataFrame,
) -> Report:
    prompts, rules, headline = source.manifest.prompts, source.rules, source.headline
    names = [prompt.name for prompt in prompts]
    counts = metrics.count_confusions(predictions)
    confusion = metrics.confusion_table(counts, prompts, rules)
    classes = metrics.class_table(confusion)
    histogram = metrics.histogram_table(counts, prompts, rules)
    reliability = calibration.reliability_table(predictions)
    coverage = calibration.coverage_table(predictions, names, rules)
    facts = metrics.count_facts(predictions)
    summary = metrics.summary_table(prompts, rules, facts, classes, reliability, coverage, tallies.brier)
    repeated = bool((summary["num_distinct"] < summary["num_gold"]).any())
    has_tasks = are_tasks(prompts)
    family, compared, judged = RULE_FAMILY, names, names
    if has_tasks:  # they share no items, and some may have no gold labels
        family, compared = TASK_FAMILY, []
        judged = summary.filter(pl.col("num_gold") > 0)["prompt"].unique(maintain_order=True).to_list()
    units = _text_units(source, summary) if repeated and compared else None
    mass = tallies.mass.filter(~pl.col("prompt").is_in([prompt.name for prompt in prompts if prompt.has_choices]))
    rows = history_rows(source.manifest, headline, summary, changed_predictions(previous, predictions))
    return Report(
        out=out,
        manifest=source.manifest,
        headline_rule=headline,
        rules=tuple(rules),
        chance=tallies.chance,
        chances=tallies.chances,
        summary=summary,
        classes=classes,
        confusion=confusion,
        histogram=histogram,
        positions=metrics.position_table(counts, prompts),
        reliability=reliability,
        coverage=coverage,
        margins=calibration.margin_table(predictions, headline, prompts),
        mass=mass,
        length=metrics.length_table(tallies.length),
        prompt_comparisons=compare_prompts(predictions, compared, headline, units),
        rule_comparisons=compare_rules(predictions, judged, rules, headline, repeated=repeated, family=family),
        wrong=pl.concat(_wrong_items(predictions, source, prompt) for prompt in source.passes),
        history=with_past(past, rows),
        history_rows=rows,
        metrics=metrics.tidy(summary, classes, histogram, mass, harness),
        harness=harness,
    )


def _text_units(source: Source, summary: pl.DataFrame) -> pl.LazyFrame:
    """item_id, unit: which items share a text, under the prompt that tells the fewest texts apart."""
    fewest = summary.sort("num_distinct", maintain_order=True)["prompt"][0]
    (prompt,) = (prompt for prompt in source.manifest.prompts if prompt.name == fewest)
    return source.items.select("item_id", unit=text_key(text_column(prompt)))


def _wrong_items(predictions: pl.LazyFrame, source: Source, prompt: PromptRecord) -> pl.DataFrame:
    """The wrong items of one prompt, or of each task, with the largest margin, text and all label scores beside them.

    prompt, item_id, text, gold (in words), predicted, confidence, margin, truncated, right_ids and predicted_id, and
    for each of the item's places label_ids, labels and scores (lists, the scores under the headline rule).
    """
    wrong = predictions.filter(pl.col("rule") == source.headline, ~pl.col("correct"))
    if prompt.task is None:
        worst = (
            wrong.filter(pl.col("prompt") == prompt.name)
            .top_k(NUM_WRONG, by=["margin", "item_id"])
            .collect()
            .sort("margin", "item_id", descending=[True, False])
        )
    else:
        worst = _worst_of_tasks(wrong, [prompt.name for prompt in source.manifest.prompts])
    chosen = pl.col("item_id").is_in(worst["item_id"].implode())
    places = source.places(prompt, chosen)
    rows = source.rows(prompt, chosen, "label").sort("label_id")
    scores = rows.group_by("item_id").agg(label_ids="label_id", labels="label", scores=RULES[source.headline])
    return (
        places.beside(worst.lazy())
        .join(item_texts(source.items, prompt).filter(chosen), on="item_id", how="left", maintain_order="left")
        .join(scores, on="item_id", how="left", maintain_order="left")
        .select(
            "prompt", "item_id", "text", join_names(places.right_names).alias("gold"), "predicted", "confidence",
            "margin", "truncated", "predicted_id", places.right_ids.alias("right_ids"),
            "label_ids", "labels", "scores",
        )
        .collect()
    )  # fmt: skip


def _worst_of_tasks(wrong: pl.LazyFrame, tasks: list[str]) -> pl.DataFrame:
    """The rows of each task with the largest margin, in the order of the tasks; the more tasks, the fewer of each."""
    most = max(MIN_WRONG, min(NUM_WRONG, MAX_WRONG // len(tasks)))
    margins = wrong.select("prompt", "item_id", "margin").collect().sort("margin", "item_id", descending=[True, False])
    chosen = margins.group_by("prompt", maintain_order=True).head(most)["item_id"]
    rank = pl.col("prompt").replace_strict(tasks, range(len(tasks)))
    rows = wrong.filter(pl.col("item_id").is_in(chosen.implode())).collect()
    return rows.sort(rank, -pl.col("margin"), "item_id")
