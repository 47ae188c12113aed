"""The whole report as a document, section by section in the order in which it is read.

Invariant: what a report says is decided here, once; the page and report.md only set it.
"""

from typing import Any

import polars as pl

from pipeline.reporting import document as doc
from pipeline.reporting import notes
from pipeline.reporting.families import assumptions, comparison_section, family_blocks
from pipeline.reporting.figures import (
    ACCURACY,
    MAX_LABELS_DRAWN,
    accuracy_figure,
    confusion_table,
    prompt_figures,
    rule_figures,
)
from pipeline.reporting.formats import (
    count,
    count_of,
    exact,
    fine_percent,
    fraction,
    interval,
    number,
    percent,
    short_percent,
    text,
)
from pipeline.reporting.made import how_made
from pipeline.reporting.past_runs import past_runs
from pipeline.reporting.report import MAX_DRAWN, Report
from pipeline.reporting.run_facts import run_facts
from pipeline.reporting.tasks import opening, task_blocks
from pipeline.storing.layout import DOCUMENTS

MAX_SCORES = 100  # scores shown of a wrong item, the highest, and those of what was right
EMPTY = '""'  # a choice without a letter
OF_CLASSES: tuple[doc.Field, ...] = (("balanced", percent, "balanced_accuracy"), ("macro F1", fraction, "macro_f1"))
FIGURES: tuple[doc.Field, ...] = (
    ("ECE", fraction, "ece"),
    ("Brier", fraction, "brier"),
    ("at 50 %", percent, "accuracy_at_50"),
    ("at 80 %", percent, "accuracy_at_80"),
    ("at 90 %", percent, "accuracy_at_90"),
)
CLASSES: tuple[doc.Field, ...] = (
    ("class", text, "label"),
    ("items", count, "support"),
    ("predicted", count, "num_predicted"),
    ("precision", percent, "precision"),
    ("95 % interval", interval, "precision_low", "precision_high"),
    ("recall", percent, "recall"),
    ("95 % interval", interval, "recall_low", "recall_high"),
    ("F1", fraction, "f1"),
)
POSITIONS: tuple[doc.Field, ...] = (
    ("place, from 0", text, "label_id"),
    ("times", count, "n"),
    ("share of predictions", percent, "share"),
    ("share of gold choices", percent, "gold_share"),
)
HISTOGRAM: tuple[doc.Field, ...] = (
    ("label", text, "label"),
    ("times", count, "n"),
    ("share of predictions", percent, "share"),
    ("share of gold labels", percent, "gold_share"),
)


def make_document(report: Report) -> doc.Document:
    data, model = report.manifest.dataset, report.manifest.model
    makers = (_summary, _prompts, _comparisons, _wrong, past_runs, _rules, how_made)
    sections = [section for make in makers if (section := make(report))]
    title = f"{model.name} on {data.name} ({data.split})"
    if report.has_tasks:
        names = [prompt.name for prompt in report.manifest.prompts]
        title = f"{model.name} on {names[0] if len(names) == 1 else f'{len(names):,} tasks'}"
    return doc.Document("labelscore report", title, sections)


def _summary(report: Report) -> doc.Section:
    blocks: list[doc.Block] = []
    if warnings := notes.warnings(report):
        blocks.append(doc.Warnings(warnings))
    if report.has_tasks and len(report.manifest.prompts) > 1:
        blocks.append(doc.Paragraph(opening(report)))
    elif report.has_gold:
        blocks.append(doc.Headline(*notes.headline(report)))
    if not report.has_gold:
        nothing = "No item has a gold label, so there is no accuracy: the report shows what was predicted."
        blocks.append(doc.Paragraph(nothing))
    blocks.append(doc.Definitions(run_facts(report), facts=True))
    blocks += task_blocks(report) if report.has_tasks else [_prompts_table(report)]
    if report.has_choices:
        blocks.append(doc.Paragraph(notes.left_out_line(report), note=True))
    if report.has_gold:
        blocks.append(doc.Figures([accuracy_figure(report)]))
        blocks += [doc.Paragraph(line, note=True) for line in notes.context_lines(report)]
    return doc.Section("summary", "Summary", blocks)


def _prompts_table(report: Report) -> doc.Table:
    published = pl.col("prompt").replace_strict(report.published, default=None, return_dtype=pl.Float64)
    frame = report.headline.join(report.mass.drop("n"), on="prompt", how="left", maintain_order="left")
    fields: list[doc.Field] = [("prompt", exact, "prompt"), ("items", count, "num_items")]
    if report.has_gold:
        fields += [*ACCURACY, ("right", count_of, "num_correct", "num_gold")]
        fields += [("published", short_percent, "published")] if report.published else []
        fields += [] if report.has_choices else [("macro F1", fraction, "macro_f1")]
        fields += [("at 50 %", percent, "accuracy_at_50"), ("ECE", fraction, "ece")]
    fields += [] if report.has_choices else [("label mass", fine_percent, "label_mass")]
    fields += [("ties", count, "ties"), ("cut", count, "truncated")]
    caption = f"Prompts under the rule '{report.headline_rule}'"
    return doc.make_table(caption, frame.with_columns(published=published), fields)


