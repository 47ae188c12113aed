"""Where the owner of this environment lets outputs lie: LABELSCORE_OUTPUT_ROOTS, places with commas between them.

Invariant: links and `..` are followed before anything is compared, and names whole: /data/out does not hold
/data/outside, nor s3://bucket/a what lies in s3://bucket/ab. A place that could be read in two ways is outside.
"""

import os
from pathlib import Path

from pipeline.errors import InputError

ROOTS = "LABELSCORE_OUTPUT_ROOTS"
SAME_STORE = {"s3a": "s3", "gcs": "gs", "abfs": "az"}


def refuse_outside(location: str) -> None:
    """Raises InputError for an output that lies in none of the allowed places, where there are such."""
    typed = os.environ.get(ROOTS, "")
    if not typed.strip():
        return
    roots = [root.strip() for root in typed.split(",") if root.strip()]
    whole = _place(location)
    if not any(whole[: len(root)] == root for root in map(_root, roots) if root and whole):
        raise InputError(
            f"outputs may not lie in {location} here: {ROOTS} allows {', '.join(roots) or 'no place at all'}; "
            "name one there with --out"
        )


def _root(typed: str) -> tuple[str, ...]:
    if "://" not in typed and not Path(typed).expanduser().is_absolute():
        raise InputError(f"{ROOTS} has '{typed}', which is no whole path; begin it with / or with a URL's s3://")
    return _place(str(Path(typed).expanduser()) if "://" not in typed else typed)


def _place(location: str) -> tuple[str, ...]:
    """The parts of a path or URL, to be compared one by one; () where they cannot be."""
    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        try:
            return ("file", *Path(rest if separator else location).resolve().parts)
        except (OSError, RuntimeError, ValueError):  # a circle of links, or what is no path: whoever opens it says so
            return ()
    parts = rest.rstrip("/").split("/")
    # Some stores and their clients take `..` as it is, others go up; `::` and `?` mean something to fsspec.
    if {"", ".", ".."}.intersection(parts) or any(sign in rest for sign in ("::", "?", "#", "%", "\\")):
        return ()
    return (SAME_STORE.get(scheme, scheme), *parts)
