"""Figures of the page: each chart with its title, the sentence that says what it shows, and its data as a table.

Invariant: whoever cannot see a chart loses nothing: its sentence and its table hold what is drawn.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pipeline.reporting.calibration import margins_by_class, shown_coverage
from pipeline.reporting.charts import (
    MAX_CELLS_WITH_TEXT,
    Spec,
    accuracy_chart,
    confusion_chart,
    coverage_chart,
    length_chart,
    margin_chart,
    reliability_chart,
)
from pipeline.reporting.page_tables import Columns, Table, count, fraction, interval, make_table, number, percent, text

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

MAX_LABELS_DRAWN = 40  # beyond that a matrix of labels is no picture any more, and 150 labels would weigh 1.8 MB
NUM_MISTAKES = 100


@dataclass(frozen=True, slots=True)
class Figure:
    id: str
    title: str
    sentence: str
    spec: Spec
    table: Table


def _of(frame: pl.DataFrame, prompt: str, rule: str) -> pl.DataFrame:
    return frame.filter(pl.col("prompt") == prompt, pl.col("rule") == rule)


def _named(summary: pl.DataFrame, name: str, headline: pl.Expr, published: dict[str, float]) -> pl.DataFrame:
    """Rows for an accuracy chart, named by the column `name`."""
    return summary.drop_nulls("accuracy").select(
        pl.col(name).alias("name"),
        "accuracy",
        "low",
        "high",
        pl.col("num_gold").alias("n"),
        headline.alias("headline"),
        pl.col(name).replace_strict(published, default=None, return_dtype=pl.Float64).alias("published"),
    )


def _accuracy_table(title: str, caption: str, rows: pl.DataFrame) -> Table:
    columns: Columns = {
        "name": (title, text),
        "accuracy": ("accuracy", percent),
        "interval": ("95 % interval", text),
        "n": ("items", count),
    }
    return make_table(caption, rows.with_columns(interval=interval()), columns)


def axis_around(*shares: pl.Series | float) -> tuple[float, float]:
    """An axis from tenth to tenth around all of `shares`; charts side by side get the same one."""
    values = [v for s in shares for v in (s.drop_nulls() if isinstance(s, pl.Series) else [s])]
    return math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10


def accuracy_figure(report: "Report") -> Figure:
    """Accuracy of each prompt under the headline rule."""
    published = published_accuracies(report)
    rows = _named(report.headline, "prompt", pl.lit(True), published)
    chance = report.chance
    sentence = (
        f"Points are accuracies under the rule {report.headline_rule}, lines their 95 % intervals; dashed: chance."
    )
    if published:
        sentence += " Diamonds are published figures."
    domain = axis_around(rows["low"], rows["high"], chance, *published.values())
    return Figure(
        "accuracy",
        "Accuracy by prompt.",
        sentence,
        accuracy_chart(rows, domain=domain, chance=chance),
        _accuracy_table("prompt", "Accuracy by prompt", rows),
    )


def published_accuracies(report: "Report") -> dict[str, float]:
    return {p.name: p.published_accuracy for p in report.manifest.prompts if p.published_accuracy is not None}


def rule_figures(report: "Report") -> list[Figure]:
    """Accuracy of each rule, a chart per prompt on the same axis."""
    chance = report.chance
    domain = axis_around(report.summary["low"], report.summary["high"], chance)
    figures = []
    for i, prompt in enumerate(report.manifest.prompts):
        summary = report.summary.filter(pl.col("prompt") == prompt.name)
        rows = _named(summary, "rule", pl.col("rule") == report.headline_rule, {})
        if rows.height:
            figures.append(
                Figure(
                    f"rules-{i}",
                    f"Accuracy by rule, prompt {prompt.name}.",
                    f"In colour the rule {report.headline_rule}, which leads this report; dashed: chance.",
                    accuracy_chart(rows, domain=domain, chance=chance),
                    _accuracy_table("rule", f"Accuracy by rule, prompt {prompt.name}", rows),
                )
            )
    return figures


def prompt_figures(report: "Report", index: int) -> list[Figure]:
    """Everything drawn for one prompt under the headline rule; nothing where no item has a gold label."""
    prompt, rule = report.manifest.prompts[index], report.headline_rule
    makers = [reliability_figure, coverage_figure, length_figure]
    if len(prompt.labels) <= MAX_LABELS_DRAWN:
        makers = [confusion_figure, reliability_figure, coverage_figure, margin_figure, length_figure]
    figures = [make(report, prompt.name, rule, f"{make.__name__.removesuffix('_figure')}-{index}") for make in makers]
    return [figure for figure in figures if figure.table.rows]


def confusion_figure(report: "Report", prompt: str, rule: str, figure_id: str) -> Figure:
    cells = _of(report.confusion, prompt, rule).drop_nulls("share")
    wrong = cells.filter(pl.col("gold_id") != pl.col("predicted_id"), pl.col("n") > 0).sort("n", descending=True)
    return Figure(
        figure_id,
        "Confusions.",
        _say_confusions(wrong) if cells.height else "",
        confusion_chart(cells.select("gold", "predicted", "n", "share")),
        confusion_table(cells, f"Gold against predicted label, prompt {prompt}"),
    )


def confusion_table(cells: pl.DataFrame, caption: str) -> Table:
    """The matrix, with gold labels as rows; the NUM_MISTAKES most frequent mistakes where it is too wide to read."""
    if cells["predicted"].n_unique() <= MAX_CELLS_WITH_TEXT:
        labels = cells["predicted"].unique(maintain_order=True)
        wide = cells.group_by("gold", maintain_order=True).agg("n")  # n: a list, in the order of `labels`
        wide = wide.with_columns(pl.col("n").list.get(i).alias(f"n{i}") for i in range(len(labels)))
        numbers: Columns = {f"n{i}": (label, count) for i, label in enumerate(labels)}
        return make_table(caption, wide, {"gold": ("gold", text), **numbers})
    mistakes = cells.filter(pl.col("gold_id") != pl.col("predicted_id"), pl.col("n") > 0)
    columns: Columns = {
        "gold": ("gold", text),
        "predicted": ("predicted", text),
        "n": ("items", count),
        "share": ("of the gold class", percent),
    }
    top = mistakes.sort("n", "gold_id", "predicted_id", descending=[True, False, False]).head(NUM_MISTAKES)
    return make_table(f"{caption}: the {top.height} most frequent mistakes", top, columns)


def _say_confusions(wrong: pl.DataFrame) -> str:
    if wrong.is_empty():
        return "Every item is on the diagonal: none is wrong."
    worst = wrong.row(0, named=True)
    return (
        f"Rows are gold labels, columns predictions, colour the share of the row. The most frequent mistake: "
        f"{worst['predicted']} for {worst['gold']}, {worst['n']:,} items ({worst['share']:.0%} of that class)."
    )


def reliability_figure(report: "Report", prompt: str, rule: str, figure_id: str) -> Figure:
    bins = _of(report.reliability, prompt, rule)
    ece = _of(report.summary, prompt, rule)["ece"][0]
    mean = bins.select((pl.col("confidence", "accuracy") * pl.col("n")).sum() / pl.col("n").sum())
    confidence, accuracy = mean.row(0) if bins.height else (None, None)
    columns: Columns = {
        "confidence": ("mean confidence", percent),
        "accuracy": ("accuracy", percent),
        "interval": ("95 % interval", text),
        "n": ("items", count),
    }
    return Figure(
        figure_id,
        "Reliability.",
        f"Under the dashed line the model is too sure of itself, above it not sure enough. Its mean confidence is "
        f"{percent(confidence)}, its accuracy {percent(accuracy)}; expected calibration error {fraction(ece)}.",
        reliability_chart(bins.select("confidence", "accuracy", "low", "high", "n")),
        make_table(f"Accuracy by confidence, prompt {prompt}", bins.with_columns(interval=interval()), columns),
    )


def coverage_figure(report: "Report", prompt: str, rule: str, figure_id: str) -> Figure:
    curves = report.coverage.filter(pl.col("rule") == rule)
    own = curves.filter(pl.col("prompt") == prompt)
    half = own.filter((pl.col("coverage") - 0.5).abs() < 1e-9)
    columns: Columns = {
        "coverage": ("answered", percent),
        "n": ("items", count),
        "accuracy": ("accuracy", percent),
        "threshold": ("confidence of at least", percent),
    }
    return Figure(
        figure_id,
        "Risk and coverage.",
        f"Answering only the more confident half of the items, {percent(half['accuracy'][0] if half.height else None)} "
        "are right. Thin lines: the other prompts.",
        coverage_chart(curves.select("prompt", "coverage", "accuracy"), prompt),
        make_table(f"Accuracy by share of items answered, prompt {prompt}", shown_coverage(own), columns),
    )


def margin_figure(report: "Report", prompt: str, rule: str, figure_id: str) -> Figure:
    facts = next(facts for facts in report.manifest.prompts if facts.name == prompt)
    order = {label.name: label.id for label in facts.labels}
    rank = pl.col("gold").replace_strict(order, default=None, return_dtype=pl.Int64)
    bins = report.margins.filter(pl.col("prompt") == prompt).sort(rank, "bin_low")
    by_class = margins_by_class(report.margins, facts)
    columns: Columns = {
        "gold": ("gold", text),
        "n": ("items", count),
        "least": ("least", number),
        "median": ("median, about", number),
        "most": ("most", number),
    }
    return Figure(
        figure_id,
        "Margins by class.",
        f"How far the winning score lay ahead of the next, in the units of {rule}; wrong predictions count as "
        "negative. The stronger the colour, the more of the class lies there.",
        margin_chart(bins.select("gold", "bin_low", "bin_high", "n")),
        make_table(f"Margins by gold label, prompt {prompt}", by_class, columns),
    )


def length_figure(report: "Report", prompt: str, rule: str, figure_id: str) -> Figure:
    groups = report.length.filter(pl.col("prompt") == prompt).with_columns(
        name=pl.format("{}\N{EN DASH}{}", "tokens_low", "tokens_high")
    )
    rows = groups.select("name", "accuracy", "low", "high", "n")
    return Figure(
        figure_id,
        "Accuracy by length.",
        f"Items in {rows.height} groups of about equal size, by the tokens that come before the label.",
        length_chart(rows),
        _accuracy_table("tokens", f"Accuracy by length, prompt {prompt}", rows),
    )
