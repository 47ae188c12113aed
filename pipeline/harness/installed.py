"""Whether lm-evaluation-harness is there, which is an extra.

Invariant: nothing of it is imported here.
"""

from pipeline.errors import InputError
from pipeline.reading import packages


def is_installed() -> bool:
    """Whether its package can be found."""
    return packages.is_installed("lm_eval")


def need_harness() -> None:
    """Raises InputError where it is not installed."""
    if not is_installed():
        raise InputError("lm-evaluation-harness is not installed; get it with `pip install 'labelscore[harness]'`")
