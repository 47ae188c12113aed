"""Where strings may be cut, so that the encodings of their parts make up their own.

Byte-pair encoding is local: [a, b] followed by [c, d] is how a string is encoded if [a, b] and [c, d] are how its parts
are, and b and c stay apart, which is known where they are neighbours in the encoding of a string with both in it.

Invariant: a tokenizer counts as local only where all that it does before it merges is known to look no farther than
the next word.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

# A place where every tokenizer begins anew: a single blank between two visible characters. After punctuation a line
# break may belong to the token before it; a space does not.
LAST_BLANK = re.compile(r".*\S([ \n]\S.*)", re.DOTALL)
LAST_SPACE = re.compile(r".*\S( \S.*)", re.DOTALL)
LAST_LINE = re.compile(r".*\n(\S.*)", re.DOTALL)  # without the line break, which is no part of its first word
BLANK = re.compile(r"\S \S")
# The same before a letter or digit, which no normaliser joins with it.
BEFORE_WORD = re.compile(r"(?<=\S) (?=[^\W_])")

# What a tokenizer may do with a string before it merges: each looks at single characters, or at runs of one kind.
_STEPS = {
    "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt", "BertNormalizer", "Prepend", "Replace",
    "ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "BertPreTokenizer",
    "CharDelimiterSplit", "Sequence",
}  # fmt: skip
# In a pattern: a class, a letter that was escaped, or (the group) what looks behind, at a string's ends, or far ahead.
_FAR = re.compile(r"\[(?:\\.|[^\\\]])*\]|\\[^bBAzZGKXyY]|(\(\?<[=!]|\\.|[\^$.])", re.DOTALL)


def encodes_locally(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer is byte-pair encoding, in which a string's tokens do not depend on far ones."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    model = getattr(backend, "model", None)
    if type(model).__name__ != "BPE" or getattr(model, "dropout", None) is not None:
        return False
    return all(part is None or _is_local(part) for part in (backend.normalizer, backend.pre_tokenizer))


def _is_local(part: Any) -> bool:
    try:
        steps = list(_steps(json.loads(part.__getstate__())))
    except Exception:  # one that is written in Python cannot be looked into
        return False
    patterns = [step["pattern"] for step in steps if isinstance(step.get("pattern"), dict)]
    return all(step["type"] in _STEPS for step in steps) and not any(map(_looks_far, patterns))


def _steps(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield step
    for inner in (*step.get("normalizers", ()), *step.get("pretokenizers", ())):
        yield from _steps(inner)


def _looks_far(pattern: dict[str, str]) -> bool:
    """Whether a pattern (a regular expression, or a string as it stands) may hang on what lies beyond the next word."""
    has_far = any(found[1] for found in _FAR.finditer(pattern.get("Regex", "")))
    return has_far or any(BEFORE_WORD.search(written) for written in pattern.values())


def end_window(blank: re.Pattern[str], string: str) -> str:
    """The end of `string` from its last such place on; empty where there is none nearby."""
    match = blank.fullmatch(string[-256:])
    return match[1] if match else ""


def ends_with(ids: tuple[int, ...], tail: tuple[int, ...]) -> bool:
    """Whether the last ids are these."""
    return ids[len(ids) - len(tail) :] == tail and len(tail) <= len(ids)


def beginning_before(text: str, place: int) -> int:
    """The last place up to this one where a tokenizer begins anew: a blank, or without any where a run begins."""
    blank = place
    while blank > 0 and not BLANK.match(text, blank - 1):
        blank = text.rfind(" ", 0, blank)
    while blank <= 0 < place and text[place - 1] == text[place]:
        place -= 1
    return blank if blank > 0 else place
