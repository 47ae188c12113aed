"""The progress bar of a notebook: a widget where it has any, else text; items a second and the time left.

Invariant: imported before transformers, which imports the same bar, so that nobody is warned that there are no widgets.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


@contextmanager
def progress_bar(total: int) -> Iterator[Any]:
    """A bar over `total` texts, whose `update` takes how many there are more; it goes when the block ends."""
    with tqdm(total=total, desc="scoring", unit=" items", leave=False, dynamic_ncols=True) as bar:
        yield bar
