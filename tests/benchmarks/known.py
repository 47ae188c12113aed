"""How many of the tasks that lm-evaluation-harness knows go through `labelscore run --task`.

Those whose data lies in the shared folder, or that the hub gives (`--hub`), are loaded and their first requests are
built and read as a run reads them. Of the others the YAML file is checked: the harness' own constructor goes over it as
far as it goes without data (functions are imported, keys, splits, metrics and samplers looked up), its templates are
compiled, and the loader is asked what it refuses.

Invariant: each multiple-choice task of the harness' index has one outcome; what is refused, and by what words, is the
loader's own.
"""

import argparse
import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.benchmarks.inputs import shared_folder
from tests.benchmarks.results import RESULTS, command_line, table, write_section

TITLE = "How many of the harness' tasks go through"
COMMAND = "python -m tests.benchmarks.known"
BUILT, SOUND, REFUSED, PACKAGE, BROKEN = OUTCOMES = (
    "requests built",
    "YAML sound, data not at hand",
    "refused by name",
    "needs a package",
    "broken",
)
CHOICE = "multiple_choice"
TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
NUM_EXAMPLES = 3
CHECK = "; check its data and its YAML file"  # how the loader's lines end


class Verdict(NamedTuple):
    outcome: str
    reason: str = ""


class _NoData(Exception):
    """Where the harness' constructor would fetch a task's data."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", help="only tasks whose name matches this regular expression")
    parser.add_argument("--hub", action="store_true", help="fetch each task's data from the hub where it answers")
    parser.add_argument("--limit", type=int, default=20, help="documents of a task whose requests are built")
    parser.add_argument("--out", type=Path, help="a JSON file with the outcome of each task")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not options.hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    found = count(options.pattern, options.limit, hub=options.hub)
    if options.out is not None:
        text = json.dumps({name: verdict._asdict() for name, verdict in found.items()}, indent=1)
        options.out.write_text(text, encoding="utf-8")
    write_section(TITLE, command_line(COMMAND, parser, options), report(found), options.results)


def count(pattern: str | None, limit: int, *, hub: bool) -> dict[str, Verdict]:
    """The outcome of each multiple-choice task, in alphabetical order."""
    from lm_eval.tasks import TaskManager

    from pipeline.harness.quiet import harness_is_quiet

    with harness_is_quiet(), nullcontext() if hub else _no_metrics_from_hub(), _local_tasks() as (folder, local):
        index = TaskManager().task_index
        names = [
            name
            for name, entry in sorted(index.items())
            if (entry.cfg or {}).get("output_type") == CHOICE and re.search(pattern or "", name)
        ]
        found: dict[str, Verdict] = {}
        for name in names:
            verdict = check(name, index[name].yaml_path)
            if verdict.outcome == SOUND and (name in local or hub):
                verdict = build(name, folder if name in local else None, limit)
            found[name] = verdict
    return found


def _no_metrics_from_hub() -> AbstractContextManager[object]:
    """Take as given what tasks fetch from `evaluate`: of choices the harness makes its metrics without it."""
    import evaluate

    return patch.object(evaluate, "load", lambda *_, **__: SimpleNamespace(compute=None))


# What a YAML file says


def check(name: str, path: Path) -> Verdict:
    """The outcome of a task by its YAML file alone."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path, resolve_func=True)
        for key in ("tag", "group", "task_list"):  # as the harness' factory takes them out
            config.pop(key, None)
        check_words(config)
        check_metrics(config)
        task = without_data(config)
    except ModuleNotFoundError as error:
        return missing(error)
    except Exception as error:  # a task's own code may raise anything
        return Verdict(BROKEN, one_line(error))
    why = refusal(name, task)
    return Verdict(SOUND) if why is None else Verdict(REFUSED, why)


def missing(error: ModuleNotFoundError) -> Verdict:
    """A package that is not installed; else a module that the installed one no longer has."""
    package = (error.name or "").split(".")[0]
    if package and importlib.util.find_spec(package) is not None:
        return Verdict(BROKEN, one_line(error))
    quoted = re.search(r"`([\w.-]+)`", str(error))  # where a task's own code says what it needs
    return Verdict(PACKAGE, package or (quoted[1] if quoted else one_line(error)))


def without_data(config: dict[str, Any]) -> Any:
    """The task as the harness' own constructor leaves it just before it fetches the data."""
    from lm_eval.api.task import ConfigurableTask

    class Task(ConfigurableTask):
        def download(self, *_: object, **__: object) -> None:
            raise _NoData

    task = Task.__new__(Task)
    try:
        task.__init__(config=config)  # type: ignore[misc]
    except _NoData:
        return task
    raise ValueError("its constructor fetches no data")


def check_words(config: Mapping[str, Any]) -> None:
    """Raises what Jinja raises for a template that does not compile; ValueError for an unknown sampler and no split."""
    from lm_eval.api.samplers import SAMPLER_REGISTRY
    from lm_eval.utils import env

    shots = config.get("fewshot_config") or {}
    for source in (config, shots):
        for key in TEMPLATES:
            if isinstance(source.get(key), str):
                env.from_string(source[key])
    sampler = shots.get("sampler", "default")
    if isinstance(sampler, str) and sampler not in SAMPLER_REGISTRY:
        raise ValueError(f"no sampler is called {sampler}")
    if not any(config.get(key) for key in ("test_split", "validation_split")):
        raise ValueError("neither test_split nor validation_split")


