"""Figures: each chart with its title, the sentence that says what it shows, and its data as a table.

Invariant: whoever cannot see a chart loses nothing: its sentence and its table hold what is drawn.
"""

import polars as pl

from pipeline.reporting.calibration import margins_by_class
from pipeline.reporting.charts import (
    MAX_CELLS_WITH_TEXT,
    Spec,
    accuracy_chart,
    axis_around,
    confusion_chart,
    coverage_chart,
    length_chart,
    margin_chart,
    reliability_chart,
)
from pipeline.reporting.document import Field, Figure, Table, make_table
from pipeline.reporting.formats import count, fraction, interval, number, percent, short_percent, text
from pipeline.reporting.report import Report
from pipeline.storing.manifest import PromptRecord

MAX_LABELS_DRAWN = 40  # beyond that a matrix of labels is no picture any more, and 150 labels would weigh 1.8 MB
NUM_MISTAKES = 100

ACCURACY: tuple[Field, ...] = (("accuracy", percent, "accuracy"), ("95 % interval", interval, "low", "high"))
ITEMS: Field = ("items", count, "n")
GOLD: Field = ("gold", text, "gold")


def accuracy_figure(report: Report) -> Figure:
    """Accuracy of each prompt under the headline rule."""
    rows = _named(report.ranked, "prompt", pl.lit(True), report.published)
    legend = f"Points are accuracies under '{report.headline_rule}', lines their 95 % intervals"
    if report.has_tasks:
        return _accuracy_of_tasks(report, rows, f"{legend}; ticks: guessing.")
    if rows.height > 1:
        legend += ", each alone: two that overlap may still differ"
    share, reference = report.reference
    legend += f"; dashed: {reference}."
    if report.published:
        legend += " Diamonds are published figures."
    domain = axis_around(rows["low"], rows["high"], share, *report.published.values())
    return _accuracies("accuracy", "Accuracy by prompt", "prompt", rows, accuracy_chart(rows, domain, share), legend)


def _accuracy_of_tasks(report: Report, rows: pl.DataFrame, legend: str) -> Figure:
    """The same with the chance of each, which differs."""
    rows = rows.with_columns(chance=pl.col("name").replace_strict(report.chances, return_dtype=pl.Float64))
    chart = accuracy_chart(rows, axis_around(rows["low"], rows["high"], rows["chance"]), None)
    return _accuracies("accuracy", "Accuracy by task", "task", rows, chart, legend)


def rule_figures(report: Report) -> list[Figure]:
    """Accuracy of each rule, a chart per prompt on the same axis; none of very many tasks."""
    if not report.draws_each:
        return []
    share, reference = report.reference
    shares = report.chances.values() if report.has_tasks and report.has_gold else [share]
    domain = axis_around(report.summary["low"], report.summary["high"], *shares)
    legend = f"In colour the rule '{report.headline_rule}', which leads this report; dashed: {reference}."
    figures = []
    for i, prompt in enumerate(report.manifest.prompts):
        summary = report.summary.filter(pl.col("prompt") == prompt.name)
        rows = _named(summary, "rule", pl.col("rule") == report.headline_rule, {})
        if rows.height:
            own = report.chances[prompt.name] if report.has_tasks else share
            title, chart = f"Accuracy by rule, {report.unit} {prompt.name}", accuracy_chart(rows, domain, own)
            figures.append(_accuracies(f"rules-{i}", title, "rule", rows, chart, legend))
    return figures


def _accuracies(id: str, title: str, name: str, rows: pl.DataFrame, chart: Spec, legend: str) -> Figure:
    table = make_table(title, rows, ((name, text, "name"), *ACCURACY, ITEMS))
    return Figure(id, f"{title}.", "", legend, chart, table, repeats=True)


def _named(summary: pl.DataFrame, name: str, headline: pl.Expr, published: dict[str, float]) -> pl.DataFrame:
    """Rows for an accuracy chart, named by the column `name`."""
    return summary.drop_nulls("accuracy").select(
        "accuracy",
        "low",
        "high",
        name=pl.col(name),
        n=pl.col("num_gold"),
        headline=headline,
        published=pl.col(name).replace_strict(published, default=None, return_dtype=pl.Float64),
    )


def prompt_figures(report: Report, index: int) -> list[Figure]:
    """Everything drawn for one prompt under the headline rule; nothing where no item has a gold label.

    Of very many tasks nothing is drawn for each.
    """
    if not report.draws_each:
        return []
    prompt = report.manifest.prompts[index]
    makers = [confusion_figure, reliability_figure, coverage_figure, margin_figure, length_figure]
    if prompt.has_choices or len(prompt.labels) > MAX_LABELS_DRAWN:
        makers = [reliability_figure, coverage_figure, length_figure]
    figures = [make(report, prompt, index) for make in makers]
    return [figure for figure in figures if figure.table.rows]


def confusion_figure(report: Report, prompt: PromptRecord, index: int) -> Figure:
    cells = report.under_headline(report.confusion, prompt.name).drop_nulls("share")
    table = confusion_table(cells, f"Gold against predicted label, prompt {prompt.name}")
    chart = confusion_chart(cells.select("gold", "predicted", "n", "share"))
    legend = "Rows are gold labels, columns predictions, colour the share of the row."
    return Figure(f"confusion-{index}", "Confusions.", _describe_confusions(cells), legend, chart, table)


