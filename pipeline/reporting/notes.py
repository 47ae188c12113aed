"""What a report says in words: what was run, what to doubt, and what each rule is.

Invariant: plain text without markup; report.md and the page escape it whole, whatever names and labels are in it.
"""

import re
from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from pipeline.prompts import AG_NEWS
from pipeline.reporting.rules import RULES
from pipeline.reporting.settings import setting_facts

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

MAX_SAID = 10  # comparisons up to which each gets its sentence
MAX_NAMED = 5  # labels named in one sentence
WIDE = 0.05  # half an interval from which on its width is said in words

BANDS = (
    "Published for AG News: models of 1.5B to 6B parameters get 34-45 % uncalibrated with the prompt of Zhao et al. "
    "(2021) and 60-68 % after contextual calibration; the notebook's four prompts on Gemma-2B got 32, 22, 46 and 68 % "
    "on the first 50 test rows, where n = 50 alone carries \N{PLUS-MINUS SIGN}13 points. Chance is 25 %."
)


def summary_lines(report: "Report") -> list[str]:
    """What was run, on what, when, and the headline with its interval: the first lines of a report."""
    return [
        *_headlines(report),
        _data_line(report),
        _model_line(report),
        *settings_lines(report),
        _time_line(report),
        *sanity_lines(report),
    ]


def _headlines(report: "Report") -> list[str]:
    if not report.has_gold:
        return ["No item has a gold label, so there is no accuracy: predictions and their distribution only."]
    lines = []
    for row in report.headline.filter(pl.col("num_gold") > 0).iter_rows(named=True):
        lines.append(
            f"'{row['prompt']}' under rule '{row['rule']}': {100 * row['accuracy']:.1f} % right "
            f"(95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f} %; {row['num_correct']:,} of "
            f"{row['num_gold']:,} items)"
        )
    if len(lines) > 1:
        lines.append("The best of several prompts on the same items flatters itself; see how they compare below.")
    return lines


def _data_line(report: "Report") -> str:
    data = report.manifest.dataset
    line = f"Data: {data.name}, split {data.split}, {data.num_items:,} items"
    if data.num_rows is not None and data.num_rows != data.num_items:
        line += f" of {data.num_rows:,} rows"
    if data.num_rejected:
        line += f", {data.num_rejected:,} rows rejected"
    without = data.num_items - report.num_gold
    if report.has_gold and without:
        line += f", {without:,} without a gold label"
    return f"{line}; revision {data.revision}" if data.revision else line


def _model_line(report: "Report") -> str:
    model = report.manifest.model
    size = f", {model.num_parameters / 1e6:,.1f} million parameters" if model.num_parameters else ""
    return f"Model: {model.name}{size}, {model.dtype} on {model.device}; revision {model.revision}"


def settings_lines(report: "Report") -> list[str]:
    """What the model read beside template and article, or did not read of the article; empty for an ordinary run."""
    line = "; ".join(f"{name.lower()}: {value}" for name, value in setting_facts(report.manifest.config))
    return [line[:1].upper() + line[1:]] if line else []


def version_line(report: "Report") -> str:
    """The versions that made the scores, as far as the manifest names them."""
    versions = {"labelscore": report.manifest.labelscore, **report.manifest.libraries}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return f"Made with {named}" if named else ""


def _time_line(report: "Report") -> str:
    manifest = report.manifest
    line = f"Run {manifest.run_id}, finished {format_time(manifest.finished)}"
    scored, seconds = manifest.counts.scored, manifest.scoring.seconds
    if scored and seconds:
        line += f"; {scored:,} articles x prompts scored in {seconds:,.1f} s ({scored / seconds:,.1f} a second)"
    elif scored == 0:
        line += "; nothing had to be scored, all scores were stored"
    return line


def format_time(iso: str) -> str:
    """An ISO time stamp as a person reads it."""
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M %Z}".strip()


def sanity_lines(report: "Report") -> list[str]:
    """What others have measured, beside the figures of this run."""
    if not report.has_gold:
        return []
    names = {tuple(prompt.label_names.values()) for prompt in report.manifest.prompts}
    measured = "; ".join(
        f"'{prompt.name}' {100 * published:.0f} %, measured here {100 * accuracy:.1f} %"
        for prompt, accuracy in zip(report.manifest.prompts, report.headline["accuracy"], strict=True)
        if (published := prompt.published_accuracy) is not None and accuracy is not None
    )
    bands = [BANDS] if names == {AG_NEWS} else []
    return [*bands, *([f"Published before, and here under '{report.headline_rule}': {measured}."] if measured else [])]


