"""How values become text, on the page, in report.md and in `labelscore compare` alike.

Invariant: plain text without markup; a value that does not exist is a dash. Blanks and minus signs are those of good
print, which a renderer may make plainer.
"""

import math
import re
from datetime import datetime

NONE = "\N{EN DASH}"
THIN = "\N{NARROW NO-BREAK SPACE}"
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x0d\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: object) -> str:
    return NONE if value is None else str(value)


def exact(value: object) -> str:
    """As `text`, of what a reader may have to type: names, templates and label words, where each blank counts."""
    return text(value)


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def count_of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f}{THIN}%"


def short_percent(share: float | None) -> str:
    """One decimal only where it says something: 68 %, 32.5 %."""
    return percent(share).replace(".0", "")


def fine_percent(share: float | None) -> str:
    return percent(share, 2)


def tiny_percent(share: float | None) -> str:
    """Two digits that say something, however small: 12 %, 0.034 %, 2.1e-09 %."""
    if not share:
        return percent(share)
    return percent(share, 0) if share >= 0.1 else f"{100 * share:.2g}{THIN}%"


def up_to(mean: float | None, high: float | None) -> str:
    """A figure of chance: its mean, and what it stays under 95 times in 100."""
    return NONE if mean is None or high is None else f"{mean:.3f} (up to {high:.3f})"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval of shares."""
    return NONE if low is None or high is None else f"{100 * low:z.1f} to {100 * high:z.1f}{THIN}%"


def points(share: float | None) -> str:
    """A difference of shares in points of per cent, signed."""
    return NONE if share is None else _minus(f"{100 * share:+z.1f}")


def num_points(share: float) -> str:
    """A difference of shares in words: `2.3 points`."""
    figure = _minus(_shown_sign(100 * share))
    return f"{figure} point{'' if figure == '1.0' else 's'}"


def points_ends(low: float, high: float) -> str:
    """Both ends of an interval of a difference, without a unit."""
    return f"{_minus(_shown_sign(100 * low))} to {_minus(_shown_sign(100 * high))}"


def points_interval(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else points_ends(low, high)


def _shown_sign(points: float) -> str:
    """One decimal, or as many as show on which side of 0 it is: an interval that excludes 0 must not print one."""
    figure = f"{points:z.1f}"
    if float(figure) or abs(points) < 1e-12:
        return figure
    return f"{points:.{-math.floor(math.log10(abs(points)))}f}"


def number(value: float | None) -> str:
    """Two decimals: scores, margins, seconds."""
    return NONE if value is None else _minus(f"{value:.2f}")


def fraction(value: float | None) -> str:
    """Three decimals: F1, ECE and the like, which are no shares of items."""
    return NONE if value is None else f"{value:.3f}"


def four(value: float | None) -> str:
    """Four decimals, as lm-evaluation-harness prints its metrics."""
    return NONE if value is None else _minus(f"{value:.4f}")


def yes_no(value: bool | None) -> str:
    return NONE if value is None else "yes" if value else "no"


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def moment(value: datetime | None) -> str:
    return NONE if value is None else value.strftime("%Y-%m-%d\N{NO-BREAK SPACE}%H:%M")


def parameters(num_parameters: int) -> str:
    """The size of a model: `258,368 parameters`, `2.51 billion parameters`."""
    for name, unit in (("billion", 10**9), ("million", 10**6)):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.2f} {name} parameters"
    return f"{num_parameters:,} parameters"


def excerpt(words: str, max_chars: int, from_end: bool = False) -> str:
    """The beginning of a text that is longer, or its end."""
    if from_end and len(words) > max_chars:
        return f"… {words[-max_chars:]}"
    return words if len(words) <= max_chars else f"{words[:max_chars]} …"


def visible(words: str) -> str:
    """A text with each control character or lone surrogate, which HTML forbids, as the replacement character."""
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", words)


def _minus(figure: str) -> str:
    return figure.replace("-", "\N{MINUS SIGN}")
