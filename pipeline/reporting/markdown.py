"""report.md: the report as tables for a terminal or a pull request.

Invariant: whatever comes from outside passes through `escape` or `code` of pipeline.reporting.markup.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.reporting import notes
from pipeline.reporting.calibration import margins_by_class, shown_coverage
from pipeline.reporting.comparisons import assumptions, repeats
from pipeline.reporting.markup import code, escape, folded, interval, number, p_value, percent, table
from pipeline.reporting.rules import CAUTIONS

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

MAX_TEXT = 300  # characters of an article shown
NUM_SHOWN = 10  # confidently wrong items shown for each prompt; the page has them all
MAX_MATRIX = 12  # labels up to which a confusion matrix is drawn


def render_markdown(report: "Report") -> str:
    """The whole of report.md."""
    parts = [_summary(report), _prompts(report)]
    if report.has_gold:
        classes = _classes(report) if report.num_single else _histograms(report)
        parts += [_prompt_comparisons(report), _rules(report), classes, _confidence(report), _length(report),
                  _wrong(report)]  # fmt: skip
    else:
        parts.append(_histograms(report))
    parts += [_history(report), _made(report), _files(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(report: "Report") -> str:
    bullets = "\n".join(f"- {escape(line)}" for line in notes.summary_lines(report))
    warnings = "\n>\n".join(f"> {escape(line)}" for line in notes.warnings(report))
    return "\n\n".join(part for part in ("# labelscore report", warnings, bullets) if part)


def _prompts(report: "Report") -> str:
    published = {p.name: p.published_accuracy for p in report.manifest.prompts}
    mass = dict(report.mass.select("prompt", "label_mass").iter_rows())
    header = ["prompt", "n", "accuracy", "95 % interval", "balanced", "macro F1", "ECE", "Brier", "at 50 %", "at 80 %",
              "at 90 %", "ties", "truncated", "label mass"]  # fmt: skip
    if any(value is not None for value in published.values()):
        header.append("published")
    rows = []
    for row in report.headline.iter_rows(named=True):
        cells = [
            code(row["prompt"]), f"{row['num_gold']:,}", *_figures(row), f"{row['ties']:,}",
            f"{row['truncated']:,}", percent(mass[row["prompt"]], 2),
        ]  # fmt: skip
        if len(header) > len(cells):
            cells.append(percent(published[row["prompt"]], 0))
        rows.append(cells)
    legend = (
        "Balanced is the mean recall of the classes. ECE and Brier judge the softmax over the labels as a confidence "
        "(0 is best). *At 50 %* is the accuracy on the most confident half. *Label mass* is the mean probability that "
        "the model gives to the label words together; where it is small, the model would have said something else."
    )
    return f"## Prompts under `{report.headline_rule}`\n\n{table(header, rows)}\n\n{legend}"


def _figures(row: dict[str, Any]) -> list[str]:
    return [
        percent(row["accuracy"]), interval(row["low"], row["high"]), percent(row["balanced_accuracy"]),
        number(row["macro_f1"]), number(row["ece"]), number(row["brier"]), percent(row["accuracy_at_50"]),
        percent(row["accuracy_at_80"]), percent(row["accuracy_at_90"]),
    ]  # fmt: skip


def _comparison_rows(comparisons: pl.DataFrame) -> str:
    by_text = repeats(comparisons)
    units = ["texts for A", "texts for B"] if by_text else []
    header = ["A", "B", "A - B (points)", "95 % interval", "SE", "only A right", "only B right", *units, "p",
              "p (Holm)"]  # fmt: skip
    rows = []
    for row in comparisons.iter_rows(named=True):
        a, b = (row["prompt_a"], row["prompt_b"])
        if row["prompt_a"] == row["prompt_b"]:
            a, b = f"{a}: {row['rule_a']}", f"{b}: {row['rule_b']}"
        units = [f"{row['texts_a']:,}", f"{row['texts_b']:,}"] if by_text else []
        rows.append([
            code(a), code(b), f"{100 * row['difference']:+z.1f}", interval(row["low"], row["high"]),
            number(100 * row["standard_error"], 1), f"{row['only_a']:,}", f"{row['only_b']:,}", *units,
            p_value(row["p"]), p_value(row["p_holm"]),
        ])  # fmt: skip
    return table(header, rows, left=2)


def comparison_section(comparisons: pl.DataFrame) -> str:
    """The table of one family after its sentences; of a large family, those on what is not established."""
    words = "\n".join(f"- {escape(sentence)}" for sentence in notes.comparison_lines(comparisons))
    return f"{words}\n\n{_comparison_rows(comparisons)}" if words else _comparison_rows(comparisons)


def _family(comparisons: pl.DataFrame) -> str:
    size = comparisons.height
    return f"{comparisons['family'][0]}, {size} {'pair' if size == 1 else 'pairs'} on the same items"


def _prompt_comparisons(report: "Report") -> str:
    if report.prompt_comparisons.is_empty():
        return ""
    return (
        f"## Prompts compared\n\nFamily: {_family(report.prompt_comparisons)}.\n\n"
        f"{comparison_section(report.prompt_comparisons)}\n\n{assumptions(report.prompt_comparisons)}"
    )


def _rules(report: "Report") -> str:
    header = ["prompt", "rule", "accuracy", "95 % interval", "balanced", "macro F1", "ECE", "Brier", "at 50 %",
              "at 80 %", "at 90 %", "ties"]  # fmt: skip
    rows = [
        [code(row["prompt"]), code(row["rule"]), *_figures(row), f"{row['ties']:,}"]
        for row in report.summary.iter_rows(named=True)
    ]
    formulas = "\n".join(f"- {escape(notes.describe_rule(rule))}" for rule in report.rules)
    cautions = [f"'{rule}' {text}." for rule, text in CAUTIONS.items() if rule in report.rules]
    cautions += notes.collapse_lines(report.collapsed.filter(pl.col("rule") != report.headline_rule))
    mind = "\n".join(f"- {escape(line)}" for line in cautions)
    body = f"{formulas}\n\nMind that\n\n{mind}\n\n{table(header, rows, left=2)}"
    if not report.rule_comparisons.is_empty():
        body += f"\n\nFamily: {_family(report.rule_comparisons)}, each against the headline rule.\n\n"
        body += comparison_section(report.rule_comparisons)
        if report.prompt_comparisons.is_empty():
            body += f"\n\n{assumptions(report.rule_comparisons)}"
    title = f"Other rules from the same scores ({len(report.rules) - 1})"
    intro = (
        f"{escape(notes.lead_line(report))} Whichever of the others does best on these very items is flattered by "
        "having been picked on them; it is a better choice only if it holds on other items."
    )
    return f"## Rules\n\n{intro}\n\n{folded(title, body)}"


def _classes(report: "Report") -> str:
    sections = []
    for prompt in report.manifest.prompts:
        chosen = (pl.col("prompt") == prompt.name) & (pl.col("rule") == report.headline_rule)
        header = ["class", "items", "predicted", "precision", "95 % interval", "recall", "95 % interval", "F1"]
        rows = [
            [
                escape(row["label"]), f"{row['support']:,}", f"{row['num_predicted']:,}", percent(row["precision"]),
                interval(row["precision_low"], row["precision_high"]), percent(row["recall"]),
                interval(row["recall_low"], row["recall_high"]), number(row["f1"]),
            ]
            for row in report.classes.filter(chosen).iter_rows(named=True)
        ]  # fmt: skip
        matrix = _matrix(report.confusion.filter(chosen), len(prompt.labels))
        sections.append(f"### {code(prompt.name)}\n\n{table(header, rows)}{matrix}")
    return f"## Classes under `{report.headline_rule}`\n\n" + "\n\n".join(sections)


def _matrix(confusion: pl.DataFrame, num_labels: int) -> str:
    if num_labels > MAX_MATRIX:
        return f"\n\nThe confusion matrix of {num_labels} classes is on the page."
    wide = confusion.pivot("predicted", index="gold", values="n", maintain_order=True)
    header = ["gold \\ predicted", *(escape(name) for name in wide.columns[1:])]
    rows = [[escape(row[0]), *(f"{n:,}" for n in row[1:])] for row in wide.iter_rows()]
    return "\n\n" + table(header, rows)


def _confidence(report: "Report") -> str:
    """What the page draws as reliability, risk and coverage, and margins."""
    sections = []
    for prompt in report.manifest.prompts:
        chosen = (pl.col("prompt") == prompt.name) & (pl.col("rule") == report.headline_rule)
        bins = [
            [percent(row["confidence"]), percent(row["accuracy"]), interval(row["low"], row["high"]), f"{row['n']:,}"]
            for row in report.reliability.filter(chosen).iter_rows(named=True)
        ]
        coverage = [
            [percent(row["coverage"], 0), f"{row['n']:,}", percent(row["accuracy"]), percent(row["threshold"])]
            for row in shown_coverage(report.coverage.filter(chosen)).iter_rows(named=True)
        ]
        margins = [
            [escape(row["gold"]), f"{row['n']:,}", number(row["median"], 2)]
            for row in margins_by_class(report.margins, prompt).iter_rows(named=True)
        ]
        tables = [
            table(["mean confidence", "accuracy", "95 % interval", "items"], bins, left=0),
            table(["answered", "items", "accuracy", "confidence of at least"], coverage, left=0),
            *([table(["gold", "items", "median margin, about"], margins)] if margins else []),
        ]
        sections.append(folded(escape(prompt.name), "\n\n".join(tables)))
    legend = (
        "Accuracy by confidence, accuracy when only the most confident items are answered, and the winner's lead over "
        f"the next label in the units of `{report.headline_rule}`, negative where the winner was wrong."
    )
    if not report.num_single:
        legend = "Accuracy by confidence, and accuracy when only the most confident items are answered."
    return f"## Confidence under `{report.headline_rule}`\n\n{legend}\n\n" + "\n\n".join(sections)


def _histograms(report: "Report") -> str:
    chosen = report.histogram.filter(pl.col("rule") == report.headline_rule)
    rows = [
        [code(row["prompt"]), escape(row["label"]), f"{row['n']:,}", percent(row["share"])]
        for row in chosen.iter_rows(named=True)
    ]
    return f"## Predicted labels\n\n{table(['prompt', 'label', 'items', 'share'], rows, left=2)}"


def _length(report: "Report") -> str:
    rows = [
        [
            code(row["prompt"]), f"{row['tokens_low']:,} to {row['tokens_high']:,}", f"{row['n']:,}",
            percent(row["accuracy"]), interval(row["low"], row["high"]),
        ]
        for row in report.length.iter_rows(named=True)
    ]  # fmt: skip
    header = ["prompt", "tokens before the label", "n", "accuracy", "95 % interval"]
    return "## Accuracy by length\n\n" + folded("Five groups of items by length", table(header, rows))


def _wrong(report: "Report") -> str:
    sections = []
    for prompt in report.manifest.prompts:
        rows = report.wrong.filter(pl.col("prompt") == prompt.name).head(NUM_SHOWN)
        items = "\n".join(_wrong_item(row) for row in rows.iter_rows(named=True))
        sections.append(folded(f"{escape(prompt.name)}: the {rows.height} with the widest margin", items or "None."))
    return "## Confidently wrong\n\n" + "\n\n".join(sections)


def _wrong_item(row: dict[str, Any]) -> str:
    text = row["text"] or ""
    excerpt = escape(text[:MAX_TEXT]) + (" ..." if len(text) > MAX_TEXT else "")
    scores = ", ".join(f"{escape(n)} {s:.2f}" for n, s in zip(row["labels"], row["scores"], strict=True))
    return (
        f"- item {row['item_id']}: predicted **{escape(row['predicted'])}** ({percent(row['confidence'])}), gold "
        f"**{escape(row['gold'])}**. {excerpt}\n  Scores: {scores}"
    )


def _history(report: "Report") -> str:
    past = report.history.filter(pl.col("rule") == report.headline_rule)
    if past["run_id"].n_unique() < 2:
        return ""
    return f"## Past runs of this output\n\n{history_table(past)}"


def history_table(history: pl.DataFrame) -> str:
    """One line per run and prompt, as `labelscore history` prints it."""
    header = ["finished (UTC)", "prompt", "rule", "items", "accuracy", "changed", "scored", "seconds"]
    rows = [
        [
            f"{row['finished']:%Y-%m-%d %H:%M}", code(row["prompt"]), code(row["rule"]), f"{row['num_items']:,}",
            percent(row["accuracy"]), "-" if row["num_changed"] is None else f"{row['num_changed']:,}",
            "-" if row["num_scored"] is None else f"{row['num_scored']:,}",
            number(row["seconds"], 1),
        ]
        for row in history.iter_rows(named=True)
    ]  # fmt: skip
    return table(header, rows, left=3)


def _made(report: "Report") -> str:
    """Templates and label words as code, because their blanks and line ends matter."""
    sentences = [*notes.settings_lines(report), notes.version_line(report)]
    parts = [f"{escape(sentence)}." for sentence in sentences if sentence]
    header = ["prompt", "template", "boundary"]
    parts.append(table(header, [list(map(code, (p.name, p.template, p.boundary))) for p in report.manifest.prompts], 3))
    words = [
        [code(prompt.name), escape(label.name), code(label.words)]
        for prompt in report.manifest.prompts
        for label in prompt.labels
    ]
    parts.append(folded("Label words", table(["prompt", "label", "label words"], words, left=3)))
    return "## How this was made\n\n" + "\n\n".join(parts)


def _files(report: "Report") -> str:
    names = ["scores/scores.parquet", "items.parquet", "report/predictions.parquet", "report/metrics.parquet",
             "report/report.html", "report/report.md", "manifest.json"]  # fmt: skip
    return f"## Files\n\nIn {code(report.out)}: {', '.join(code(name) for name in names)}."
