"""Charts: Vega-Lite specifications of aggregated tables, made with Altair.

Invariant: a chart holds a few hundred numbers at most, never one row per item, and every colour in it is a CSS
variable of the page, so that dark mode and print are the style sheet's business and nothing is drawn twice.
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import altair as alt
import polars as pl

Spec = dict[str, Any]

INK, MUTED, GRID, LINE, ACCENT, HEAT, SURFACE = (
    f"var(--{name})" for name in ("ink", "muted", "grid", "line", "accent", "heat", "surface")
)
ROW_HEIGHT = 26  # pixels
TALL_ROW = 38  # pixels of a row with a line of text over its bar
PERCENT = ".0%"
MAX_CHARS_IN_A_ROW = 32  # of label names side by side over a matrix on a phone
MAX_CELLS_WITH_TEXT = 12  # labels; beyond that a confusion matrix has no room for figures in its cells

# One for all charts of a page; the page's script hands it to Vega with each specification.
CONFIG: Spec = {
    "aria": False,  # the figure around a chart has its sentence and its table; Vega's own marks would be read twice
    "background": "transparent",
    "font": "system-ui, sans-serif",  # a real one: Vega measures texts to leave room for them
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 8,
        "gridColor": GRID,
    },
    "axisX": {"labelLimit": 90},
    "axisY": {"labelLimit": 110},
    "text": {"fontSize": 12, "fill": INK},
}


def _finish(layers: Sequence[alt.Chart], height: int) -> Spec:
    """The layers as one chart that fills its container's width; `height` in pixels, without axes."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    # Checking a chart against the schema takes longer than making it; the tests do it for each of them.
    spec: Spec = alt.layer(*layers).properties(width="container", height=height, autosize=fit).to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("config", "$schema")}


def _axis(field: str, title: str, **scale: Any) -> dict[str, Any]:
    """Arguments of alt.X or alt.Y for a share between 0 and 1, shown in per cent."""
    axis = alt.Axis(format=PERCENT, tickCount=5)
    return {"shorthand": f"{field}:Q", "title": title, "axis": axis, "scale": alt.Scale(**scale)}


def _tip(field: str, title: str | None = None, format: str = ".1%") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=title or field, format=format)


COUNT = _tip("n", "items", ",")
ACCURACY_TIPS = [_tip("accuracy"), _tip("low", "from"), _tip("high", "to"), COUNT]
FINISHED = alt.Tooltip("utcyearmonthdatehoursminutes(finished):T", title="finished (UTC)")


def _order(names: pl.Series) -> list[str]:
    return list(names.unique(maintain_order=True))


def axis_around(*shares: pl.Series | float) -> tuple[float, float]:
    """An axis from tenth to tenth around all of `shares`; charts side by side get the same one."""
    values = [v for s in shares for v in (s.drop_nulls() if isinstance(s, pl.Series) else [s])]
    return math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10


def accuracy_chart(rows: pl.DataFrame, domain: tuple[float, float], chance: float | None) -> Spec:
    """Points with their intervals, one row per name, and a dashed line at what they are held against, or ticks (None).

    `rows`: name, accuracy, low, high (shares), n, headline (bool), published (share or null, drawn as a diamond), and
    `chance` where it differs.
    """
    y = alt.Y("name:N", sort=_order(rows["name"]), title=None, axis=alt.Axis(grid=False))
    color = alt.condition("datum.headline", alt.value(ACCENT), alt.value(MUTED))

    def at(field: str) -> alt.X:
        return alt.X(**_axis(field, "accuracy", domain=list(domain), nice=False, clamp=True))

    base = alt.Chart(rows).encode(y=y, color=color, tooltip=["name:N", *ACCURACY_TIPS])
    if chance is None:
        guesses = alt.Chart(rows).mark_tick(stroke=MUTED, thickness=2).encode(y=y, x=at("chance"))
    else:
        line = alt.Chart(pl.DataFrame({"chance": [chance]})).mark_rule(stroke=MUTED, strokeDash=[2, 3])
        guesses = line.encode(x=at("chance"))
    layers = [
        guesses,
        base.mark_rule(strokeWidth=2).encode(x=at("low"), x2="high:Q"),
        base.mark_point(size=70, filled=True, opacity=1).encode(x=at("accuracy")),
    ]
    published = rows.filter(pl.col("published").is_not_null())
    if published.height:
        diamond = alt.Chart(published).mark_point(shape="diamond", size=90, stroke=INK, strokeWidth=1.5, filled=False)
        layers.append(diamond.encode(y=y, x=at("published"), tooltip=_tip("published")))
    return _finish(layers, ROW_HEIGHT * rows.height)


