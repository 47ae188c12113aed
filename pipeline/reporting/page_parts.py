"""The page's sections, in the order of the page: what each one says, as texts, tables and figures.

Invariant: everything here is plain text and numbers; the template gives it its markup and escapes it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.reporting import notes
from pipeline.reporting.comparisons import assumptions, repeats
from pipeline.reporting.page_figures import (
    Figure,
    accuracy_figure,
    prompt_figures,
    published_accuracies,
    rule_figures,
)
from pipeline.reporting.page_history import history_part
from pipeline.reporting.page_tables import (
    Columns,
    Table,
    count,
    fraction,
    interval,
    make_table,
    p_value,
    percent,
    points,
    spread,
    text,
)
from pipeline.reporting.page_wrong import wrong_part
from pipeline.reporting.rules import CAUTIONS
from pipeline.reporting.settings import setting_facts
from pipeline.storing.manifest import PromptRecord

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

NOTHING_SCORED = "nothing: all scores were stored"

TERMS = (
    ("Label score", "The log-likelihood of a label's words after the prompt (natural logarithm): where rules start."),
    ("Rule", "How the label scores of an item become one prediction; the rules used are listed under Rules."),
    ("q and p_cf", "q is the softmax over labels of logprob. p_cf is the mean of exp(logprob) after the content-free "
                   "texts \"\", \"N/A\" and \"[MASK]\", made to sum to one over the labels."),
    ("95 % interval", "Wilson's score interval. It is about the items as a sample, not about other data sets."),
    ("Confidence", "The softmax over the labels of the rule's scores, for the label that won."),
    ("Margin", "The winning score minus the second, in the units of the rule."),
    ("ECE", "Expected calibration error: the mean distance between confidence and accuracy over 15 bins; 0 is best."),
    ("Brier", "The mean squared distance between softmax and gold label, summed over labels; 0 to 2, 0 is best."),
    ("At 50 %", "The accuracy on the half of the items with the highest confidence; likewise 80 % and 90 %."),
    ("Label mass", "The probability that the model gives to all label words together, on average. Where it is small, "
                   "the model would rather have said something else."),
    ("SE", "The standard error of the difference, paired: the items that both sides get right cancel."),
    ("p, p (Holm)", "McNemar's exact p-value, as it is, and raised for the number of comparisons in its family by "
                    "Holm's method."),
)  # fmt: skip

REPEAT_TERMS = (
    ("Effective number", "As how many independent items those count that share texts: (sum w)^2 / sum w^2 over texts "
                         "with w items each (Kish). Wilson's intervals are for so many."),
    ("Texts for A, for B", "The distinct texts with more items right under A, or under B. Where texts repeat, p is the "
                           "exact sign test of these two numbers."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Headline:
    value: str
    text: str


@dataclass(frozen=True, slots=True)
class PromptPart:
    name: str
    summary: str
    sentences: tuple[str, ...]
    figures: list[Figure]
    tables: list[Table]


@dataclass(frozen=True, slots=True)
class Family:
    """Comparisons that were corrected together."""

    title: str
    sentences: list[str]
    table: Table


def make_page(report: "Report") -> dict[str, Any]:
    """What templates/report.html needs, section by section."""
    data, model = report.manifest.dataset, report.manifest.model
    return {
        "title": f"{model.name} on {data.name} ({data.split})",
        "warnings": notes.warnings(report),
        "headline": make_headline(report),
        "facts": run_facts(report),
        "prompts_table": prompts_table(report),
        "accuracy": accuracy_figure(report) if report.has_gold else None,
        "sanity": notes.sanity_lines(report),
        "rule": report.headline_rule,
        "lead": notes.lead_line(report),
        "prompts": [prompt_part(report, i) for i in range(len(report.manifest.prompts))],
        "comparisons": make_family(report.prompt_comparisons, "Prompts against prompts"),
        "assumptions": assumptions(report.prompt_comparisons),
        "wrong": wrong_part(report),
        "history": history_part(report),
        "rules": rules_part(report),
        "templates": report.manifest.prompts,
        "around": notes.settings_lines(report),
        "versions": notes.version_line(report),
        "words": {prompt.name: words_table(prompt) for prompt in report.manifest.prompts},
        "terms": TERMS + (REPEAT_TERMS if report.repeats else ()),
    }


def make_headline(report: "Report") -> Headline | None:
    """The accuracy of the run's first prompt, which was named first and not picked for its result."""
    if not report.has_gold:
        return None
    row = report.headline.row(0, named=True)
    others = report.headline.height - 1
    words = (
        f"of {row['num_gold']:,} items right with the prompt {row['prompt']} under the rule {row['rule']}; "
        f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f} %."
    )
    if others:
        words += f" It is the run's first prompt; the other {others} are in the table."
    return Headline(percent(row["accuracy"]), words)