def check_metrics(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a metric or an aggregation that the harness does not know.

    What comes from the hub or from the task's own code is its own.
    """
    from lm_eval.api import metrics  # noqa: F401 - fills the registries
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY

    for metric in config.get("metric_list") or ():
        name, aggregation = metric["metric"], metric.get("aggregation")
        is_own = callable(config.get("process_results")) or callable(name) or metric.get("hf_evaluate")
        if not is_own and name not in METRIC_REGISTRY:
            raise ValueError(f"the harness knows no metric {name}")
        if isinstance(aggregation, str) and aggregation not in AGGREGATION_REGISTRY:
            raise ValueError(f"the harness knows no aggregation {aggregation}")


def refusal(name: str, task: Any) -> str | None:
    """Why the loader does not take a task, without its name; None where it does."""
    from pipeline.errors import InputError
    from pipeline.harness import loading

    try:
        loading.refuse_unscorable(name, task)
    except InputError as error:
        return without_name(name, str(error))
    return None


# What the data says


@contextmanager
def _local_tasks() -> Iterator[tuple[Path, set[str]]]:
    """A folder with a YAML for each task of the harness whose data set lies in the shared folder, and their names."""
    from lm_eval.tasks import TaskManager

    data = shared_folder() / "data/tasks"
    with TemporaryDirectory() as folder:
        index = TaskManager().task_index
        files = {}  # (data set, its configuration) -> file
        for path in data.glob("*.jsonl"):
            own = data_set(index[path.stem].cfg) if path.stem in index else (None, None)
            if own[0] is not None:
                files[own] = path
        names = set()
        for name, entry in index.items():
            config = entry.cfg or {}
            if config.get("output_type") == CHOICE and data_set(config) in files:
                text = local_yaml(name, config, entry.yaml_path, files[data_set(config)], Path(folder) / "cache")
                (Path(folder) / f"{name.replace('/', '_')}.yaml").write_text(text, encoding="utf-8")
                names.add(name)
        yield Path(folder), names


def data_set(config: Mapping[str, Any] | None) -> tuple[Any, Any]:
    config = config or {}
    return config.get("dataset_path"), config.get("dataset_name")


def local_yaml(name: str, config: Mapping[str, Any], own: Path, file: Path, cache: Path) -> str:
    """The task's own YAML, but with the file as each of its splits."""
    splits = dict.fromkeys(config[key] for key in SPLITS if config.get(key))
    shots = config.get("fewshot_config") or {}
    if shots.get("split"):
        splits[shots["split"]] = None
    kwargs = {"data_files": {split: str(file) for split in splits}, "cache_dir": str(cache)}
    lines = {"include": str(own), "task": name, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())


def build(name: str, folder: Path | None, limit: int) -> Verdict:
    """The outcome of a task whose data is to be had: its first requests are built and read as a run reads them."""
    from pipeline.errors import InputError, LabelscoreError
    from pipeline.harness.tasks import Tasks

    try:
        tasks = Tasks([name], None if folder is None else str(folder), num_shots=None, seed=1234, limit=limit)
        tasks.build()
        num = sum(1 for _ in tasks.rows())
    except InputError as error:
        why = without_name(name, str(error))
        return Verdict(SOUND, f"its data: {why}") if "cannot be loaded" in why else Verdict(REFUSED, why)
    except LabelscoreError as error:  # the hub does not answer
        return Verdict(SOUND, f"its data: {without_name(name, str(error))}")
    return Verdict(BUILT, "" if num else "no document")


def one_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return re.sub(r" \(/[^)]*\)", "", f"{type(error).__name__}: {lines[0]}")[:200]  # without this machine's paths


def without_name(name: str, message: str) -> str:
    return message.replace(f"task '{name}'", "").removeprefix(": ").removesuffix(CHECK).strip()


# The section


def report(found: Mapping[str, Verdict]) -> str:
    """Counts by outcome, then by reason with examples."""
    import lm_eval

    num = Counter(verdict.outcome for verdict in found.values())
    through = num[BUILT] + num[SOUND]
    words = (
        f"lm-evaluation-harness {getattr(lm_eval, '__version__', '')} has {len(found):,} multiple-choice tasks in its "
        f"index. Of **{through:,}** nothing stands in the way, though only {num[BUILT]:,} have their data at hand. "
        f"{BUILT.capitalize()}: loaded by `labelscore run --task`'s own loader, from the shared folder or the hub. "
        "YAML sound: the harness' own constructor took it up to the data, its Python was imported, its templates "
        "compile, its metrics and samplers are known, and nothing in it is refused by the loader; what its data hold "
        "is not known."
    )
    counts = table(["outcome", "tasks"], [[outcome, f"{num[outcome]:,}"] for outcome in OUTCOMES])
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, verdict in found.items():
        if verdict.reason:
            reasons.setdefault((verdict.outcome, verdict.reason), []).append(name)
    rows = [
        [f"{outcome}: {reason.replace('|', ' ')}", f"{len(names):,}", ", ".join(f"`{n}`" for n in names[:NUM_EXAMPLES])]
        for (outcome, reason), names in sorted(reasons.items(), key=lambda each: -len(each[1]))
    ]
    tables = [words, counts] + ([table(["reason", "tasks", "such as"], rows)] if rows else [])
    return "\n\n".join(tables)


if __name__ == "__main__":
    main()
