"""Whether an optional package is there.

Invariant: nothing of it is imported.
"""

import importlib.util
from importlib.machinery import ModuleSpec

GGUF_READERS = ("gguf", "accelerate")
INSTALL_GGUF_READERS = "pip install 'labelscore[gguf]'"


def find_package(name: str) -> ModuleSpec | None:
    """Where a package lies, None where there is none of that name."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent that is missing, or a module that was put there by hand
        return None


def is_installed(package: str) -> bool:
    """Whether a package can be found by its name."""
    return find_package(package) is not None
