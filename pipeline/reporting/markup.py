"""Pieces of Markdown: escaped text, tables, figures.

Invariant: whatever a text, a label or a name holds, it stays text: no markup, no table cell and no terminal sequence of
it gets through.
"""

import math
import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    """`text` on one line, with everything that Markdown, HTML or a terminal would interpret made harmless."""
    flat = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is plain text already, and names are full of them.
    return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def code(text: object) -> str:
    """`text` as inline code: names, label words and templates, whose blanks matter."""
    flat = "".join(c if c.isprintable() else " " for c in str(text).replace("\n", "\\n"))
    # A backtick would end the code and a pipe the cell, whatever precedes it; show look-alikes.
    return "`" + flat.replace("`", "'").replace("|", "¦") + "`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table padded so that it also reads in a terminal; the first `left` columns are aligned left."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{100 * low:z.1f}, {100 * high:z.1f}]"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
