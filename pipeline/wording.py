"""How templates and label words are written: what can only be a mistake is refused, what seldom is meant is told.

Invariant: takes strings and gives words about them; nothing is changed, so that what passes is scored as written.
"""

import re
import unicodedata
from collections.abc import Sequence

from pipeline.errors import InputError

MAX_SIZE = 2**15 - 1  # the score table keeps a label's id and its words' tokens and bytes as int16


def show(text: str, limit: int = 60) -> str:
    """Words in quotes, for a message: blanks and line breaks can be seen, and what is long is cut."""
    return repr(clip(text, limit))


def clip(text: str, limit: int = 60) -> str:
    """The text, its end cut away where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def num_chars(value: object) -> int:
    """Characters of a text, or of all texts in a list, tuple or record; bytes count, too, other values do not."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(num_chars, value)) if isinstance(value, list | tuple) else 0


# Templates

# What LaTeX begins with a backslash and one of these letters is no line break.
_LATEX = "nabla ne neq neg ni nleq ngeq not notin nu tan tanh tau text textbf textit tfrac theta tilde times to top"
_TYPED_BREAK = re.compile(rf"\\(?!(?:{_LATEX.replace(' ', '|')})(?![A-Za-z]))([nt])")


def check_text(whose: str, text: str) -> None:
    """Raises InputError for a line break typed as a backslash and a letter, and for half a character."""
    if typed := _TYPED_BREAK.search(text):
        meaning = {"n": "a line break", "t": "a tab"}[typed[1]]
        raise InputError(
            f"{whose} has a backslash and the letter {typed[1]} in it, as typed; write the string in double quotes, "
            f"where {typed[0]} is {meaning}"
        )
    check_unicode(whose, text)


def check_unicode(whose: str, text: str) -> None:
    """Refuse half a character (a lone surrogate): no tokenizer and no table takes it. Raises InputError."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{whose} has half a character in it, which is not valid Unicode; write it anew")


# Label words


def check_distinct(where: str, what: str, values: Sequence[str]) -> None:
    """Raises InputError where a value is empty or there twice."""
    seen: set[str] = set()
    for position, value in enumerate(values):
        if not value.strip():
            raise InputError(f"{where}: the {what} of label {position} is empty; give each label some text")
        if value in seen:
            raise InputError(f"{where}: two labels have the same {what} {show(value)}; each label needs its own")
        seen.add(value)


def check_words(where: str, labels: Sequence[tuple[str, str]]) -> None:
    """Raises InputError for words, given with their class's name, that cannot be kept or told apart."""
    looks: dict[str, str] = {}
    for position, (name, words) in enumerate(labels):
        whose = f"{where}: label {position} ({show(name)})"
        check_text(whose, words)
        if "{text}" in words:
            raise InputError(
                f"{whose} has {{text}} in its words, and only the template is filled in; write plain words"
            )
        if (num_bytes := len(words.encode())) > MAX_SIZE:
            raise InputError(
                f"{whose} has words of {num_bytes:,} bytes, at most {MAX_SIZE:,} can be kept; shorten them"
            )
        look = unicodedata.normalize("NFC", words).strip()
        if look in looks:
            raise InputError(
                f"{where}: two labels have words that look the same, {show(looks[look])} and {show(words)}; each label "
                "needs its own"
            )
        looks[look] = words
    _check_ends(where, [words for _, words in labels])


def _check_ends(where: str, words: list[str]) -> None:
    """White space at the end is scored, too: where only some words have it, it weighs on their labels alone."""
    ended, bare = ([each for each in words if each[-1].isspace() is ends] for ends in (True, False))
    if ended and bare:
        raise InputError(
            f"{where}: the label words {show(ended[0])} end in white space, which is scored, and {show(bare[0])} do "
            "not; take it away"
        )


# The seam between them

# The other scripts without blanks between words are those of wide letters.
_NO_BLANKS = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def find_glued(tail: str, words: Sequence[str]) -> str | None:
    """The first label words that lack a blank between them and the template, which ends in `tail`."""
    if not _wants_blank(tail[-1:]):
        return None
    return next((each for each in words if each[0].isalnum() and not _does_without_blanks(each[0])), None)


def _wants_blank(last: str) -> bool:
    """Whether words after this character have a blank before them; an empty string stands for a text's end."""
    if not last:
        return True
    opens = unicodedata.category(last) in ("Ps", "Pi") or last in "\"'`"
    return not (last.isspace() or opens or _does_without_blanks(last))


def _does_without_blanks(character: str) -> bool:
    script = unicodedata.name(character, "").partition(" ")[0]
    wide = unicodedata.east_asian_width(character) in ("W", "F") or script == "HALFWIDTH"
    return script in _NO_BLANKS or (wide and script != "HANGUL")


def with_split(name: str, split: str) -> str:
    """A source as a person reads it: a data set with its split; tasks have their own and are told without one."""
    return f"{name} ({split})" if split else name