def run_facts(report: "Report") -> list[tuple[str, str]]:
    """What was run, on what, when."""
    data, model, counts = report.manifest.dataset, report.manifest.model, report.manifest.counts
    scored, seconds = counts.scored, report.manifest.scoring.seconds
    size = f"{say_size(model.num_parameters)} parameters, " if model.num_parameters else ""
    items = f"{data.num_items:,}"
    if data.num_rows is not None and data.num_rows != data.num_items:
        items += f" of {data.num_rows:,} rows"
    if data.num_rejected:
        items += f", {data.num_rejected:,} rejected"
    facts = [
        ("Data set", f"{data.name}, split {data.split}"),
        ("Items", items),
        ("Model", model.name),
        ("Size and type", f"{size}{model.dtype} on {model.device}"),
        ("Finished", notes.format_time(report.manifest.finished)),
        *setting_facts(report.manifest.config),
        ("Rule", report.headline_rule),
        ("Scored in this run", f"{scored:,} texts in {seconds:,.1f} s" if scored and seconds else NOTHING_SCORED),
        ("Model revision", model.revision),
        ("Data revision", data.revision),
        ("Run", report.manifest.run_id),
    ]
    return [(name, value) for name, value in facts if value]


def say_size(num_parameters: int) -> str:
    for name, unit in (("billion", 10**9), ("million", 10**6)):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.2f} {name}"
    return f"{num_parameters:,}"


def prompts_table(report: "Report") -> Table:
    frame = (
        report.headline.join(report.mass.select("prompt", "label_mass"), on="prompt", how="left", maintain_order="left")
        .with_columns(interval=interval())
        .with_columns(
            published=pl.col("prompt").replace_strict(
                published_accuracies(report), default=None, return_dtype=pl.Float64
            )
        )
    )
    columns: Columns = {"prompt": ("prompt", text), "num_items": ("items", count)}
    if report.has_gold:
        columns |= {
            "accuracy": ("accuracy", percent),
            "interval": ("95 % interval", text),
            **({"published": ("published", percent)} if published_accuracies(report) else {}),
            "macro_f1": ("macro F1", fraction),
            "accuracy_at_50": ("at 50 %", percent),
            "ece": ("ECE", fraction),
        }
    columns |= {"label_mass": ("label mass", percent), "ties": ("ties", count), "truncated": ("cut", count)}
    return make_table(f"Prompts under the rule {report.headline_rule}", frame, columns)


