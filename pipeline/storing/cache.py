"""What is dear to make and always the same, kept in the user's cache folder.

Invariant: a cache decides on time alone. What is damaged there, or cannot be kept, is made again without a word.
"""

import gzip
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """The user's own, as the XDG base directories say. Raises RuntimeError where the user has none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "labelscore"


def cached_text(name: str, make: Callable[[], str]) -> str:
    """A text, not empty, that depends on nothing but its name: from the cache, or made now."""
    # A power cut may leave a renamed file empty, which gzip reads as no text at all; of any other its sum tells.
    with suppress(OSError, EOFError, zlib.error, ValueError, RuntimeError):
        if text := gzip.decompress(_path(name).read_bytes()).decode():
            return text
    from pipeline.storing.files import aside  # with pyarrow, for which no help should wait

    text = make()
    with suppress(OSError, RuntimeError), aside(_path(name)) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), 6, mtime=0))
    return text


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.gz"
