"""What went wrong, in one line a person can act on.

Invariant: the message of every error here is one line that says what, where and what to do; the command line
prints it without a traceback and exits with `exit_code`.
"""


class LabelscoreError(Exception):
    """A failure that has been understood; `str(error)` is the one line shown to the user."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Texts of users (paths, column names, excerpts) end up in messages: keep them on one line and harmless.
        super().__init__("".join(c if c.isprintable() else " " for c in " ".join(message.split())))


class InputError(LabelscoreError):
    """A mistake in what the user typed or supplied: options, configuration, files, texts, labels, prompts."""

    exit_code = 2


class RunError(LabelscoreError):
    """A run that started well and could not go on: no network, disk full, a model that yields NaN."""


class NotFinite(RunError):
    """A model gave NaN or infinity for the probe that it is checked with, before any text was scored."""


class Interrupted(LabelscoreError):
    """Stopped on request (Ctrl-C or SIGTERM) after a batch; everything scored so far is kept."""