def warnings(report: "Report") -> list[str]:
    """What a reader must know before the figures; empty where there is nothing."""
    lines = []
    if report.manifest.model.demonstration:
        lines.append(
            "This is the demonstration model: tiny, built from this project's own sample texts. Its figures show that "
            "the machinery works; they say nothing about any other model or data set."
        )
    lines += repeat_lines(report)
    lines += several_lines(report)
    widest = report.headline.select((pl.col("high") - pl.col("low")).max() / 2).item() if report.has_gold else None
    if widest is not None and widest > WIDE:
        few = f"Few texts: at {report.num_distinct:,} distinct ones" if report.repeats else "Few items: at"
        n = "" if report.repeats else f" n = {report.num_gold:,}"
        lines.append(f"{few}{n} an accuracy carries up to +-{100 * widest:.0f} points.")
    collapsed = report.collapsed.filter(pl.col("rule") == report.headline_rule)
    others = ~pl.col("prompt").is_in(collapsed["prompt"].implode())
    lines += collapse_lines(collapsed)
    lines += never_lines(report.histogram.filter(pl.col("rule") == report.headline_rule, others))
    lines += _per_prompt(report.headline, "ties", "Ties, each given to the lowest label id")
    lines += _per_prompt(report.headline, "truncated", "Articles cut at their end to fit")
    return lines


def repeat_lines(report: "Report") -> list[str]:
    """How many texts are distinct, and what follows from it; empty where none repeats."""
    if not report.repeats:
        return []
    return [
        f"{report.num_gold:,} items hold {report.num_distinct:,} distinct texts; accuracy is over the items, intervals "
        f"count them as {report.num_effective:,.0f} (Kish's effective number), and paired tests take each text once."
    ]


def several_lines(report: "Report") -> list[str]:
    """How many items have several right classes, and which figures leave them out; empty where none has."""
    several = report.num_gold - report.num_single
    if not several:
        return []
    figures = "confusions, figures by class, balanced accuracy, macro F1, Brier score, margins by class"
    if not report.num_single:
        return [
            f"Every item with a gold label ({several:,}) has several right classes, and a prediction of any of them is "
            f"right. What needs one right class is left out: {figures} and the shares of gold labels."
        ]
    return [
        f"{several:,} of {report.num_gold:,} items have several right classes, and a prediction of any of them is "
        f"right. They are left out of what needs one right class, which is over the other {report.num_single:,}: "
        f"{figures} and the shares of gold labels."
    ]


def _per_prompt(headline: pl.DataFrame, column: str, what: str) -> list[str]:
    found = headline.filter(pl.col(column) > 0).select("prompt", column).iter_rows()
    each = ", ".join(f"'{prompt}' {n:,}" for prompt, n in found)
    return [f"{what}: {each}."] if each else []


def collapse_lines(collapsed: pl.DataFrame) -> list[str]:
    """A sentence for each prompt and rule that predicts hardly anything but one label."""
    lines = []
    for row in collapsed.iter_rows(named=True):
        gold = "" if row["gold_share"] is None else f", the gold label of {100 * row['gold_share']:.0f} %"
        lines.append(
            f"'{row['prompt']}' under '{row['rule']}' has collapsed onto one label: it predicts '{row['label']}' for "
            f"{100 * row['share']:.0f} % of the items{gold}."
        )
    return lines


def never_lines(histogram: pl.DataFrame) -> list[str]:
    """A sentence for each prompt with labels that it never predicts though items have them."""
    missed = histogram.filter(pl.col("n") == 0, pl.col("gold_share") > 0)
    lines = []
    for (prompt,), rows in missed.group_by("prompt", maintain_order=True):
        names = [f"'{label}' ({100 * share:.0f} % of the items)" for label, share in _label_shares(rows)[:MAX_NAMED]]
        more = f" and {rows.height - MAX_NAMED:,} more labels" if rows.height > MAX_NAMED else ""
        lines.append(f"'{prompt}' never predicts {', '.join(names)}{more}.")
    return lines


def _label_shares(rows: pl.DataFrame) -> list[tuple[str, float]]:
    return rows.sort("gold_share", descending=True, maintain_order=True).select("label", "gold_share").rows()


def comparison_lines(comparisons: pl.DataFrame) -> list[str]:
    """The sentences of one family; of a large family, those on what is not established."""
    said = comparisons if comparisons.height <= MAX_SAID else comparisons.filter(~pl.col("established"))
    return said["words"].to_list()


def lead_line(report: "Report") -> str:
    """Why this rule leads. Only one named before there were any figures of this output was chosen without them."""
    rule, named = report.headline_rule, report.manifest.config.rule or report.manifest.headline_rule
    earlier = report.history.filter(pl.col("headline"), pl.col("run_id") != report.manifest.run_id)["rule"]
    others = [f"'{other}'" for other in earlier.unique(maintain_order=True) if other != rule]
    if rule != named:
        return (
            f"The rule '{rule}' was chosen for this report, perhaps after its figures were seen; the run itself named "
            f"'{named}'."
        )
    if others:
        return (
            f"The rule '{rule}' leads because the run named it, perhaps after its figures were seen: earlier runs of "
            f"this output were led by {', '.join(others)}."
        )
    return f"The rule '{rule}' leads because the run named it, before there were figures to look at."


def describe_rule(rule: str) -> str:
    """The rule's formula and source: the first sentence of its docstring, without markup."""
    docstring = RULES[rule].__doc__ or ""
    first = re.split(r"\n\s*\n", docstring)[0]
    return " ".join(first.replace("`", "'").split())
