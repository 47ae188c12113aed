"""The whole report as a document, section by section in the order in which it is read.

Invariant: what a report says is decided here, once; the page and report.md only set it.
"""

from typing import Any

import polars as pl

from pipeline.reporting import document as doc
from pipeline.reporting import notes
from pipeline.reporting.families import RANKING_FIELDS, arms_table, prompt_pairs
from pipeline.reporting.figures import (
    ACCURACY,
    MAX_LABELS_DRAWN,
    accuracy_figure,
    confusion_table,
    prompt_figures,
    rule_figures,
)
from pipeline.reporting.findings import but_left_out, find
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
    tiny_percent,
    up_to,
)
from pipeline.reporting.item_rows import EACH
from pipeline.reporting.made import how_made
from pipeline.reporting.past_runs import past_runs
from pipeline.reporting.report import MAX_DRAWN, Report
from pipeline.reporting.run_facts import short_facts
from pipeline.reporting.tasks import opening, task_blocks
from pipeline.storing.layout import DOCUMENTS, MARKDOWN, PAGE

MAX_DETAILED = 3  # prompts, the most accurate, whose figures and mistakes are in report.md; the page has all
MAX_ROWS = 60  # of a table in report.md beside which there is a ranking
NUM_WRONG = 10  # confidently wrong items of all these prompts together, and of each task
MAX_SCORES = 100  # scores shown of a wrong item, the highest, and those of what was right
EMPTY = '""'  # a choice without a letter
OF_CLASSES: tuple[doc.Field, ...] = (("balanced", percent, "balanced_accuracy"), ("macro F1", fraction, "macro_f1"))
FIGURES: tuple[doc.Field, ...] = (
    ("ECE", fraction, "ece"),
    ("if calibrated", up_to, "ece_calibrated", "ece_calibrated_high"),
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
LABEL_WORDS: tuple[doc.Field, ...] = (
    ("label", text, "label"),
    ("label words", exact, "label_words"),
    ("tokens", count, "num_tokens"),
    ("bytes", count, "num_bytes"),
    ("probability after no text", tiny_percent, "prior"),
)
HISTOGRAM: tuple[doc.Field, ...] = (
    ("label", text, "label"),
    ("times", count, "n"),
    ("share of predictions", percent, "share"),
    ("share of gold labels", percent, "gold_share"),
)


def make_document(report: Report) -> doc.Document:
    data, model = report.manifest.dataset, report.manifest.model
    makers = (_summary, _prompts, prompt_pairs, _items, past_runs, _rules, how_made)
    sections = [section for make in makers if (section := make(report))]
    title = f"{model.name} on {data.name} ({data.split})"
    if report.has_tasks:
        names = [prompt.name for prompt in report.manifest.prompts]
        title = f"{model.name} on {names[0] if len(names) == 1 else f'{len(names):,} tasks'}"
    return doc.Document("labelscore report", title, sections)


def summary_document(whole: doc.Document, out: str) -> doc.Document:
    """Of a report in the output `out` what a pull request needs: the verdict, what to doubt, and the ranking."""
    kinds = (doc.Headline, doc.Bullets, doc.Paragraph, doc.Warnings, doc.Table, doc.Definitions)
    blocks = [block for block in whole.sections[0].blocks if isinstance(block, kinds)]
    where = doc.Paragraph(f"The whole report is {out}/{PAGE}, as text {out}/{MARKDOWN}.")
    return doc.Document(whole.kind, whole.title, [doc.Section("summary", "", [*blocks, where])])


def _summary(report: Report) -> doc.Section:
    blocks: list[doc.Block] = []
    if findings := find(report):
        blocks.append(doc.Headline(findings.verdict, findings.words))
        blocks += [doc.Bullets(findings.sentences)] if findings.sentences else []
    if report.has_tasks and len(report.manifest.prompts) > 1:
        blocks.append(doc.Paragraph(opening(report)))
    if not report.has_gold:
        nothing = "No item has a gold label, so there is no accuracy: the report shows what was predicted."
        blocks.append(doc.Paragraph(nothing))
    if not report.has_tasks:
        blocks.append(ranking_table(report))
    if warnings := notes.warnings(report):
        blocks.append(doc.Warnings(warnings))
    blocks += task_blocks(report) if report.has_tasks else []
    if report.has_choices:
        blocks.append(doc.Paragraph(notes.left_out_line(report), note=True))
    if report.has_gold:
        blocks.append(doc.Figures([accuracy_figure(report)]))
        blocks += [doc.Paragraph(line, note=True) for line in notes.context_lines(report)]
    blocks.append(doc.Definitions(short_facts(report), facts=True))
    return doc.Section("summary", "Summary", blocks)


def ranking_table(report: Report) -> doc.Table:
    """The prompts under the headline rule, the most accurate first, each against the leader."""
    fields: list[doc.Field] = [("prompt", exact, "prompt")]
    if not report.has_gold:
        fields.append(("items", count, "num_items"))
    else:
        is_alone = report.verdict.pairs.is_empty()
        ends = "95 % interval" if is_alone else "95 % alone"
        fields += [("accuracy", percent, "accuracy"), (ends, interval, "low", "high")]
        fields += [("right", count_of, "num_correct", "num_gold")] if is_alone else []
        fields += [("published", short_percent, "published")] if report.published else []
    if report.verdict.pairs.height:
        fields += [(title, show, *(ends_of(name) for name in names)) for title, show, *names in RANKING_FIELDS]
    return doc.make_table(f"Prompts under the rule '{report.headline_rule}'", report.ranking, fields)


def ends_of(name: str) -> str:
    """The ends of a difference where those of an accuracy are called `low` and `high`."""
    return f"behind_{name}" if name in ("low", "high") else name


def figures_table(report: Report) -> doc.Table:
    """What else is one number of each prompt."""
    frame = report.ranked.join(report.mass.drop("n"), on="prompt", how="left", maintain_order="left")
    fields: list[doc.Field] = [("prompt", exact, "prompt"), ("items", count, "num_items")]
    if report.has_gold:
        fields += [] if report.has_choices else OF_CLASSES
        fields += FIGURES
    fields += [] if report.has_choices else [("label mass", fine_percent, "label_mass")]
    fields += [("ties", count, "ties"), ("cut", count, "truncated")]
    return doc.make_table(f"Other figures of the prompts under '{report.headline_rule}'", frame, fields)


def _prompts(report: Report) -> doc.Section:
    words = f"Each {report.unit} under the rule '{report.headline_rule}'. The first is open, the others unfold."
    if not report.draws_each:
        words += f" Of more than {MAX_DRAWN} tasks none is drawn for itself; predictions.parquet has what to draw."
    figures = [] if report.has_tasks else [figures_table(report)]
    parts = [_prompt(report, name, place) for place, name in enumerate(report.ranked["prompt"])]
    title = f"{report.unit.capitalize()} by {report.unit}"
    return doc.Section("prompts", title, [*figures, doc.Paragraph(words), *parts])


def _prompt(report: Report, name: str, place: int) -> doc.Folded:
    """One prompt under the headline rule: figures, classes, what it predicts and the words scored for each label."""
    index = [prompt.name for prompt in report.manifest.prompts].index(name)
    prompt = report.manifest.prompts[index]
    has_many = len(prompt.labels) > MAX_LABELS_DRAWN
    is_short = place >= (1 if has_many else MAX_DETAILED) and not report.has_tasks
    row = report.headline.row(index, named=True)
    note = f"{percent(row['accuracy'])} of {row['num_gold']:,} items right" if row["num_gold"] else ""
    blocks: list[doc.Block] = []
    if figures := prompt_figures(report, index):
        blocks.append(doc.Figures(figures))
    if prompt.has_choices:
        positions = report.under_headline(report.positions, prompt.name)
        blocks.append(doc.make_table(f"Where the choices stand that {prompt.name} predicts", positions, POSITIONS))
        return doc.Folded(prompt.name, note, blocks, is_open=place == 0, page_only=is_short)
    if place >= MAX_DETAILED and has_many:  # what all of them show of very many labels no page has room for
        left_out = f"The tables of its {len(prompt.labels):,} labels are in metrics.parquet and predictions.parquet."
        return doc.Folded(prompt.name, note, [*blocks, doc.Paragraph(left_out)], page_only=is_short)
    if row["num_single"]:
        classes = report.under_headline(report.classes, prompt.name)
        blocks.append(doc.make_table(f"Classes under {prompt.name}", classes, CLASSES))
        if len(prompt.labels) > MAX_LABELS_DRAWN:
            cells = report.under_headline(report.confusion, prompt.name)
            blocks.append(confusion_table(cells, f"Gold against predicted label, prompt {prompt.name}"))
    histogram = report.under_headline(report.histogram, prompt.name)
    blocks.append(doc.make_table(f"What {prompt.name} predicts", histogram, HISTOGRAM))
    words = report.label_words.filter(pl.col("prompt") == name)
    blocks.append(doc.make_table(f"Label words of {prompt.name}", words, LABEL_WORDS))
    return doc.Folded(prompt.name, note, blocks, is_open=place == 0, page_only=is_short)


def _items(report: Report) -> doc.Section:
    """All items to look through; the confidently wrong ones where that cannot be."""
    rows, names = report.items, report.ranked["prompt"].to_list()
    if not report.has_tasks:
        order = [[prompt.name for prompt in report.manifest.prompts].index(name) for name in names]
        rows = rows.with_columns(pl.col(EACH).list.gather(order))
    group = pl.col("prompt") if report.has_tasks else pl.lit(None, pl.String)
    number = pl.col("item_id") % DOCUMENTS if report.has_tasks else pl.col("item_id")
    items = doc.Items(
        names=["predicted"] if report.has_tasks else names,
        unit=report.unit,
        rows=rows.with_columns(number, group=group).drop("prompt"),
        num_first=report.wrong["item_id"].n_unique(),
        first_are="confidently wrong",
        num_total=report.manifest.dataset.num_items,
        instead=_instead(report),
        group_unit="task" if report.has_tasks else "",
        kind="document" if report.has_tasks else "item",
        shows_end=report.has_tasks,
    )
    return doc.Section("items", "Items", [items])


def _instead(report: Report) -> list[doc.Block]:
    """Some of the confidently wrong items of each prompt."""
    if report.wrong.is_empty():
        return [doc.Paragraph("No item is wrong, as far as gold labels are known.")]
    words = (
        f"The mistakes with the widest margin under the rule '{report.headline_rule}'. Some show what the model "
        "confuses; in some the gold label itself may be wrong."
    )
    detailed = (
        report.ranked["prompt"].to_list() if report.has_tasks else report.ranked["prompt"].to_list()[:MAX_DETAILED]
    )
    rank = pl.col("prompt").replace_strict(detailed, range(len(detailed)), default=None, return_dtype=pl.Int64)
    ranked = report.wrong.with_columns(rank=rank).drop_nulls("rank").sort("rank", maintain_order=True)
    num_each = NUM_WRONG if report.has_tasks else -(-NUM_WRONG // len(detailed))
    shown = ranked.group_by("prompt", maintain_order=True).head(num_each)
    items = [_wrong_item(row, of_task=report.has_tasks) for row in shown.iter_rows(named=True)]
    return [doc.Paragraph(words), doc.WrongItems(items)]


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
    held = f"All rules{but_left_out(report)} are held to the standard of the prompts: every pair counts."
    words = f"{notes.rule_choice_line(report)} {held}"
    blocks: list[doc.Block] = [doc.Definitions([(rule, notes.describe_rule(rule)) for rule in report.rules])]
    if collapsed := notes.collapse_lines(report.histogram.filter(pl.col("rule") != report.headline_rule)):
        blocks.append(doc.Bullets(collapsed))
    if figures := rule_figures(report):
        blocks.append(doc.Figures(figures))
    of_classes = () if report.has_choices else OF_CLASSES
    figures_of_rule = (*ACCURACY, *of_classes, *FIGURES) if report.has_gold else ()
    fields = ((report.unit, exact, "prompt"), ("rule", exact, "rule"), *figures_of_rule, ("ties", count, "ties"))
    table = doc.make_table(f"Every {report.unit} under every rule", report.summary, fields)
    is_long = len(table.rows) > MAX_ROWS and not report.has_tasks
    blocks += arms_table(report)
    blocks.append(
        doc.Folded("Their other figures", f"{len(table.rows):,} rows", [table], page_only=True) if is_long else table
    )
    title = f"All {len(report.rules)} rules on the same label scores"
    return doc.Section("rules", "Rules", [doc.Paragraph(words), doc.Folded(title, "", blocks)])
