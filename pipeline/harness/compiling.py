"""The harness' templates compiled once each, where it compiles them anew for every document and solved example.

Invariant: what a template writes is what it would write otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import lm_eval.utils

_compile_once = lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)


@contextmanager
def templates_are_compiled_once() -> Iterator[None]:
    """Let the harness find in the block what it has compiled: nine tenths of the time in which it writes requests."""
    before, lm_eval.utils.env.from_string = lm_eval.utils.env.from_string, _compile_once
    try:
        yield
    finally:
        lm_eval.utils.env.from_string = before
