"""The elimination as a picture: a bar for each candidate, as long as the items that it was scored on.

Invariant: the sum of the bars is what the race cost; what is drawn stands in the figure's table, too.
"""

import polars as pl

from pipeline.choosing.names import show_candidates
from pipeline.choosing.record import ChoiceRecord
from pipeline.choosing.rows import arms_of, out_rows, ranked_candidates, standing_of
from pipeline.choosing.words import count_words
from pipeline.reporting.charts import elimination_chart
from pipeline.reporting.document import Figure, make_table
from pipeline.reporting.formats import count, exact, text

MAX_DRAWN = 30  # candidates; beyond that a picture is only a long one
MAX_NAME = 40  # characters of a name over its bar, which fit on a phone
LEGEND = (
    "A candidate is scored until all its rules are out. In colour the leader's, paler those that are in, grey those "
    "that are out; ticks: where rules went out."
)


def elimination_figure(record: ChoiceRecord) -> Figure | None:
    """How long each candidate was scored, the leader's first; None where nothing was."""
    if not record.num_looked_at:
        return None
    bars, ticks = bar_rows(record), tick_rows(record)
    shown = bars.head(MAX_DRAWN)
    drawn = ticks.filter(pl.col("name").is_in(shown["name"].implode()))
    chart = elimination_chart(shown.select("name", "n", "standing"), drawn, record.num_looked_at)
    title = "Items that each candidate was scored on"
    some = "" if shown.height == bars.height else f"; the first {shown.height:,} of {bars.height:,}"
    fields = (
        ("candidate", exact, "name"),
        ("items", count, "n"),
        ("rules in", text, "rules_in"),
        ("rules out, after items", text, "rules_out"),
    )
    table = make_table(f"{title}{some}", shown, fields)
    return Figure("items-scored", f"{title}{some}.", _sentence(record), LEGEND, chart, table)


def bar_rows(record: ChoiceRecord, max_chars: int = MAX_NAME) -> pl.DataFrame:
    """name, n (items), standing, and as words rules_in and rules_out: a row for each candidate."""
    names, arms = show_candidates(record, max_chars), arms_of(record)
    rows = [
        (
            names[each.name],
            each.num_items,
            standing_of(record, arms[each.name]),
            ", ".join(arm.rule for arm in arms[each.name] if arm.state != "out") or None,
            "; ".join(f"{row['out_after']:,}: {', '.join(row['rules'])}" for row in out_rows(arms[each.name])) or None,
        )
        for each in ranked_candidates(record)
    ]
    texts = dict.fromkeys(("standing", "rules_in", "rules_out"), pl.String)
    return pl.DataFrame(rows, {"name": pl.String, "n": pl.Int64, **texts}, orient="row")


def tick_rows(record: ChoiceRecord) -> pl.DataFrame:
    """name, out_after, rules: where rules of a candidate went out."""
    names = show_candidates(record, MAX_NAME)
    rows = [
        (names[name], row["out_after"], ", ".join(row["rules"]))
        for name, arms in arms_of(record).items()
        for row in out_rows(arms)
    ]
    return pl.DataFrame(rows, {"name": pl.String, "out_after": pl.Int64, "rules": pl.String}, orient="row")


def _sentence(record: ChoiceRecord) -> str:
    """How soon candidates were done with."""
    early = sorted(each.num_items for each in record.candidates if each.num_items < record.num_looked_at)
    items = count_words(record.num_looked_at, "item")
    if not early:
        return f"Every candidate was scored on the {items} that were looked at."
    whose = f"{len(early):,} of {len(record.candidates):,} candidates {'was' if len(early) == 1 else 'were'} done with"
    half = "" if len(early) < 3 else f", half of them after {early[(len(early) - 1) // 2]:,} or fewer"
    return f"{whose} before the last of {items}{half}."
