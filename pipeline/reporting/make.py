"""A run's tables, then its report: predictions.parquet, metrics.parquet, and one document rendered twice.

Invariant: a report is made from the run's own tables alone, so it can be made again at any time, under any rule and
without the model; each file of it is replaced whole.
"""

import polars as pl

from pipeline.analysis import scan_tasks
from pipeline.reporting import calibration, metrics
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.item_rows import describe, item_rows
from pipeline.reporting.items import has_known_text
from pipeline.reporting.label_words import label_words_table
from pipeline.reporting.markdown import render_markdown, render_summary
from pipeline.reporting.page import render_page
from pipeline.reporting.past_runs import history_rows, with_past
from pipeline.reporting.places import are_tasks
from pipeline.reporting.predictions import Source, open_source, write_predictions
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document, summary_document
from pipeline.reporting.tallies import Tallies
from pipeline.reporting.verdict import make_verdict
from pipeline.storing.files import Output
from pipeline.storing.layout import MARKDOWN, METRICS, METRICS_SCHEMA, PAGE, PREDICTIONS, SUMMARY
from pipeline.storing.manifest import Manifest, PromptRecord
from pipeline.storing.tables import write_table

# Hashes of texts of AG News' test split (the rows 0, 1000, ... 7000): published figures are of it and of nothing else.
AG_NEWS_TEXTS = (
    "013ffb81b47fe45a66245a9c43144b83918bd5944b5300bd4c40b087e954ab8d",
    "59402e5239d36a12e7a8d34c25a2b5e2c8aa783292ae572f80ed91806cfe175e",
    "b9cd78ffe7d03d6005827ed7c2d8730575de080302854e74442eaaa0dcc03fa5",
    "7457d71ef6f12101eab602a92c2d14aec3db8c762f44a96c5561f55f5c02d813",
    "daf6f57673365e60aa7b686aee1d8b1fea93c5036613db72b15a6df6e729a6f6",
    "c7c32e66368de93a936726beded4a8d0803a9699a6a691d44601dc4400700e1b",
    "facf1d2073af8259681e2f7b7f2f3e07e0576fb1b5459ae54a05a918f7663a1b",
    "552d7dda1872fdb322d239ebafb7704c3281fa88d831e4074615766064439e12",
)
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
    gap: float | None = None,
) -> Report:
    """Write the files of a report into `folder`, which holds the run's tables, and return what they say.

    `rule` leads the report, `out` is what it calls the output, `previous` are the predictions of the run before and
    `past` the rows of history.parquet; `gap` is a difference in points that the reader wants to see. Raises InputError
    where the rule's scores are not stored, RunError where the score table is broken; nothing is replaced then.
    """
    source = open_source(folder, manifest.prompts, rule)
    harness = scan_tasks(folder).collect()
    with folder.writing(PREDICTIONS) as path:
        tallies = write_predictions(source, path)
        report = _make_tables(out, manifest, source, tallies, pl.scan_parquet(path), previous, past, harness, gap)
    with folder.writing(METRICS) as path:
        write_table(path, METRICS_SCHEMA, [report.metrics.to_arrow().cast(METRICS_SCHEMA)])
    document = make_document(report)
    folder.write_bytes(MARKDOWN, render_markdown(document).encode())
    folder.write_bytes(SUMMARY, render_summary(summary_document(document, out)).encode())
    folder.write_bytes(PAGE, render_page(document).encode())
    return report


def _make_tables(
    out: str,
    manifest: Manifest,
    source: Source,
    tallies: Tallies,
    predictions: pl.LazyFrame,
    previous: pl.LazyFrame | None,
    past: pl.DataFrame | None,
    harness: pl.DataFrame,
    gap: float | None,
) -> Report:
    prompts, rules, headline = source.prompts, source.rules, source.headline
    counts = metrics.count_confusions(predictions)
    confusion = metrics.confusion_table(counts, prompts, rules)
    classes = metrics.class_table(confusion)
    histogram = metrics.histogram_table(counts, prompts, rules)
    reliability = calibration.reliability_table(predictions)
    coverage = calibration.coverage_table(predictions, prompts, rules)
    facts = metrics.count_facts(predictions)
    summary = metrics.summary_table(prompts, rules, facts, classes, reliability, coverage, tallies.brier)
    commonest = None if source.commonest is None else prompts[0].label_names[source.commonest]
    chances, has_tasks = tallies.chances, are_tasks(prompts)
    mass = tallies.mass.filter(~pl.col("prompt").is_in([prompt.name for prompt in prompts if prompt.has_choices]))
    wrong = pl.concat(_wrong_items(predictions, source, prompt) for prompt in source.passes)
    rows = history_rows(manifest, headline, summary, changed_predictions(previous, predictions))
    return Report(
        out=out,
        manifest=manifest,
        headline_rule=headline,
        rules=tuple(rules),
        chance=tallies.chance,
        chances=chances,
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
        verdict=make_verdict(
            tallies.agreements, summary, headline, chances, commonest, len(prompts[0].labels), of_tasks=has_tasks
        ),
        label_words=label_words_table(source),
        wrong=wrong,
        items=item_rows(predictions, source, wrong["item_id"]),
        history=with_past(past, rows),
        history_rows=rows,
        metrics=metrics.tidy(summary, classes, histogram, mass, harness),
        harness=harness,
        gap=None if gap is None else gap / 100,
        is_ag_news=not has_tasks and has_known_text(source.items, AG_NEWS_TEXTS),
    )


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
            .collect(engine="streaming")
            .sort("margin", "item_id", descending=[True, False])
        )
    else:
        worst = _worst_of_tasks(wrong, [prompt.name for prompt in source.prompts])
    return describe(worst, source, prompt, None).select(
        "prompt", "item_id", "text", "gold", "predicted", "confidence", "margin", "truncated", "predicted_id",
        "right_ids", "label_ids", "labels", "scores",
    )  # fmt: skip


def _worst_of_tasks(wrong: pl.LazyFrame, tasks: list[str]) -> pl.DataFrame:
    """The rows of each task with the largest margin, in the order of the tasks; the more tasks, the fewer of each."""
    most = max(MIN_WRONG, min(NUM_WRONG, MAX_WRONG // len(tasks)))
    margins = wrong.select("prompt", "item_id", "margin").collect().sort("margin", "item_id", descending=[True, False])
    chosen = margins.group_by("prompt", maintain_order=True).head(most)["item_id"]
    rank = pl.col("prompt").replace_strict(tasks, range(len(tasks)))
    rows = wrong.filter(pl.col("item_id").is_in(chosen.implode())).collect()
    return rows.sort(rank, -pl.col("margin"), "item_id")
