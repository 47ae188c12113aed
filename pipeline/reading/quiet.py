"""transformers without its own words on the screen.

Invariant: what it was set to say before is set again afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and load reports off the screen; what matters of them becomes one line."""
    from transformers.utils import logging as untyped

    logging: Any = untyped

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
