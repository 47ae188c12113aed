"""Templates: text with slots in it, each named after the column whose value goes there.

`{question}` is a column, `{answers.text}` a key of a record, `{choices[0]}` an element of a list; a slot may go on with
`.before(X)`, `.after(X)` (the text up to, or behind, the first X) and `.strip()`. `{{` and `}}` are braces. What only
looks like a slot is text: LaTeX's arguments, and braces around anything but a name.

Invariant: a template that was made has nothing in it that can be read in two ways; values are put in as they are.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pipeline.errors import InputError
from pipeline.wording import check_text, show

TEXT = "text"
SLOT = f"{{{TEXT}}}"
CHOICE = "choice"  # in a prompt whose items bring their choices: the one that is written

_COLUMN = r"[^\W\d]\w*(?:\.\w+(?![\w(])|\[\d+\])*"
_CALL = r"\.(before|after|strip)\(([^(){}]*)\)"
_LATEX = r"\\\w+(?:\{(?!text\})[^{}]*\})+|[_^]\{(?!text\})[^{}]*\}"
_MARK = re.compile(rf"(?P<latex>{_LATEX})|(?P<brace>\{{\{{|\}}\}})|\{{(?P<column>{_COLUMN})(?P<calls>(?:{_CALL})*)\}}")
# A slot as other tools write it, or misspelt: { text }, ${text}, {text!r}.
_NEARLY = re.compile(
    r"\$\{+\s*[^\W\d][\w.\[\]]*\s*\}+|(?<!\{)\{(?:\s+[^\W\d][\w.\[\]]*\s*|[^\W\d][\w.\[\]]*\s+)\}(?!\})"
)
_NO_SLOT = re.compile(r"\{+\s*([^{}\n]+?)\s*\}+")
_NOUNS = "text|article|sentence|input|document|review|passage|content|headline|title|body|news|message|question"
_SLOT_LIKE = re.compile(
    rf"\$?\{{+[^{{}}\n]{{0,40}}\}}+|<\s*(?:{_NOUNS})\s*>|\[\s*(?:{_NOUNS})\s*\]|%\(\w+\)s|%s|\$(?:{_NOUNS})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A column, and what is done with its text before it is put in."""

    column: str
    calls: tuple[tuple[str, str], ...] = ()

    def read(self, text: str) -> str:
        """The text that goes into the slot."""
        for name, mark in self.calls:
            if name == "strip":
                text = text.strip()
            else:
                before, _, after = text.partition(mark)
                text = before if name == "before" else after
        return text

    def lacks(self, text: str) -> str | None:
        """The mark that `before` or `after` looks for and the text does not have."""
        return next((mark for _, mark in self.calls if mark and mark not in text), None)


@dataclass(frozen=True, slots=True)
class Template:
    """`pieces` stand before, between and after the `slots`: one more than there are slots.

    no_slots: what stands in braces as text, which can be read in two ways where there is such a column. has_escapes:
    braces were doubled.
    """

    pieces: tuple[str, ...]
    slots: tuple[Slot, ...]
    no_slots: tuple[str, ...] = ()
    has_escapes: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its slots, each once."""
        return tuple(dict.fromkeys(slot.column for slot in self.slots))

    def fill(self, values: Mapping[str, str], strip: bool = False) -> str:
        """The template with a value in each slot, put in as it is, or without white space around it."""
        written = [self.pieces[0]]
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            text = slot.read(values[slot.column])
            written += (text.strip() if strip else text, piece)
        return "".join(written)


def check_template(where: str, written: str) -> None:
    """Raises InputError for what can be read in two ways, and for a line break typed as two letters."""
    check_text(where, written)
    _refuse_two_ways(where, written)


@lru_cache(maxsize=1024)
def parse(written: str) -> Template:
    """The template that is written so."""
    pieces, slots, start = [""], list[Slot](), 0
    has_escapes = any(mark["brace"] == "{{" for mark in _MARK.finditer(written))
    for mark in _MARK.finditer(written):
        if mark["latex"] or (mark["brace"] and not has_escapes):
            continue
        pieces[-1] += written[start : mark.start()]
        start = mark.end()
        if mark["brace"]:
            pieces[-1] += mark["brace"][0]
        else:
            slots.append(Slot(mark["column"], tuple(re.findall(_CALL, mark["calls"]))))
            pieces.append("")
    pieces[-1] += written[start:]
    texts = [found[1] for found in _NO_SLOT.finditer(_MARK.sub(_hide_slot, written))]
    return Template(tuple(pieces), tuple(slots), tuple(texts), has_escapes)


def _hide_slot(mark: "re.Match[str]") -> str:
    return "\0" if mark["column"] else mark[0]


def _refuse_two_ways(where: str, written: str) -> None:
    for found in _around_slots(written):
        raise InputError(
            f"{where} has {show(found)}, which can be read in two ways; write {SLOT} or the name of another column in "
            "single braces, with blanks around it if other braces stand beside it"
        )
    rest = _MARK.sub("", written)
    if parse(written).has_escapes and (lone := re.search(r"[{}]", rest)):
        raise InputError(
            f"{where} has doubled braces, which are braces, and a single {lone[0]}, which can be read in two ways; "
            "double all of them"
        )
    for nearly in _NEARLY.findall(written):
        bare = nearly.strip("${ }\t\n")
        raise InputError(f"{where} has {show(nearly)}, which can be read in two ways; write {{{bare}}} for the column")
    for name, mark in (call for slot in parse(written).slots for call in slot.calls):
        if (name == "strip") is bool(mark):
            raise InputError(f"{where} has .{name}({mark}); write .before(X), .after(X) or .strip()")


def _around_slots(written: str) -> Iterator[str]:
    """Slots that other braces or a dollar sign touch; `{{text}}`, whatever the data has."""
    for mark in _MARK.finditer(written):
        if mark["column"]:
            begin, end = mark.span()
            while begin and written[begin - 1] in "{$":
                begin -= 1
            while written[end : end + 1] == "}":
                end += 1
            if (begin, end) != mark.span():
                yield written[begin:end]
    for mark in re.finditer(r"\{\{\s*text\s*\}\}?", written, re.IGNORECASE):
        yield mark[0]


def root_of(column: str) -> str:
    """The column that a way into it begins with."""
    return re.split(r"[.\[]", column)[0]


def seen_slot(written: str) -> str:
    """For a message: what in a template looks like a slot and is none, in brackets; else nothing."""
    like = [found for found in _SLOT_LIKE.findall(written) if found != SLOT]
    return f" (it has {show(like[0])})" if like else ""
