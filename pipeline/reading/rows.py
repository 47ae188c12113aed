"""One row of a data set: is its text a text, and which class is its label?

Invariant: a row that passes has a text of valid Unicode with something to see in it, and a label of the set or none.
"""

import hashlib

from pipeline.reading.readers import Unreadable


def check_row(
    text: object, label: object, label_names: tuple[str, ...], gold_ids: dict[str, int]
) -> tuple[str, int | None, str | None, str] | Unreadable:
    """Text, gold id, gold name and text hash of a sound row; else what is wrong with it."""
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
        text_hash = hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        return Unreadable(
            "the text is not valid Unicode (it holds bytes or surrogates of no character)", printable(text)
        )
    gold_id = _gold_id(label, len(label_names), gold_ids)
    if isinstance(gold_id, str):
        return Unreadable(gold_id, text)
    return text, gold_id, None if gold_id is None else label_names[gold_id], text_hash


def _gold_id(label: object, num_labels: int, gold_ids: dict[str, int]) -> int | str | None:
    """The class id of a label given as id or name, None where there is none; a string says what is wrong."""
    if label is None or label == "" or label != label:  # NaN is how tables of floats say null
        return None
    if isinstance(label, str):
        if label in gold_ids:
            return gold_ids[label]
        # str.isdecimal alone would take digits of other scripts.
        number = int(label) if label.isascii() and label.isdecimal() and len(label) < 10 else -1
    else:
        number = int(label) if isinstance(label, int | float) and label == label // 1 else -1
    if 0 <= number < num_labels:
        return number
    known = ", ".join(f"{i} {name}" for name, i in list(gold_ids.items())[:20])
    return f"the label {printable(label)[:60]!r} is not one of {known}"


def _kind(value: object) -> str:
    return {"int": "a number", "float": "a number", "bool": "true or false", "dict": "a record", "list": "a list"}.get(
        type(value).__name__, type(value).__name__
    )


def printable(value: object) -> str:
    """A value as text that can be stored: what is not valid Unicode becomes question marks."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value).encode(errors="replace").decode()
