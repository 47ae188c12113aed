"""Whether an optional package is there.

Invariant: nothing of it is imported.
"""

import importlib.util


def is_installed(package: str) -> bool:
    """Whether a package can be found by its name."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent that is missing, or a module that was put there by hand
        return False
