"""Python processes of our own that import the modules that this one imports, whatever lies in the current folder."""

import os
import sys

# Without -P `python -m` puts the current folder first, in which a user may have a folder `flows` or a `pipeline.py`.
PYTHON = (sys.executable, "-P", "-m")


def own_path() -> dict[str, str]:
    """The environment that has another Python look where this one looks, also beside a checkout or in a notebook."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