def confusion_chart(cells: pl.DataFrame) -> Spec:
    """Heat map of gold against predicted. `cells`: gold, predicted, n, share (of the gold class)."""
    labels = _order(cells["predicted"])
    # Names that do not fit side by side lean away from the right edge, under the matrix.
    fits = sum(len(label) for label in labels) <= MAX_CHARS_IN_A_ROW
    axis = alt.Axis(orient="top", labelAngle=0, grid=False) if fits else alt.Axis(labelAngle=-45, grid=False)
    base = alt.Chart(cells).encode(
        x=alt.X("predicted:N", sort=labels, title="predicted", axis=axis),
        y=alt.Y("gold:N", sort=labels, title="gold", axis=alt.Axis(grid=False)),
        tooltip=["gold:N", "predicted:N", COUNT, _tip("share", "of the gold class")],
    )
    opacity = alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
    layers = [base.mark_rect(fill=HEAT, stroke=SURFACE, strokeWidth=2).encode(fillOpacity=opacity)]
    if len(labels) <= MAX_CELLS_WITH_TEXT:
        layers.append(base.mark_text(fill=INK).encode(text=alt.Text("n:Q", format=",")))
    return _finish(layers, len(labels) * (40 if len(labels) <= MAX_CELLS_WITH_TEXT else 16))


def reliability_chart(bins: pl.DataFrame) -> Spec:
    """Accuracy by stated confidence, with the diagonal. `bins`: confidence, accuracy, low, high (shares), n."""
    x, y = _axis("confidence", "confidence", domain=[0, 1]), _axis("accuracy", "accuracy", domain=[0, 1])
    ends = pl.DataFrame({"confidence": [0.0, 1.0], "accuracy": [0.0, 1.0]})
    diagonal = alt.Chart(ends).mark_line(stroke=MUTED, strokeWidth=1, strokeDash=[2, 3])
    base = alt.Chart(bins).encode(x=alt.X(**x), tooltip=[_tip("confidence", "mean confidence"), *ACCURACY_TIPS])
    size = alt.Size("n:Q", scale=alt.Scale(range=[20, 180]), legend=None)
    layers = [
        diagonal.encode(x=alt.X(**x), y=alt.Y(**y)),
        base.mark_rule(stroke=ACCENT, strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, fill=ACCENT, opacity=1).encode(y=alt.Y(**y), size=size),
    ]
    return _finish(layers, 240)


def coverage_chart(curves: pl.DataFrame, prompt: str) -> Spec:
    """Accuracy of the most confident share of items; the other prompts stay in sight as thin grey lines.

    `curves`: prompt, coverage, accuracy (shares).
    """
    x = _axis("coverage", "share answered, most confident first", domain=[0, 1])
    at: dict[str, Any] = {"x": alt.X(**x), "y": alt.Y(**_axis("accuracy", "accuracy", zero=False))}
    # All curves in each chart: the same data in all, which a page then holds once.
    base = alt.Chart(curves)
    names = [name for name in _order(curves["prompt"]) if name != prompt]
    own = alt.FieldEqualPredicate(field="prompt", equal=prompt)
    others = base.transform_filter(alt.FieldOneOfPredicate(field="prompt", oneOf=names)).mark_line(
        stroke=MUTED, strokeWidth=1, opacity=0.5
    )
    line = base.transform_filter(own).mark_line(stroke=ACCENT, strokeWidth=2.5)
    tooltip = ["prompt:N", _tip("coverage"), _tip("accuracy")]
    own_line = line.encode(tooltip=tooltip, **at)
    return _finish([others.encode(detail="prompt:N", **at), own_line] if names else [own_line], 240)


def margin_chart(bins: pl.DataFrame) -> Spec:
    """How far ahead the winner was, by gold class, as strips: the darker, the more of the class; left of 0 is wrong.

    `bins`: gold, bin_low, bin_high (in the rule's units), n.
    """
    shares = bins.with_columns(share=pl.col("n") / pl.col("n").sum().over("gold"))
    y = alt.Y("gold:N", sort=_order(bins["gold"]), title=None, axis=alt.Axis(grid=False))
    x = alt.X("bin_low:Q", title="margin (below 0: wrong)", axis=alt.Axis(tickCount=6))
    tooltip = ["gold:N", _tip("bin_low", "from", ".2f"), _tip("bin_high", "to", ".2f"), COUNT, _tip("share")]
    opacity = alt.FillOpacity("share:Q", scale=alt.Scale(range=[0.06, 1]), legend=None)
    strip = alt.Chart(shares).mark_rect(fill=ACCENT).encode(x=x, x2="bin_high:Q", y=y, fillOpacity=opacity)
    zero = alt.Chart(pl.DataFrame({"bin_low": [0.0]})).mark_rule(stroke=INK).encode(x=x)
    return _finish([strip.encode(tooltip=tooltip), zero], ROW_HEIGHT * bins["gold"].n_unique())


