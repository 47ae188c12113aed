"""The sentences of a report: what it found, what to doubt, and what each rule is.

Invariant: plain text, whatever names and labels are in it.
"""

from collections.abc import Sequence

import polars as pl

from pipeline.bundled import DEMO_NOTE
from pipeline.prompts import AG_NEWS, CLASS_RULES
from pipeline.reporting.formats import count_of, percent, short_percent, tiny_percent
from pipeline.reporting.label_words import LOW_MASS
from pipeline.reporting.metrics import NO_FILTER, collapsed
from pipeline.reporting.report import Report
from pipeline.reporting.rules import CAUTIONS, FORMULAS

RULE_OF = {"acc": "sum", "acc_norm": "mean_char", "acc_bytes": "mean_byte"}  # the harness' metrics under our rules
SAME = 1e-9
MAX_NAMED = 5  # labels named in one sentence
TIE = {False: "lowest label id", True: "choice that stands first"}
WIDE = 0.05  # the longer side of an interval from which on a warning says how wide it is

PUBLISHED = (
    "Published for AG News: models of 1.5B to 6B parameters get 34-45 % uncalibrated with the prompt of Zhao et al. "
    "(2021) and 60-68 % after contextual calibration; the notebook's four prompts on Gemma-2B got 32, 22, 46 and 68 % "
    "on the first 50 test rows, where n = 50 alone carries ±13 points. Chance is 25 %."
)


def context_lines(report: Report) -> list[str]:
    """What belongs beside the accuracies of a run with gold labels: what others measured on the same data."""
    lines = []
    if report.is_ag_news and {tuple(prompt.label_names.values()) for prompt in report.manifest.prompts} == {AG_NEWS}:
        lines.append(PUBLISHED)
    measured = "; ".join(
        f"'{prompt}' {short_percent(report.published[prompt])}, measured here {percent(accuracy)}"
        for prompt, accuracy in report.headline.select("prompt", "accuracy").iter_rows()
        if prompt in report.published
    )
    if measured:
        lines.append(f"Published before, and here under '{report.headline_rule}': {measured}.")
    return lines


def warnings(report: Report) -> list[str]:
    """What a reader must know before the figures; empty where there is nothing."""
    histogram = report.histogram.filter(pl.col("rule") == report.headline_rule)
    others = ~pl.col("prompt").is_in(collapsed(histogram)["prompt"].implode())
    found = [
        DEMO_NOTE if report.manifest.model.demonstration else "",
        *(f"{remark[:1].upper()}{remark[1:]}." for remark in report.manifest.remarks),
        differs_line(report),
        _repeat_line(report),
        _several_line(report),
        _width_line(report),
        _bare_line(report),
        _mass_line(report),
        *collapse_lines(histogram),
        *_missing_lines(histogram.filter(others)),
        _count_line(report, "ties", f"Ties, each given to the {TIE[report.has_choices]}"),
        _count_line(report, "truncated", f"Items cut at their {_cut_end(report)} to fit"),
    ]
    return [line for line in found if line]


def _first_few(parts: Sequence[str], separator: str) -> str:
    more = f" and {len(parts) - MAX_NAMED:,} more" if len(parts) > MAX_NAMED else ""
    return separator.join(parts[:MAX_NAMED]) + more


def differs_line(report: Report) -> str:
    """Where the harness' accuracy of a task is another than ours under the rule that it corresponds to."""
    ours = report.summary.select(task="prompt", rule="rule", accuracy="accuracy")
    rule = pl.col("metric").replace_strict(RULE_OF, default=None, return_dtype=pl.String)
    theirs = report.harness.filter(~pl.col("is_group"), pl.col("filter") == NO_FILTER).with_columns(rule=rule)
    both = theirs.join(ours, on=["task", "rule"], maintain_order="left")
    is_same = ((pl.col("value") - pl.col("accuracy")).abs() < SAME).fill_null(False)
    other = both.drop_nulls("rule").filter(~is_same)
    if other.is_empty():
        return ""
    rows = other.select("task", "metric", "value", "rule", "accuracy").iter_rows()
    each = [f"'{task}' {metric} {value:.4f} ({rule} {percent(own)})" for task, metric, value, rule, own in rows]
    return (
        f"The harness counts otherwise than we do: {_first_few(each, '; ')}. Documents without a right "
        "choice are wrong to it and no part of our accuracy; and a task may judge in a way of its own."
    )


def _cut_end(report: Report) -> str:
    """Where items are cut: of requests the beginning goes, as in the harness."""
    return "beginning" if any(prompt.is_requests for prompt in report.manifest.prompts) else "end"


def _repeat_line(report: Report) -> str:
    if not report.repeats:
        return ""
    texts = "distinct texts" if report.texts_of is None else f"distinct texts under '{report.texts_of}'"
    if report.has_tasks:
        texts = "distinct texts, each within its task"
    return (
        f"{report.num_gold:,} items hold {report.num_distinct:,} {texts}; accuracy is over the items, intervals "
        f"count them as {report.num_effective:,.0f} (Kish's effective number), and paired tests take texts whole."
    )


