"""Past runs of an output: the rows that history.parquet keeps, and what a report shows of them.

Invariant: at most NUM_RUNS runs are shown, and fewer of many tasks, so that years of nightly runs do not grow a report;
the last row of a run is the first that was recorded of it.
"""

from datetime import datetime

import polars as pl

from pipeline.reporting import metrics
from pipeline.reporting.charts import axis_around, counts_chart, history_chart
from pipeline.reporting.document import Block, Field, Figure, Figures, Folded, Paragraph, Section, make_table
from pipeline.reporting.figures import ACCURACY, ITEMS
from pipeline.reporting.formats import count, exact, moment, number
from pipeline.reporting.report import Report
from pipeline.storing.layout import HISTORY_SCHEMA
from pipeline.storing.manifest import Manifest

NUM_RUNS = 60
NUM_ROWS = 600  # of the table, where the runs are of many tasks; two runs at least are shown
NUM_OPEN = 40  # rows of the table that is not folded: report.md has no other; two runs at least are in it
COLUMNS = pl.Schema(HISTORY_SCHEMA)

FINISHED: Field = ("finished (UTC)", moment, "finished")
RUN_FIELDS: tuple[Field, ...] = (
    FINISHED,
    ("prompt", exact, "prompt"),
    ("rule", exact, "rule"),
    ("items", count, "num_items"),
    *ACCURACY,
    ("changed", count, "num_changed"),
    ("scored", count, "num_scored"),
    ("seconds", number, "seconds"),
)
COUNTS = {
    "items": ("Items of past runs.", "How many items each run covered."),
    "changed": (
        "Changed predictions.",
        "Distinct texts predicted differently than in the run before, counted for each prompt and added up.",
    ),
}


def history_rows(manifest: Manifest, headline: str, summary: pl.DataFrame, changed: pl.DataFrame) -> pl.DataFrame:
    """The rows that this run adds to history.parquet: one per prompt and rule."""
    has_gold = pl.col("num_gold") > 0
    return (
        summary.join(changed, on=metrics.KEY, how="left", maintain_order="left")
        .with_columns(
            run_id=pl.lit(manifest.run_id),
            finished=pl.lit(datetime.fromisoformat(manifest.finished)),
            headline=pl.col("rule") == headline,
            num_correct=pl.when(has_gold).then(pl.col("num_correct")),
            num_scored=pl.lit(manifest.counts.scored),
            seconds=pl.lit(manifest.scoring.seconds),
        )
        .select(COLUMNS.names())
        .cast(COLUMNS)
    )


def with_past(past: pl.DataFrame | None, rows: pl.DataFrame) -> pl.DataFrame:
    """Past runs and this one, oldest first; a run that is reported again keeps the rows it has."""
    if past is None:
        return rows
    new = rows.filter(~pl.col("run_id").is_in(past["run_id"].implode()))
    return pl.concat([past, new]).sort("finished", maintain_order=True)


def past_runs(report: Report) -> Section | None:
    """Past runs of this output under the rule that leads this report, whatever led theirs; None while only one has it.

    Another rule's accuracy on the same line would look like a change of the model or the data.
    """
    history = report.history.filter(pl.col("rule") == report.headline_rule)
    ids = history["run_id"].unique(maintain_order=True)
    if len(ids) < 2:
        return None
    words = (
        f"The finished runs of this output under the rule '{report.headline_rule}'. “Changed” counts the distinct "
        "texts that a run shares with the run before and predicts differently; “scored” the texts that went through "
        f"the model{'' if report.has_tasks else ', once for each prompt'}."
    )
    num_runs = max(2, min(NUM_RUNS, NUM_ROWS // len(report.manifest.prompts))) if report.has_tasks else NUM_RUNS
    if len(ids) > num_runs:
        words += f" The {len(ids) - num_runs:,} oldest are left out here; history.parquet has them."
    # How far texts repeated is not in the history; that of this run is the best guess for runs of the same output.
    shown = history.filter(pl.col("run_id").is_in(ids.tail(num_runs).implode()))
    runs = metrics.with_wilson(
        shown.with_columns(copies=pl.col("num_gold") * _widened(report)), "num_correct", "num_gold"
    )
    figures = _count_figures(runs, added=report.has_tasks)
    if report.draws_each:
        figures = [*_accuracy_figures(runs.filter(pl.col("num_gold") > 0), report), *figures]
    fields: list[Field] = [(report.unit, exact, "prompt") if field[0] == "prompt" else field for field in RUN_FIELDS]
    return Section("history", "Past runs", [Paragraph(words), Figures(figures), *_tables(runs, fields)])


def _tables(runs: pl.DataFrame, fields: list[Field]) -> list[Block]:
    """The table of all these runs; where it is long the last runs, and all of them folded."""
    table = make_table("Past runs of this output", runs, fields)
    ids = runs["run_id"].unique(maintain_order=True)
    num_recent = max(2, NUM_OPEN * len(ids) // runs.height)
    if len(ids) <= num_recent:
        return [table]
    recent = runs.filter(pl.col("run_id").is_in(ids.tail(num_recent).implode()))
    caption = f"The last {num_recent:,} runs of this output"
    folded = Folded(f"All {len(ids):,} runs", f"{runs.height:,} rows", [table], page_only=True)
    return [make_table(caption, recent, fields), folded]


def _widened(report: Report) -> pl.Expr | float:
    """By how much intervals are wider than those of as many different texts: for all prompts, or for each task."""
    if not report.repeats:
        return 1
    if not report.has_tasks:
        return report.num_gold / report.num_effective
    rows = report.headline.filter(pl.col("num_gold") > 0).select("prompt", pl.col("num_gold") / pl.col("num_effective"))
    return pl.col("prompt").replace_strict(*rows, default=1.0, return_dtype=pl.Float64)


def _accuracy_figures(runs: pl.DataFrame, report: Report) -> list[Figure]:
    """A chart per prompt on the same axis."""
    legend = "Points are runs, upright lines their 95 % intervals."
    if report.repeats:
        legend += " All are widened by as much as texts repeat in this run; of earlier ones that is not recorded."
    figures = []
    for i, ((prompt,), own) in enumerate(runs.group_by("prompt", maintain_order=True)):
        drawn = own.select("finished", "accuracy", "low", "high", n="num_gold")
        chart = history_chart(drawn, axis_around(runs["low"], runs["high"]))
        name = f"{report.unit} {prompt}"
        table = make_table(f"Accuracy of past runs, {name}", drawn, (FINISHED, *ACCURACY, ITEMS))
        title = f"Accuracy over past runs, {name}."
        figures.append(Figure(f"history-{i}", title, "", legend, chart, table, repeats=True))
    return figures


def _count_figures(runs: pl.DataFrame, *, added: bool) -> list[Figure]:
    """Items of each past run, which prompts share or tasks add up to, and the predictions that changed in all."""
    num_items = pl.col("num_items")
    by_run = runs.group_by("run_id", "finished", maintain_order=True).agg(
        items=num_items.sum() if added else num_items.max(),
        changed=pl.when(pl.col("num_changed").count() > 0).then(pl.col("num_changed").sum()),
    )
    figures = []
    for name, (title, sentence) in COUNTS.items():
        sentence = sentence.replace("prompt", "task") if added else sentence
        drawn = by_run.select("finished", n=name).drop_nulls()
        if drawn.height:
            table = make_table(title, by_run, (FINISHED, (name, count, name)))
            chart = counts_chart(drawn, name)
            figures.append(Figure(f"history-{name}", title, sentence, "", chart, table, repeats=True))
    return figures
