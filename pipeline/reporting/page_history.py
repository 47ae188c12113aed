"""Past runs of an output: charts and a table.

Invariant: at most NUM_RUNS runs are shown, so that years of nightly runs do not grow the page.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.reporting.charts import counts_chart, history_chart
from pipeline.reporting.metrics import with_wilson
from pipeline.reporting.page_figures import Figure, axis_around
from pipeline.reporting.page_tables import Columns, count, interval, make_table, moment, number, percent, text

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

NUM_RUNS = 60  # past runs shown; all of them are in history.parquet


def history_part(report: "Report") -> dict[str, Any] | None:
    """Past runs of this output under the rule that leads this report, whatever led theirs; None while only one has it.

    Another rule's accuracy on the same line would look like a change of the model or the data.
    """
    history = report.history.filter(pl.col("rule") == report.headline_rule)
    ids = history["run_id"].unique(maintain_order=True)
    if len(ids) < 2:
        return None
    runs = history.filter(pl.col("run_id").is_in(ids.tail(NUM_RUNS).implode()))
    columns: Columns = {
        "finished": ("finished (UTC)", moment),
        "prompt": ("prompt", text),
        "rule": ("rule", text),
        "num_items": ("items", count),
        "accuracy": ("accuracy", percent),
        "num_changed": ("changed", count),
        "num_scored": ("scored", count),
        "seconds": ("seconds", number),
    }
    # How far texts repeated is not in the history; that of this run is the best guess for runs of the same output.
    widened = report.num_gold / report.num_effective if report.repeats else 1
    with_gold = runs.filter(pl.col("num_gold") > 0).with_columns(copies=pl.col("num_gold") * widened)
    return {
        "num_left_out": max(0, len(ids) - NUM_RUNS),
        "figures": [*history_figures(with_gold, repeats=report.repeats), *count_figures(runs)],
        "table": make_table("Past runs of this output", runs, columns),
    }


def history_figures(runs: pl.DataFrame, *, repeats: bool) -> list[Figure]:
    """A chart per prompt on the same axis.

    `runs`: rows of history.parquet with gold labels, under one rule, and `copies` as `with_wilson` wants it.
    """
    sentence = "Points are runs, upright lines their 95 % intervals."
    if repeats:
        sentence += " All are widened by as much as texts repeat in this run; of earlier ones that is not recorded."
    rows = with_wilson(runs, "num_correct", "num_gold").rename({"num_gold": "n"}).with_columns(interval=interval())
    columns: Columns = {
        "finished": ("finished (UTC)", moment),
        "accuracy": ("accuracy", percent),
        "interval": ("95 % interval", text),
        "n": ("items", count),
    }
    return [
        Figure(
            f"history-{i}",
            f"Accuracy over past runs, prompt {prompt}.",
            sentence,
            history_chart(
                own.select("finished", "accuracy", "low", "high", "n"), axis_around(rows["low"], rows["high"])
            ),
            make_table(f"Accuracy of past runs, prompt {prompt}", own, columns),
        )
        for i, ((prompt,), own) in enumerate(rows.group_by("prompt", maintain_order=True))
    ]


def count_figures(runs: pl.DataFrame) -> list[Figure]:
    """Items of each past run, and the predictions that changed, all prompts together."""
    by_run = runs.group_by("run_id", "finished", maintain_order=True).agg(
        items=pl.col("num_items").max(),
        changed=pl.when(pl.col("num_changed").count() > 0).then(pl.col("num_changed").sum()),
    )
    told = {
        "items": ("Items of past runs.", "How many items each run covered."),
        "changed": (
            "Changed predictions.",
            "Distinct texts predicted differently than in the run before, counted for each prompt and added up.",
        ),
    }
    shown = {name: by_run.select("finished", n=name).drop_nulls() for name in told}
    return [
        Figure(
            f"history-{name}",
            title,
            sentence,
            counts_chart(shown[name], name),
            make_table(title, by_run, {"finished": ("finished (UTC)", moment), name: (name, count)}),
        )
        for name, (title, sentence) in told.items()
        if shown[name].height
    ]
