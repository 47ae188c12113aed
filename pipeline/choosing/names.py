"""Names as they are shown: those of candidates, which users give, and of arms.

Invariant: a shown name is one line without control characters, and no two candidates of a record are shown alike.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from pipeline.choosing.record import ArmRecord, ChoiceRecord

MAX_CHARS = 60  # of a name in a sentence or a cell; the table of candidates has it whole
CUT = " … "


def show_name(name: str, max_chars: int = MAX_CHARS) -> str:
    """A name on one line, what is not to be seen as the replacement character, its middle cut away where it is long.

    Names are told apart by their beginnings and by their ends: `answer, 4 shots, chat`. A wide letter counts as two.
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    if len(_fitting(shown, max_chars)) == len(shown):
        return shown
    num_last = (max_chars - len(CUT)) // 3
    last = _fitting(reversed(shown), num_last)[::-1]
    return _fitting(shown, max_chars - len(CUT) - num_last).rstrip() + CUT + last.lstrip()


def _fitting(letters: Iterable[str], room: int) -> str:
    """So many of the letters as there is room for."""
    taken = []
    for letter in letters:
        room -= 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1
        if room < 0:
            break
        taken.append(letter)
    return "".join(taken)


def show_candidates(record: ChoiceRecord, max_chars: int = MAX_CHARS) -> dict[str, str]:
    """What each candidate is shown as, by its name; where two would be shown alike their numbers, from 1, follow."""
    names = [candidate.name for candidate in record.candidates]
    shown = {name: show_name(name, max_chars) for name in names}
    times = Counter(shown.values())
    for number, name in enumerate(names, start=1):
        if times[shown[name]] > 1:
            suffix = f" (no. {number})"
            shown[name] = show_name(name, max_chars - len(suffix)) + suffix
    return shown


def show_arm(arm: ArmRecord, names: dict[str, str]) -> str:
    """Such as `'answer' under 'pmi'`; `names` are those of `show_candidates`."""
    return f"'{names[arm.candidate]}' under '{arm.rule}'"
