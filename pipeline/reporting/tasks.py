"""What only a report of tasks has: its first words, its table of tasks, and lm-evaluation-harness' figures beside ours.

Invariant: tasks share no items, so nothing here compares them or makes one figure of them; what the harness makes of
groups is shown as its own.
"""

import polars as pl

from pipeline.reporting.document import Block, Field, Folded, Paragraph, make_table
from pipeline.reporting.figures import ACCURACY
from pipeline.reporting.formats import count, count_of, exact, four, percent, text, yes_no
from pipeline.reporting.metrics import NO_FILTER
from pipeline.reporting.report import Report
from pipeline.storing.manifest import Manifest

HARNESS, LIBRARY = "lm-evaluation-harness", "lm_eval"  # its name, and in the manifest's `libraries`
MAX_METRICS = 6  # of the harness' metrics shown beside ours
TITLE = pl.when(pl.col("filter") == NO_FILTER).then("metric").otherwise(pl.format("{} ({})", "metric", "filter"))


def harness_name(manifest: Manifest) -> str:
    """The harness with its version, as far as it is known."""
    return f"{HARNESS} {manifest.libraries.get(LIBRARY, '')}".strip()


def harness_figures(harness: pl.DataFrame, *, groups: bool) -> tuple[pl.DataFrame, list[str]]:
    """What the harness makes of each task (or group): task, num_items, and a column for each of its metrics.

    The metrics are the MAX_METRICS that most of them have, named with their filter where they have one; their names
    come second. A column is called `harness:NAME`.
    """
    rows = harness.filter(pl.col("is_group") == groups).with_columns(title=TITLE)
    common = rows.group_by("title", maintain_order=True).len().sort("len", descending=True, maintain_order=True)
    titles = common["title"].head(MAX_METRICS).to_list()
    values = [pl.col("value").filter(pl.col("title") == title).first().alias(f"harness:{title}") for title in titles]
    return rows.group_by("task", maintain_order=True).agg(pl.col("num_items").first(), *values), titles


def with_harness(headline: pl.DataFrame, harness: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows of tasks with the columns of `harness_figures`, and the names of these metrics."""
    figures, titles = harness_figures(harness, groups=False)
    found = figures.drop("num_items").rename({"task": "prompt"})
    return headline.join(found, on="prompt", how="left", maintain_order="left"), titles


def metric_fields(titles: list[str]) -> list[Field]:
    """The columns of a table that show the harness' metrics."""
    return [(title, four, f"harness:{title}") for title in titles]


def opening(report: Report) -> str:
    """The first words of a report of several tasks."""
    num_items = report.manifest.dataset.num_items
    gold = "" if report.num_gold == num_items else f", {report.num_gold:,} of them with a gold label"
    return (
        f"{len(report.manifest.prompts):,} tasks of {harness_name(report.manifest)} with {num_items:,} items in all"
        f"{gold}. Tasks share no items, so no one figure is that of the run: the table has each of them under the rule "
        f"'{report.headline_rule}', and beside it what the harness itself makes of the same scores."
    )


def task_blocks(report: Report) -> list[Block]:
    """The table of tasks, the harness' groups, and all that the harness makes of both."""
    blocks: list[Block] = [_tasks_table(report)]
    if report.harness.is_empty():
        return blocks
    groups, titles = harness_figures(report.harness, groups=True)
    if groups.height:
        fields = [("group", exact, "task"), ("items", count, "num_items"), *metric_fields(titles)]
        blocks.append(make_table(f"Groups of tasks, as {HARNESS} puts them together", groups, fields))
    note = (
        "The harness' acc is the accuracy under the rule 'sum', its acc_norm that under 'mean_char' and its acc_bytes "
        "that under 'mean_byte', but for what is said above. Chance is guessing among the choices of each item."
    )
    return [*blocks, Paragraph(note, note=True), _harness_table(report)]


def _tasks_table(report: Report) -> Block:
    frame, titles = with_harness(report.headline, report.harness)
    shots = {prompt.name: prompt.task.num_shots for prompt in report.manifest.prompts if prompt.task is not None}
    name = pl.col("prompt")
    frame = frame.with_columns(
        chance=name.replace_strict(report.chances, default=None, return_dtype=pl.Float64),
        num_shots=name.replace_strict(shots, default=None, return_dtype=pl.Int64),
    )
    fields: list[Field] = [("task", exact, "prompt"), ("items", count, "num_items")]
    if report.has_gold:
        fields += [*ACCURACY, ("right", _right, "num_correct", "num_gold"), ("chance", percent, "chance")]
    fields += [*metric_fields(titles), ("shots", count, "num_shots")]
    fields += [("ties", count, "ties"), ("cut", count, "truncated")]
    return make_table(f"Tasks under the rule '{report.headline_rule}'", frame, fields)


def _right(num_correct: int, num_gold: int) -> str:
    return count_of(num_correct, num_gold) if num_gold else text(None)


def _harness_table(report: Report) -> Block:
    """Every figure of the harness, to be unfolded."""
    title = f"As {harness_name(report.manifest)} counts"
    fields: list[Field] = [
        ("task", exact, "task"),
        ("version", text, "version"),
        ("shots", count, "num_shots"),
        ("metric", exact, "metric"),
        ("filter", text, "filter"),
        ("value", four, "value"),
        ("higher is better", yes_no, "higher_is_better"),
        ("items", count, "num_items"),
        ("group", yes_no, "is_group"),
    ]
    table = make_table(title, report.harness, fields)
    return Folded(title, f"{report.harness.height:,} figures", [table], is_open=report.harness.height <= MAX_METRICS)