def _prompts(report: Report) -> doc.Section:
    words = f"Each {report.unit} under the rule '{report.headline_rule}'. The first is open, the others unfold."
    if not report.draws_each:
        words += f" Of more than {MAX_DRAWN} tasks none is drawn for itself; predictions.parquet has what to draw."
    parts = [_prompt(report, i) for i in range(len(report.manifest.prompts))]
    title = f"{report.unit.capitalize()} by {report.unit}"
    return doc.Section("prompts", title, [doc.Paragraph(words), *parts])


def _prompt(report: Report, index: int) -> doc.Folded:
    """One prompt under the headline rule: figures, classes and what it predicts."""
    prompt = report.manifest.prompts[index]
    row = report.headline.row(index, named=True)
    note = f"{percent(row['accuracy'])} of {row['num_gold']:,} items right" if row["num_gold"] else ""
    blocks: list[doc.Block] = []
    if figures := prompt_figures(report, index):
        blocks.append(doc.Figures(figures))
    if prompt.has_choices:
        positions = report.under_headline(report.positions, prompt.name)
        blocks.append(doc.make_table(f"Where the choices stand that {prompt.name} predicts", positions, POSITIONS))
        return doc.Folded(prompt.name, note, blocks, is_open=index == 0)
    if row["num_single"]:
        classes = report.under_headline(report.classes, prompt.name)
        blocks.append(doc.make_table(f"Classes under {prompt.name}", classes, CLASSES))
        if len(prompt.labels) > MAX_LABELS_DRAWN:
            cells = report.under_headline(report.confusion, prompt.name)
            blocks.append(confusion_table(cells, f"Gold against predicted label, prompt {prompt.name}"))
    histogram = report.under_headline(report.histogram, prompt.name)
    blocks.append(doc.make_table(f"What {prompt.name} predicts", histogram, HISTOGRAM))
    return doc.Folded(prompt.name, note, blocks, is_open=index == 0)


def _comparisons(report: Report) -> doc.Section | None:
    if report.has_tasks:
        return None
    why = "There is one prompt" if report.has_gold else "No item has a gold label"
    return comparison_section(report.prompt_comparisons, f"{why}, so there is nothing to compare.")


def _wrong(report: Report) -> doc.Section:
    title = "Confidently wrong"
    if report.wrong.is_empty():
        return doc.Section("wrong", title, [doc.Paragraph("No item is wrong, as far as gold labels are known.")])
    words = (
        f"The mistakes with the widest margin under the rule '{report.headline_rule}'. Some show what the model "
        "confuses; in some the gold label itself may be wrong."
    )
    items = [_wrong_item(row, of_task=report.has_tasks) for row in report.wrong.iter_rows(named=True)]
    return doc.Section("wrong", title, [doc.Paragraph(words), doc.WrongItems(items, report.unit)])


def _wrong_item(row: dict[str, Any], *, of_task: bool) -> doc.WrongItem:
    ranked = sorted(zip(row["scores"], row["label_ids"], row["labels"], strict=True), key=lambda place: -place[0])
    marks = {**dict.fromkeys(row["right_ids"], "gold"), row["predicted_id"]: "predicted"}
    shown = [place for i, place in enumerate(ranked) if i < MAX_SCORES or place[1] in marks]
    scores = [doc.Score(label, number(score), marks.get(place, "")) for score, place, label in shown]
    if len(shown) < len(ranked):
        scores.append(doc.Score(f"and {len(ranked) - len(shown):,} more", "", ""))
    return doc.WrongItem(
        row["item_id"] % DOCUMENTS if of_task else row["item_id"],
        row["prompt"],
        row["text"] or "",
        text(row["gold"]) or EMPTY,
        row["predicted"] or EMPTY,
        percent(row["confidence"]),
        scores,
        kind="document" if of_task else "item",
        shows_end=of_task,
    )


def _rules(report: Report) -> doc.Section:
    """Why the headline rule leads, and every rule's formula, caution and figures."""
    words = (
        f"{notes.rule_choice_line(report)} Whichever of the others does best on these very items is flattered by "
        "having been picked on them; it is a better choice only if it holds on other items."
    )
    blocks: list[doc.Block] = [doc.Definitions([(rule, notes.describe_rule(rule)) for rule in report.rules])]
    if collapsed := notes.collapse_lines(report.histogram.filter(pl.col("rule") != report.headline_rule)):
        blocks.append(doc.Bullets(collapsed))
    if figures := rule_figures(report):
        blocks.append(doc.Figures(figures))
    of_classes = () if report.has_choices else OF_CLASSES
    figures_of_rule = (*ACCURACY, *of_classes, *FIGURES) if report.has_gold else ()
    fields = ((report.unit, exact, "prompt"), ("rule", exact, "rule"), *figures_of_rule, ("ties", count, "ties"))
    blocks.append(doc.make_table(f"Every {report.unit} under every rule", report.summary, fields))
    blocks += family_blocks(report.rule_comparisons, by="rule", unit=report.unit)
    if report.prompt_comparisons.is_empty() and not report.rule_comparisons.is_empty():
        blocks.append(assumptions(report.rule_comparisons))
    title = f"All {len(report.rules)} rules on the same label scores"
    return doc.Section("rules", "Rules", [doc.Paragraph(words), doc.Folded(title, "", blocks)])
