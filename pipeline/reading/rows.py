"""One row of a data set: is its text a text, and which classes are its label?

Invariant: a row that passes has a text of valid Unicode with something to see in it, and labels of the classes or none.
"""

import hashlib
from typing import NamedTuple

from pipeline.reading.dataset import Row
from pipeline.reading.formats import Unreadable
from pipeline.reading.gold import Classes
from pipeline.reading.labels import printable
from pipeline.reading.text_files import encoding_hint

KINDS = {int: "a number", float: "a number", bool: "true or false", dict: "a record", list: "a list"}


class Item(NamedTuple):
    """A sound row as items.parquet keeps it; with several right classes they are in `gold_ids` alone."""

    item_id: int
    text: str
    gold_id: int | None
    gold: str | None
    text_hash: str
    gold_ids: list[int] | None


def check_row(row: Row, classes: Classes) -> Item | Unreadable:
    """The item that a sound row is; else what is wrong with it."""
    text = check_text(row.text)
    if isinstance(text, Unreadable):
        return text
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    gold = classes.positions(row.label)
    if isinstance(gold, str):
        return Unreadable(gold, text)
    ids = [classes.ids[position] for position in gold]
    if len(ids) > 1:
        return Item(row.position, text, None, None, text_hash, ids)
    gold_id, name = (ids[0], classes.names[gold[0]]) if ids else (None, None)
    return Item(row.position, text, gold_id, name, text_hash, None)


def check_text(text: object) -> str | Unreadable:
    """The text of a sound row; else what is wrong with it."""
    if isinstance(text, Unreadable):
        return Unreadable(text.reason, printable(text.raw))
    if text is None:
        return Unreadable("the text is null", "")
    if isinstance(text, bytes):
        return Unreadable("the text is not valid UTF-8", printable(text))
    if not isinstance(text, str):
        return Unreadable(f"the text is not a string but {KINDS.get(type(text), type(text).__name__)}", printable(text))
    if not text.strip():
        return Unreadable("the text is empty" if not text else "the text is only white space", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        what = encoding_hint(text) or "it holds bytes or surrogates of no character"
        return Unreadable(f"the text is not valid Unicode ({what})", printable(text))
    return text