def _several_line(report: Report) -> str:
    """How many items have several right classes, and which figures leave them out."""
    several = report.num_gold - report.num_single
    if not several:
        return ""
    figures = (
        "confusions, figures by class, balanced accuracy, macro F1, Brier score, margins by class and the shares of "
        "gold labels."
    )
    if report.has_choices:
        figures = "Brier score and the shares of gold choices."
    right = "several right choices" if report.has_choices else "several right classes"
    right += ", and a prediction of any of them is right."
    if not report.num_single:
        return (
            f"Every item with a gold label ({several:,}) has {right} What needs one right class is left out: {figures}"
        )
    return (
        f"{count_of(several, report.num_gold)} items have {right} They are left out of what needs one right class, "
        f"which is over the other {report.num_single:,}: {figures}"
    )


def _width_line(report: Report) -> str:
    half = pl.max_horizontal(pl.col("high") - pl.col("accuracy"), pl.col("accuracy") - pl.col("low"))
    widest = report.headline.select(half.max()).item()
    if widest is None or widest <= WIDE:
        return ""
    if report.has_tasks:
        row = report.headline.sort(half, descending=True, nulls_last=True).row(0, named=True)
        is_repeated = row["num_distinct"] < row["num_gold"]
        few = f"{row['num_distinct']:,} distinct texts" if is_repeated else f"n = {row['num_gold']:,}"
        return f"Few items: in '{row['prompt']}', at {few}, an accuracy is uncertain by {100 * widest:.0f} points."
    few = (
        f"Few texts: at {report.num_distinct:,} distinct ones"
        if report.repeats
        else f"Few items: at n = {report.num_gold:,}"
    )
    return f"{few} an accuracy is uncertain by up to {100 * widest:.0f} points."


def _mass_line(report: Report) -> str:
    """Prompts whose label words the model hardly ever says."""
    rows = report.mass.filter(pl.col("label_mass") < LOW_MASS).select("prompt", "label_mass")
    if rows.is_empty():
        return ""
    each = [f"'{prompt}' {tiny_percent(mass)}" for prompt, mass in rows.iter_rows()]
    return (
        f"The model gives the label words hardly any probability: {_first_few(each, ', ')} together. It would have "
        "said something else, so their order may follow how common, long or oddly cut the words are rather than the "
        "text: the table of label words under each prompt shows their tokens, bytes and probability after no text."
    )


def _bare_line(report: Report) -> str:
    """Tasks without a gold label, where others have some."""
    bare = report.headline.filter(pl.col("num_gold") == 0)["prompt"].to_list()
    if not (report.has_tasks and report.has_gold and bare):
        return ""
    names = [f"'{name}'" for name in bare]
    return f"No gold labels, and so no accuracy: {_first_few(names, ', ')}."


def collapse_lines(histogram: pl.DataFrame) -> list[str]:
    """A sentence for each prompt and rule that predicts hardly anything but one label."""
    return [
        f"'{row['prompt']}' under '{row['rule']}' has collapsed onto one label: it predicts '{row['label']}' for "
        f"{percent(row['share'], 0)} of the items"
        + ("." if row["gold_share"] is None else f", the gold label of {percent(row['gold_share'], 0)}.")
        for row in collapsed(histogram).iter_rows(named=True)
    ]


def _missing_lines(histogram: pl.DataFrame) -> list[str]:
    """A sentence for each prompt with labels that it never predicts though items have them."""
    missing = histogram.filter(pl.col("n") == 0, pl.col("gold_share") > 0)
    lines = []
    for (prompt,), rows in missing.group_by("prompt", maintain_order=True):
        most = rows.sort("gold_share", descending=True, maintain_order=True).head(MAX_NAMED)
        shares = most.select("label", "gold_share").iter_rows()
        names = ", ".join(f"'{label}' ({percent(share, 0)} of the items)" for label, share in shares)
        more = f" and {rows.height - MAX_NAMED:,} more labels" if rows.height > MAX_NAMED else ""
        lines.append(f"'{prompt}' never predicts {names}{more}.")
    return lines


def _count_line(report: Report, column: str, what: str) -> str:
    rows = report.headline.filter(pl.col(column) > 0).select("prompt", column)
    if report.has_tasks and rows.height > MAX_NAMED:
        return f"{what}: {rows[column].sum():,} in {rows.height:,} tasks."
    found = rows.iter_rows()
    each = ", ".join(f"'{prompt}' {n:,}" for prompt, n in found)
    return f"{what}: {each}." if each else ""


def left_out_line(report: Report) -> str:
    """What a report over choices of the items has not, and why."""
    *rules, last = CLASS_RULES
    return (
        "Each item brings its own choices, so what needs the same labels for all items is left out: the rules "
        f"{', '.join(rules)} and {last}, confusions, figures by class, balanced accuracy, macro F1, how often each "
        "label is predicted, margins by class and label mass."
    )


def rule_choice_line(report: Report) -> str:
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
    """The rule's formula and source, and what to mind about it."""
    return f"{FORMULAS[rule]} Caution: it {CAUTIONS[rule]}." if rule in CAUTIONS else FORMULAS[rule]