def prompt_part(report: "Report", index: int) -> PromptPart:
    """One prompt under the headline rule: figures, classes and what it predicts."""
    name = report.manifest.prompts[index].name
    row = report.headline.row(index, named=True)
    chosen = (pl.col("prompt") == name) & (pl.col("rule") == report.headline_rule)
    summary = f"{percent(row['accuracy'])} of {row['num_gold']:,} items right" if row["num_gold"] else ""
    classes: Columns = {
        "label": ("class", text),
        "support": ("items", count),
        "num_predicted": ("predicted", count),
        "precision": ("precision", percent),
        "precision_interval": ("95 % interval", text),
        "recall": ("recall", percent),
        "recall_interval": ("95 % interval", text),
        "f1": ("F1", fraction),
    }
    histogram: Columns = {
        "label": ("label", text),
        "n": ("times", count),
        "share": ("share of predictions", percent),
        "gold_share": ("share of gold labels", percent),
    }
    tables = [make_table(f"What {name} predicts", report.histogram.filter(chosen), histogram)]
    if row["num_single"]:
        frame = report.classes.filter(chosen).with_columns(
            precision_interval=interval("precision_low", "precision_high"),
            recall_interval=interval("recall_low", "recall_high"),
        )
        tables.insert(0, make_table(f"Classes under {name}", frame, classes))
    sentences = notes.collapse_lines(report.collapsed.filter(chosen))
    return PromptPart(name, summary, tuple(sentences), prompt_figures(report, index), tables)


def make_family(comparisons: pl.DataFrame, title: str, by: str = "prompt") -> Family | None:
    """One family of comparisons; None where it has none."""
    if comparisons.is_empty():
        return None
    by_text = repeats(comparisons)
    frame = comparisons.with_columns(
        interval=pl.format(
            "{}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{}",
            *(pl.col(end).map_elements(points, return_dtype=pl.String) for end in ("low", "high")),
        )
    )
    columns: Columns = {
        **({"prompt_a": ("prompt", text)} if by == "rule" else {}),
        f"{by}_a": ("A", text),
        f"{by}_b": ("B", text),
        "difference": ("A \N{MINUS SIGN} B, points", points),
        "interval": ("95 % interval", text),
        "standard_error": ("SE, points", spread),
        "only_a": ("only A right", count),
        "only_b": ("only B right", count),
        **({"texts_a": ("texts for A", count), "texts_b": ("texts for B", count)} if by_text else {}),
        "p": ("p", p_value),
        "p_holm": ("p (Holm)", p_value),
        "items_to_settle": (f"{'texts' if by_text else 'items'} to settle it", count),
    }  # fmt: skip
    return Family(title, notes.comparison_lines(comparisons), make_table(title, frame, columns))


def rules_part(report: "Report") -> dict[str, Any]:
    """Every rule's formula, caution and figures."""
    columns: Columns = {
        "prompt": ("prompt", text),
        "rule": ("rule", text),
        "accuracy": ("accuracy", percent),
        "interval": ("95 % interval", text),
        "balanced_accuracy": ("balanced", percent),
        "macro_f1": ("macro F1", fraction),
        "accuracy_at_50": ("at 50 %", percent),
        "accuracy_at_80": ("at 80 %", percent),
        "accuracy_at_90": ("at 90 %", percent),
        "ece": ("ECE", fraction),
        "brier": ("Brier", fraction),
        "ties": ("ties", count),
    }
    others = report.collapsed.filter(pl.col("rule") != report.headline_rule)
    return {
        "num_others": len(report.rules) - 1,
        "definitions": [(rule, _formula(rule), CAUTIONS.get(rule, "")) for rule in report.rules],
        "collapsed": notes.collapse_lines(others),
        "figures": rule_figures(report),
        "table": make_table("Every prompt under every rule", report.summary.with_columns(interval=interval()), columns),
        "family": make_family(report.rule_comparisons, f"Rules against {report.headline_rule}", by="rule"),
    }


def _formula(rule: str) -> str:
    """What `describe_rule` says after the rule's name."""
    return notes.describe_rule(rule).partition(": ")[2]


def words_table(prompt: PromptRecord) -> Table:
    """The label words of a prompt, quoted so that a leading space is seen."""
    rows = pl.DataFrame(
        [(label.name, f"“{label.words}”") for label in prompt.labels], schema=["label", "words"], orient="row"
    )
    columns: Columns = {"label": ("label", text), "words": ("label words", text)}
    return make_table(f"Label words of {prompt.name}", rows, columns)
