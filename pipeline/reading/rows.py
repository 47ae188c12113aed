"""One row of a data set: is its text a text, and which classes are its label?

Invariant: a row that passes has a text of valid Unicode with something to see in it, and labels of the classes or none.
"""

import hashlib
from typing import NamedTuple

from pipeline.reading.gold import Classes
from pipeline.reading.labels import printable
from pipeline.reading.readers import Unreadable, encoding_hint


class Row(NamedTuple):
    """A sound row as items.parquet keeps it; with several right classes they are in `gold_ids` alone."""

    text: str
    gold_id: int | None
    gold: str | None
    text_hash: str
    gold_ids: list[int] | None


def check_row(text: object, label: object, classes: Classes) -> Row | Unreadable:
    """The sound row; else what is wrong with it."""
    found = check_text(text)
    if isinstance(found, Unreadable):
        return found
    text_hash = hashlib.sha256(found.encode()).hexdigest()
    gold = classes.positions(label)
    if isinstance(gold, str):
        return Unreadable(gold, found)
    ids = [classes.ids[position] for position in gold]
    if len(ids) > 1:
        return Row(found, None, None, text_hash, ids)
    return Row(found, ids[0] if ids else None, classes.names[gold[0]] if ids else None, text_hash, None)


def check_text(text: object) -> str | Unreadable:
    """The text of a sound row; else what is wrong with it."""
    if isinstance(text, Unreadable):
        return Unreadable(text.reason, printable(text.raw))
    if text is None:
        return Unreadable("the text is null", "")
    if isinstance(text, bytes):
        return Unreadable("the text is not valid UTF-8", printable(text))
    if not isinstance(text, str):
        return Unreadable(f"the text is not a string but {_kind(text)}", printable(text))
    if not text.strip():
        return Unreadable("the text is empty" if not text else "the text is only white space", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        what = encoding_hint(text) or "it holds bytes or surrogates of no character"
        return Unreadable(f"the text is not valid Unicode ({what})", printable(text))
    return text


def _kind(value: object) -> str:
    return {"int": "a number", "float": "a number", "bool": "true or false", "dict": "a record", "list": "a list"}.get(
        type(value).__name__, type(value).__name__
    )
