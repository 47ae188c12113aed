"""Charts as Vega draws them, where a specification alone does not show it."""

import re
from datetime import datetime, timedelta

import polars as pl
import vl_convert

from pipeline.reporting.charts import Spec, counts_chart, elimination_chart


def drawn_texts(spec: Spec) -> list[str]:
    """Every text of a chart in a place 600 pixels wide."""
    wide = {key: value for key, value in spec.items() if key != "autosize"} | {"width": 600}
    return re.findall(r"<text[^>]*>([^<]*)<", vl_convert.vegalite_to_svg(wide))


def test_counts_along_an_axis_are_written_out() -> None:
    """Not as 2e+3, which is what Vega makes of 2,000 where a format says nothing of digits."""
    days = [datetime(2026, 1, 1) + timedelta(days=day) for day in range(3)]
    runs = pl.DataFrame({"finished": days, "n": [7_600, 3_800, 7_600]})
    assert {"0", "2,000", "4,000", "6,000"} <= set(drawn_texts(counts_chart(runs, "items")))
    bars = pl.DataFrame({"name": ["a", "b"], "n": [1_800, 50], "standing": ["leads", "out"]})
    ticks = pl.DataFrame({"name": ["b"], "out_after": [50], "rules": ["sum"]})
    texts = drawn_texts(elimination_chart(bars, ticks, 1_800))
    assert {"a", "b", "0", "500", "1,000", "1,500", "items"} == set(texts)
