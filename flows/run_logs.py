"""What the log of a run on Prefect's pages says of an error: one line where it has been understood.

Invariant: an error that nobody has understood keeps its traceback.
"""

import logging

from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from pipeline.errors import LabelscoreError, RunError

# Prefect's loggers of runs, of their steps, and of what is left to say where the process of a run ends.
RUNS, TASKS, ENGINE = "prefect.flow_runs", "prefect.task_runs", "prefect.engine"
CONFIGURATIONS = ("RunConfig", "ChoiceConfig")


class OneLine(logging.Filter):
    """Puts an understood error's line in place of its traceback the first time, and drops what repeats it."""

    def __init__(self) -> None:
        super().__init__()
        self._told: tuple[object, str] | None = None  # of which run, and what

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be shown, which may have been shortened."""
        error = record.exc_info[1] if record.exc_info else _among(record.args)
        if error is None or not _is_understood(error):
            return True
        run, words = getattr(record, "flow_run_id", None), str(error)
        if self._told is not None and self._told[1] == words and run in (None, self._told[0]):
            return False
        self._told = run, words
        record.msg, record.args, record.exc_info, record.exc_text = "%s", (RunError(str(error)),), None, None
        return True


def tell_errors_in_one_line() -> None:
    """Have the loggers of this process's runs do so; once is enough."""
    for name in (RUNS, TASKS, ENGINE):
        logger = logging.getLogger(name)
        if not any(isinstance(known, OneLine) for known in logger.filters):
            logger.addFilter(_ONE_LINE)


def _is_understood(error: BaseException) -> bool:
    is_of_form = isinstance(error, ValidationError) and error.title in CONFIGURATIONS
    return is_of_form or isinstance(error, LabelscoreError | ParameterTypeError)


def _among(values: object) -> BaseException | None:
    found = values if isinstance(values, tuple) else ()
    return next((value for value in found if isinstance(value, BaseException)), None)


_ONE_LINE = OneLine()  # one for all loggers: a step's error is told again by its run
