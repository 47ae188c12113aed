"""The harness without its log lines and bars, which are meant for its own command line.

Invariant: errors are raised as before.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import lm_eval.api.task


@contextmanager
def harness_is_quiet() -> Iterator[None]:
    """Say nothing while the block runs; what matters to a person is remarked elsewhere."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bar, had_bars = lm_eval.api.task.tqdm, not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    lm_eval.api.task.tqdm = _no_bar
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()


def _no_bar(documents: Any, **_: Any) -> Any:
    return documents
