"""Which tasks lm-evaluation-harness knows, its own and those of a folder.

Invariant: nothing of a task is loaded here but its name.
"""

import importlib.metadata
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from lm_eval.tasks import TaskManager

from pipeline.errors import InputError
from pipeline.harness.quiet import harness_is_quiet
from pipeline.reading.foreign_code import refuse_foreign_code


def version() -> str:
    """The installed harness' version."""
    return importlib.metadata.version("lm_eval")


def index_of(path: str | None) -> TaskManager:
    """The index of its tasks, and of those in a folder; takes some seconds where nobody asked before.

    Raises InputError where the folder is not there.
    """
    if path is None:
        return _index(None, ())
    refuse_foreign_code("task_path")  # `!function` in its files, and their templates, which are not sandboxed
    folder = Path(path).expanduser()
    if not folder.is_dir():
        there = "a file, and no folder" if folder.exists() else "no folder"
        raise InputError(f"task_path {path}: {there} is there; name the folder that holds the tasks' YAML files")
    return _index(folder.resolve(), tuple(sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*.yaml"))))


@lru_cache(maxsize=2)
def _index(folder: Path | None, _files: tuple[tuple[str, int], ...]) -> TaskManager:
    with harness_is_quiet():
        return TaskManager(include_path=folder, include_defaults=True)


def _without_commas(names: Sequence[str], manager: TaskManager) -> Iterator[str]:
    """The harness' own command line takes a list with commas."""
    for name in names:
        yield from [name] if name in manager.task_index else filter(None, map(str.strip, name.split(",")))


def find_tasks(names: Sequence[str], path: str | None) -> tuple[str, ...]:
    """The names of tasks, groups and tags that are meant, with patterns (mmlu_*) replaced by what they match.

    Raises InputError for one that the harness does not know.
    """
    manager = index_of(path)
    found: dict[str, None] = {}
    for name in _without_commas(names, manager):
        known = [name] if name in manager.task_index else manager.match_tasks([name])
        if not known:
            near = get_close_matches(name, manager.all_tasks, n=3)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise InputError(
                f"lm-evaluation-harness {version()} knows no task '{name}'{hint} (`labelscore lm-eval ls tasks` lists "
                "them; --task-path names a folder with others)"
            )
        found |= dict.fromkeys(known)
    return tuple(found)
