"""Tables of the page: a frame's columns under readable titles, every value as the text a reader sees.

Invariant: a table holds plain strings; escaping is left to the template, which escapes everything.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

Format = Callable[[Any], str]
Columns = dict[str, tuple[str, Format]]
"""Of a frame: its column, the title shown, and how its values become text."""
NONE = "\N{EN DASH}"
THIN = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are as long as `columns`; the first column names its row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def text(value: object) -> str:
    return NONE if value is None else str(value)


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}{THIN}%"


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Two decimals, with the minus sign that lines up."""
    return NONE if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def fraction(value: float | None) -> str:
    """Three decimals: F1, ECE and the like, which are no shares of items."""
    return NONE if value is None else f"{value:.3f}"


def points(share: float | None) -> str:
    """A difference of shares in points of per cent, signed."""
    return NONE if share is None else f"{100 * share:+z.1f}".replace("-", "\N{MINUS SIGN}")


def spread(share: float | None) -> str:
    """A standard error of shares in points of per cent; nothing where one item leaves it open."""
    return NONE if share is None or math.isnan(share) else f"{100 * share:.1f}"


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def moment(value: datetime | None) -> str:
    return NONE if value is None else value.strftime("%Y-%m-%d\N{NO-BREAK SPACE}%H:%M")


def make_table(caption: str, frame: pl.DataFrame, columns: Columns) -> Table:
    """The named columns of `frame` in their order; a column is set as numbers unless they are texts or times."""
    formats = [show for _, show in columns.values()]
    return Table(
        caption,
        tuple(Column(title, show not in (text, moment)) for title, show in columns.values()),
        tuple(
            tuple(show(value) for show, value in zip(formats, row, strict=True))
            for row in frame.select(columns.keys()).iter_rows()
        ),
    )


def interval(low: str = "low", high: str = "high") -> pl.Expr:
    """Both ends of an interval of shares as one text in per cent; null where an end is."""
    ends = [pl.col(end).map_elements(lambda share: f"{100 * share:.1f}", return_dtype=pl.String) for end in (low, high)]
    return pl.concat_str(ends[0], pl.lit("\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"), ends[1], pl.lit(f"{THIN}%"))