def length_chart(groups: pl.DataFrame) -> Spec:
    """Accuracy by length of the prompt. `groups`: name, accuracy, low, high (shares), n."""
    x = alt.X("name:N", sort=_order(groups["name"]), title="tokens before the label", axis=alt.Axis(labelAngle=0))
    y = _axis("accuracy", "accuracy", zero=False)
    base = alt.Chart(groups).encode(x=x, tooltip=["name:N", *ACCURACY_TIPS])
    layers = [
        base.mark_rule(stroke=ACCENT, strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, fill=ACCENT, opacity=1, size=70).encode(y=alt.Y(**y)),
    ]
    return _finish(layers, 200)


def history_chart(runs: pl.DataFrame, domain: tuple[float, float]) -> Spec:
    """Accuracy of one prompt over past runs. `runs`: finished (UTC), accuracy, low, high (shares), n."""
    y = alt.Y(**_axis("accuracy", "accuracy", domain=list(domain)))
    base = alt.Chart(runs).encode(x=_time_axis(runs["finished"]), tooltip=[FINISHED, *ACCURACY_TIPS])
    layers = [
        base.mark_line(stroke=ACCENT, strokeWidth=1.5, opacity=0.6).encode(y=y),
        base.mark_rule(stroke=ACCENT).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, fill=ACCENT, opacity=1, size=50).encode(y=y),
    ]
    return _finish(layers, 160)


def counts_chart(runs: pl.DataFrame, title: str) -> Spec:
    """A count over past runs, from zero. `runs`: finished (UTC), n."""
    scale = alt.Scale(domain=[0, max(1, *runs["n"])])
    y = alt.Y("n:Q", title=title, axis=alt.Axis(format=",d", tickCount=4, tickMinStep=1), scale=scale)
    base = alt.Chart(runs).encode(x=_time_axis(runs["finished"]), y=y, tooltip=[FINISHED, COUNT])
    line = base.mark_line(stroke=ACCENT, strokeWidth=1.5, opacity=0.6)
    return _finish([line, base.mark_point(filled=True, fill=ACCENT, opacity=1, size=50)], 160)


def elimination_chart(bars: pl.DataFrame, ticks: pl.DataFrame, num_items: int) -> Spec:
    """A bar for each candidate of a choice under its name, and ticks where its rules went out.

    `bars`: name, n (items), standing (leads, in or out); `ticks`: name, out_after, rules. `num_items`: of the longest.
    """
    y = alt.Y("name:N", sort=_order(bars["name"]), axis=None)
    axis = alt.Axis(format=",d", tickCount=5, tickMinStep=1)
    scale = alt.Scale(domain=[0, num_items], nice=False)

    def at(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="items", axis=axis, scale=scale)

    colours = alt.Scale(domain=["leads", "in", "out"], range=[ACCENT, HEAT, LINE])
    fill = alt.Fill("standing:N", scale=colours, legend=None)
    base = alt.Chart(bars).encode(y=y)
    names = base.mark_text(align="left", baseline="middle", yOffset=-8, limit=280)
    shown = base.mark_bar(size=9, yOffset=8).encode(x=at("n"), fill=fill, tooltip=["name:N", COUNT, "standing:N"])
    tips = ["name:N", _tip("out_after", "out after items", ","), "rules:N"]
    marks = alt.Chart(ticks).mark_tick(stroke=INK, thickness=1.5, size=15, yOffset=8)
    out = [marks.encode(y=y, x=at("out_after"), tooltip=tips)] if ticks.height else []
    return _finish([shown, *out, names.encode(x=alt.value(0), text="name:N")], TALL_ROW * bars.height)


def _time_axis(finished: pl.Series) -> alt.X:
    span = pl.select(pl.lit(finished).max() - pl.lit(finished).min()).item()
    axis = alt.Axis(grid=False, tickCount=4, format="%Y-%m-%d" if span > timedelta(days=4) else "%m-%d %H:%M")
    return alt.X("finished:T", title="finished (UTC)", axis=axis, scale=alt.Scale(type="utc"))
