"""Whether the owner of this environment lets models and tasks bring code of their own: LABELSCORE_ALLOW_REMOTE_CODE.

Invariant: what is not understood is an error and allows nothing.
"""

import os

from pipeline.errors import InputError

ALLOW = "LABELSCORE_ALLOW_REMOTE_CODE"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def refuse_foreign_code(what: str) -> None:
    """Raises InputError where code that is not installed here may not run; `what` would run it."""
    value = os.environ.get(ALLOW, "").strip().lower()
    if value in _NO:
        raise InputError(f"{what} runs code of its own, which {ALLOW}={value} forbids here; leave it out")
    if value and value not in _YES:
        raise InputError(f"{ALLOW} is neither 1 nor 0; set it to 0 to forbid code that is not installed, or unset it")
