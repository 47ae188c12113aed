"""lm-evaluation-harness' own command line, with this project's model class registered for it.

Invariant: the arguments are the harness' and are read by its own parser; nothing is changed in them but the model,
which is ours where the user names none.
"""

import io
import logging
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, Interrupted, LabelscoreError, RunError
from pipeline.harness.installed import need_harness
from pipeline.reading.foreign_code import refuse_foreign_code

if TYPE_CHECKING:
    from lm_eval._cli import HarnessCLI

# What the harness, datasets and transformers raise for names, files and values that a user got wrong.
_MISTAKES = (ValueError, LookupError, TypeError, OSError, ImportError)


def run_harness(arguments: Sequence[str]) -> int:
    """Run the harness on its arguments and return its exit code.

    Raises InputError for a mistake in them or in a task, or where it is not installed, RunError for a run that failed.
    """
    need_harness()
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from pipeline.harness.compiling import templates_are_compiled_once

    setup_logging()
    with _command_line(arguments):
        try:
            command = HarnessCLI()
            parsed = _parse(command)
            _refuse_foreign_code(parsed)
            _choose_model(parsed)
            with templates_are_compiled_once():
                command.execute(parsed)
        except SystemExit as ended:
            return _exit_code(ended)
        except LabelscoreError:
            raise
        except KeyboardInterrupt:
            raise Interrupted("stopped on request; with --use_cache FILE what was scored is kept") from None
        except Exception as error:
            logging.getLogger("lm_eval").debug("what failed", exc_info=True)
            raise _explain(error) from None
    return 0


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """The arguments where the harness looks for them."""
    before, sys.argv = sys.argv, ["lm-eval", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _parse(command: "HarnessCLI") -> Namespace:
    """What its parser makes of them. Raises InputError for a mistake, of which it prints the usage and a line."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed: Namespace = command.parse_args()
            return parsed
    except SystemExit as ended:
        if _exit_code(ended):
            problem = said.getvalue().strip().rpartition("error: ")[2]
            part = next((each for each in sys.argv[1:2] if each in ("run", "ls", "validate")), "")
            raise InputError(f"{problem} (see 'labelscore lm-eval {part} --help')".replace("  ", " ")) from None
        raise


def _refuse_foreign_code(parsed: Namespace) -> None:
    """Raises InputError for what would run code that is not installed, where that is forbidden."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    file = getattr(parsed, "config", None)
    said = (EvaluatorConfig.load_yaml_config(file) if file else {}) | {k: v for k, v in vars(parsed).items() if v}
    for name in ("include_path", "trust_remote_code", "confirm_run_unsafe_code"):
        if said.get(name):
            refuse_foreign_code(f"--{name}")
    if re.search(r"trust_remote_code\W+(?!(?:false|0)\b)", str(said.get("model_args")), re.IGNORECASE):
        refuse_foreign_code("model_args trust_remote_code")
    tasks = said.get("tasks") or []
    names = tasks.split(",") if isinstance(tasks, str) else [name for name in tasks if isinstance(name, str)]
    if re.search(r"[/\\]|\.ya?ml\b", str(tasks)) or any(Path(name.strip()).exists() for name in names if name.strip()):
        refuse_foreign_code("a task's own file")


def _choose_model(parsed: Namespace) -> None:
    """Put in our model where a run names none, on the command line or in its file, and have ours known."""
    if parsed.command != "run":
        return
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from pipeline.harness.arguments import NAME

    import_module("pipeline.harness.lm")  # it registers itself
    known = EvaluatorConfig.load_yaml_config(parsed.config) if parsed.config else {}
    parsed.model = parsed.model or known.get("model") or NAME


def _exit_code(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        raise InputError(ended.code)
    return int(ended.code or 0)


def _explain(error: Exception) -> LabelscoreError:
    """One line for what the harness gives a traceback for."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    kind = type(error).__name__
    said = " ".join(text.split())[:600] or kind
    if isinstance(error, ValueError | OSError):
        return InputError(said)
    if option := re.search(r"multiple values for keyword argument '(device|batch_size|max_batch_size)'", said):
        return InputError(f"{option[1]} is no part of model_args: give it as --{option[1]}")
    where = "LMEVAL_LOG_LEVEL=DEBUG shows where"
    if isinstance(error, _MISTAKES):
        return InputError(f"{kind}: {said} ({where})")
    return RunError(f"the harness failed with {kind}: {said} ({where})")
