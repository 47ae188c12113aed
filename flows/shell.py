"""What a shell asks of the command: its version, and the script that completes a line.

Invariant: neither imports what a run needs.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from cyclopts import App

Shell = Literal["bash", "zsh", "fish"]
LIBRARIES = ("torch", "transformers", "prefect", "ray")  # what a report of a fault has to name


def version_line() -> str:
    """Such as `labelscore 0.1.0 (Python 3.11.7, torch 2.13.0, ...)`; what is not installed is left out."""
    found = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"labelscore {version('labelscore')} ({', '.join(found)})"


def completion_script(app: App, shell: Shell) -> str:
    """The script that completes commands and options; in bash what is neither is completed as a file."""
    script = app.generate_completion(shell=shell)
    return script.replace("complete -F", "complete -o bashdefault -o default -F") if shell == "bash" else script