def confusion_table(cells: pl.DataFrame, caption: str) -> Table:
    """The matrix, with gold labels as rows; the NUM_MISTAKES most frequent mistakes where it is too wide to read."""
    labels = cells["predicted"].unique(maintain_order=True).to_list()
    if len(labels) <= MAX_CELLS_WITH_TEXT:
        wide = cells.group_by("gold", maintain_order=True).agg("n")  # n: a list, in the order of `labels`
        wide = wide.with_columns(pl.col("n").list.get(i).alias(f"n{i}") for i in range(len(labels)))
        counts: list[Field] = [(label, count, f"n{i}") for i, label in enumerate(labels)]
        return make_table(caption, wide, (("gold \\ predicted", text, "gold"), *counts))
    top = _mistakes(cells).head(NUM_MISTAKES)
    fields: tuple[Field, ...] = (GOLD, ("predicted", text, "predicted"), ITEMS, ("of the gold class", percent, "share"))
    return make_table(f"{caption}: the {top.height} most frequent mistakes", top, fields)


def _mistakes(cells: pl.DataFrame) -> pl.DataFrame:
    """The cells beside the diagonal that hold items, the most frequent first."""
    wrong = cells.filter(pl.col("gold_id") != pl.col("predicted_id"), pl.col("n") > 0)
    return wrong.sort("n", "gold_id", "predicted_id", descending=[True, False, False])


def _describe_confusions(cells: pl.DataFrame) -> str:
    wrong = _mistakes(cells)
    if wrong.is_empty():
        return "Every item is on the diagonal: none is wrong."
    worst = wrong.row(0, named=True)
    return (
        f"The most frequent mistake: {worst['predicted']} for {worst['gold']}, {worst['n']:,} items "
        f"({percent(worst['share'], 0)} of that class)."
    )


def reliability_figure(report: Report, prompt: PromptRecord, index: int) -> Figure:
    bins = report.under_headline(report.reliability, prompt.name)
    row = report.under_headline(report.summary, prompt.name).row(0, named=True)
    mean = bins.select((pl.col("confidence", "accuracy") * pl.col("n")).sum() / pl.col("n").sum())
    confidence, accuracy = mean.row(0)
    sentence = (
        f"The mean confidence is {percent(confidence)}, the accuracy {percent(accuracy)}; expected calibration error "
        f"{fraction(row['ece'])}. If each confidence were true it would be {fraction(row['ece_calibrated'])} on so "
        f"many items, and over {fraction(row['ece_calibrated_high'])} once in 20 times."
    )
    legend = "Under the dashed line the model is too sure of itself, above it not sure enough."
    chart = reliability_chart(bins.select("confidence", "accuracy", "low", "high", "n"))
    fields = (("mean confidence", percent, "confidence"), *ACCURACY, ITEMS)
    table = make_table(f"Accuracy by confidence, {report.unit} {prompt.name}", bins, fields)
    return Figure(f"reliability-{index}", "Reliability.", sentence, legend, chart, table)


def coverage_figure(report: Report, prompt: PromptRecord, index: int) -> Figure:
    curves = report.coverage.filter(pl.col("rule") == report.headline_rule)
    own = curves.filter(pl.col("prompt") == prompt.name)
    half = report.under_headline(report.summary, prompt.name)["accuracy_at_50"][0]
    sentence = f"Answering only the more confident half of the items, {percent(half)} are right."
    fields: tuple[Field, ...] = (
        ("answered", short_percent, "coverage"),
        ITEMS,
        ("accuracy", percent, "accuracy"),
        ("confidence of at least", percent, "threshold"),
    )
    # Other tasks have other items: their curves would say nothing here.
    drawn, legend = (own, "") if report.has_tasks else (curves, "Thin lines: the other prompts.")
    chart = coverage_chart(drawn.select("prompt", "coverage", "accuracy"), prompt.name)
    caption = f"Accuracy by share of items answered, {report.unit} {prompt.name}"
    table = make_table(caption, own.gather_every(10, offset=9), fields)
    return Figure(f"coverage-{index}", "Risk and coverage.", sentence, legend, chart, table)


def margin_figure(report: Report, prompt: PromptRecord, index: int) -> Figure:
    sentence = (
        f"How far the winning score lay ahead of the next, in the units of '{report.headline_rule}'; wrong predictions "
        "count as negative."
    )
    legend = "The stronger the colour, the more of the class lies there."
    fields: tuple[Field, ...] = (
        GOLD, ITEMS, ("least", number, "least"), ("median, about", number, "median"), ("most", number, "most")
    )  # fmt: skip
    bins = report.margins.filter(pl.col("prompt") == prompt.name)
    chart = margin_chart(bins.drop("prompt"))
    table = make_table(f"Margins by gold label, prompt {prompt.name}", margins_by_class(bins), fields)
    return Figure(f"margin-{index}", "Margins by class.", sentence, legend, chart, table)


def length_figure(report: Report, prompt: PromptRecord, index: int) -> Figure:
    tokens = pl.format("{}\N{EN DASH}{}", "tokens_low", "tokens_high")
    groups = report.length.filter(pl.col("prompt") == prompt.name).with_columns(name=tokens)
    sentence = f"Items in {groups.height} groups of about equal size, by the tokens that come before the label."
    chart = length_chart(groups.select("name", "accuracy", "low", "high", "n"))
    fields = (("tokens before the label", text, "name"), *ACCURACY, ITEMS)
    table = make_table(f"Accuracy by length, {report.unit} {prompt.name}", groups, fields)
    return Figure(f"length-{index}", "Accuracy by length.", sentence, "", chart, table)
