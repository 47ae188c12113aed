"""Requests of lm-evaluation-harness' tasks on the data of the shared folder, built by its own code.

Invariant: nothing of a task is written here. Prompts and words come from the YAML files of the shared folder, those of
5-shot MMLU from the harness' own, with the data file as the only change; contexts, shots and continuations are what
`Task.build_all_requests` makes of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.benchmarks.inputs import shared_folder

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED = 1234  # the harness' own default
# As MMLU does it: the same shots for all items, taken from the top of a split of their own.
FIRST_SHOTS = 5
FIRST = "first5_"
MMLU = ("mmlu_high_school_computer_science", "mmlu_elementary_mathematics")


@dataclass(frozen=True, slots=True, eq=False)
class TaskItem:
    """One document's requests, a context and a continuation for each choice, in the harness' order."""

    instances: tuple["Instance", ...]

    @property
    def values(self) -> dict[str, list[str]]:
        """The columns of an item of requests."""
        contexts, continuations = zip(*(instance.args for instance in self.instances), strict=True)
        return {"context": list(contexts), "continuation": list(continuations)}


def names() -> list[str]:
    """Every task of the shared folder that has a YAML, then those that are measured with MMLU's own five shots."""
    local = sorted(path.stem for path in (shared_folder() / "data/tasks/harness").glob("*.yaml"))
    return local + [FIRST + name for name in MMLU]


@contextmanager
def open_tasks() -> Iterator["TaskManager"]:
    """The harness' task manager over copies of the YAML files that name the data; the copies go when it is left."""
    from lm_eval.tasks import TaskManager

    with TemporaryDirectory() as folder:
        data, copies = shared_folder() / "data/tasks", Path(folder)
        for path in (data / "harness").glob("*.yaml"):
            text = path.read_text(encoding="utf-8").replace("num_fewshot: 0\n", "")
            (copies / path.name).write_text(_keep_aside(text.replace("__DATA__", str(data)), copies), encoding="utf-8")
        for name in MMLU:
            (copies / f"{FIRST}{name}.yaml").write_text(_first_shots(name, data, copies), encoding="utf-8")
        yield TaskManager(include_path=folder, include_defaults=False)


def _keep_aside(text: str, folder: Path) -> str:
    """What `datasets` makes of the file goes with the copies, too."""
    return text.replace("dataset_kwargs:\n", f"dataset_kwargs:\n  cache_dir: {folder / 'cache'}\n")


def _first_shots(name: str, data: Path, folder: Path) -> str:
    """The harness' own MMLU subject with the first rows of the local file as its split of shots, the rest as items."""
    import lm_eval.tasks

    rows = (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for split, part in (("dev", rows[:FIRST_SHOTS]), ("test", rows[FIRST_SHOTS:])):
        (folder / f"{name}-{split}.jsonl").write_text("".join(part), encoding="utf-8")
    own = Path(lm_eval.tasks.__file__).parent / "mmlu/default" / f"{name}.yaml"
    files = "".join(f"    {split}: {folder / f'{name}-{split}.jsonl'}\n" for split in ("dev", "test"))
    text = f"include: {own}\ntask: {FIRST}{name}\ndataset_path: json\ndataset_name: null\n"
    return text + _keep_aside(f"dataset_kwargs:\n  data_files:\n{files}", folder)


def build(manager: "TaskManager", name: str, shots: int, limit: int | None = None) -> list[TaskItem]:
    """A task's items with so many solved examples before each, the first `limit` of them."""
    from pipeline.harness.quiet import harness_is_quiet

    with harness_is_quiet():
        task = manager.load(name)["tasks"][name]
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(limit=limit)
    return [TaskItem(tuple(group)) for _, group in groupby(task.instances, key=lambda instance: instance.doc_id)]


def first_within(items: Sequence[TaskItem], sizes: Sequence[int], max_size: int, at_least: int = 4) -> list[TaskItem]:
    """As many of the first items as have sizes that together are within `max_size`, but no fewer than `at_least`."""
    fitting = sum(total <= max_size for total in accumulate(sizes))
    return list(items[: max(fitting, at_least)])
