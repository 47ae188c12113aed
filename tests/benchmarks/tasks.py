"""Tasks of lm-evaluation-harness beside its own backend: our model class inside the harness, and our own path.

Invariant: one process, one model object, the harness' own requests; each way goes from their strings to
log-likelihoods, all are warm and take turns; a figure counts only where the log-likelihoods agree.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import harness_tasks
from tests.benchmarks.harness_tasks import FIRST, FIRST_SHOTS, TaskItem
from tests.benchmarks.harness_ways import OwnPath, Ways, counted, load, make_random, own_counts, row_sizes
from tests.benchmarks.measure import alternate, operator_shares, stage_shares
from tests.benchmarks.results import RESULTS, machine
from tests.benchmarks.tasks_report import keep

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

RANDOM = "random"
FINALISTS = 2  # batch sizes of the harness that take part in the rounds
# A batch of the harness holds the logits of all its tokens three times over.
MAX_LOGIT_BYTES = 2 * 2**30


def measure(ways: Ways, items: list[TaskItem], batch_sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Seconds of each round, what was forwarded, and how far the log-likelihoods are apart.

    One warm pass at each of the harness' batch sizes chooses the fastest for the rounds.
    """
    row_tokens = max(map(max, map(row_sizes, ways.own.encode(items))))
    vocabulary = ways.inside.model.config.vocab_size
    sizes = [size for size in batch_sizes if size * row_tokens * vocabulary * 4 <= MAX_LOGIT_BYTES] or [1]
    for warm_up in ways.of(items[:2], sizes[:1]).values():
        warm_up()
    runs = ways.of(items, sizes)
    found: dict[str, list[float]] = {}
    padded: dict[str, int] = {}

    def run(name: str) -> None:
        with counted(ways.hf) as count:
            found[name] = runs[name]()
        padded[name] = count["tokens"]

    first = alternate({name: lambda name=name: run(name) for name in runs}, 1, warm=False)
    chosen = sorted((f"harness {size}" for size in sizes), key=lambda name: first[name])[:FINALISTS]
    seconds = alternate({name: lambda name=name: run(name) for name in [*chosen, "inside", "own"]}, rounds, warm=False)
    best = min(chosen, key=lambda name: statistics.median(seconds[name]))
    counts = own_counts(ways.own, items)
    return {
        "items": len(items),
        "requests": len(found["own"]),
        "best": best,
        "first_pass": {name: each[0] for name, each in first.items()},
        "seconds": seconds,
        "padded_tokens": padded[best],
        "trie_tokens": counts.trie_tokens,
        "forwarded_tokens": counts.forwarded_tokens,
        "difference": {name: largest_difference(found[best], found[name]) for name in ("inside", "own")},
    }


def largest_difference(expected: Sequence[float], found: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(expected, found, strict=True))


def profile(own: OwnPath, items: Sequence[TaskItem]) -> dict[str, float]:
    """Where the own path's time goes in one thread: shares by stage, and of the largest operators."""
    from pipeline.scoring import plan
    from pipeline.scoring.forward import TreeForward
    from pipeline.scoring.tokens import Encoder

    stages = {
        "encoding": [(Encoder, "encode")],
        "finding what is shared": [
            (plan, "split_items"),
            (plan.InOrder, "__init__"),
            (plan, "count_distinct"),
            (plan, "make_trees"),
        ],
        "laying out": [(TreeForward, "lay_out")],
        "the model": [(TreeForward, "_forward")],
    }
    shares = stage_shares(stages, lambda: own.score(items))
    operators = operator_shares(lambda: own.score(items))
    products = sum(share for name, share in operators.items() if name in ("aten::mm", "aten::addmm", "aten::bmm"))
    attention = sum(share for name, share in operators.items() if "attention" in name)
    return {**shares, "of all: matrix products": products, "of all: attention": attention}


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: a model, a task, and how many solved examples stand before each item."""

    model: str
    task: str
    shots: int

    def __str__(self) -> str:
        return f"{self.model}, {self.task}, {self.shots} shots"


def cells(model: str, tasks: Sequence[str], shots: Sequence[int]) -> Iterator[Cell]:
    for task in tasks:
        for num in (FIRST_SHOTS,) if task.startswith(FIRST) else shots:
            yield Cell(model, task, num)


def choose_items(own: OwnPath, items: list[TaskItem], max_tokens: int) -> list[TaskItem]:
    """The first items of a task, as many as the harness forwards about so many tokens for."""
    return harness_tasks.first_within(items, [sum(row_sizes(each)) for each in own.encode(items)], max_tokens)


class Kept:
    """Finished cells in a JSON file, rewritten after each by one rename; without a path they are held only."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        known = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
        self.cells: dict[str, dict[str, Any]] = known

    def has(self, cell: Cell, profiled: bool) -> bool:
        """Whether it was measured with these settings."""
        found = self.cells.get(str(cell))
        return found is not None and found["settings"] == self._settings and (not profiled or "shares" in found)

    def add(self, cell: Cell, figures: dict[str, Any]) -> None:
        names = {"model": cell.model, "task": cell.task, "shots": cell.shots, "settings": self._settings}
        names["source"] = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}"
        self.cells[str(cell)] = {**names, **figures}
        if self._path is not None:
            aside = self._path.with_suffix(".tmp")
            aside.write_text(json.dumps(self.cells, indent=1), encoding="utf-8")
            aside.replace(self._path)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept = Kept(options.out, {key: getattr(options, key) for key in ("limit", "max_tokens", "rounds", "batch_sizes")})
    folders = dict(map(model_folder, options.model or [RANDOM]))
    wanted = [cell for name in folders for cell in cells(name, options.tasks, options.shots)]
    with ExitStack() as stack:
        manager = stack.enter_context(harness_tasks.open_tasks())
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, folder in folders.items():
            left = [cell for cell in wanted if cell.model == name and not kept.has(cell, options.profile)]
            ways = load(name, folder or make_random(aside / "random")) if left else None
            for cell in left:
                assert ways is not None
                kept.add(cell, measure_cell(cell, ways, manager, options))
    options.model = [RANDOM if folder is None else name for name, folder in folders.items()]
    keep(parser, options, [kept.cells[str(cell)] for cell in wanted])


def model_folder(given: str) -> tuple[str, Path | None]:
    """What a model is called in the table, and where it lies; the random one has to be made."""
    return ("random Gemma, 13.9 M", None) if given == RANDOM else (Path(given).resolve().name, Path(given))


def measure_cell(cell: Cell, ways: Ways, manager: "TaskManager", options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a row, printed as they come."""
    items = harness_tasks.build(manager, cell.task, cell.shots, options.limit)
    if not cell.task.startswith(FIRST):  # there what is gained depends on how many items have the same shots
        items = choose_items(ways.own, items, options.max_tokens)
    figures = measure(ways, items, options.batch_sizes, options.rounds)
    print(f"{cell}: {json.dumps(figures['seconds'])}", flush=True)
    if options.profile:
        figures["shares"] = profile(ways.own, items)
        print(f"{cell}: " + ", ".join(f"{name} {share:.1%}" for name, share in figures["shares"].items()), flush=True)
    return figures


def make_parser() -> argparse.ArgumentParser:
    known = harness_tasks.names()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=known, default=known, metavar="TASK", help=", ".join(known))
    parser.add_argument(
        "--model", action="extend", nargs="+", metavar="DIR", help=f"a folder, or {RANDOM} (the default); repeatable"
    )
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 3, 8])
    parser.add_argument("--limit", type=int, default=120, help="items of a task at most")
    parser.add_argument(
        "--max-tokens", type=int, default=12_000, help="fewer items where the harness would forward more tokens"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 16, 32], help="of the harness")
    parser.add_argument("--profile", action="store_true", help="also where our own path's time goes, in one thread")
    parser.add_argument("--out", type=Path, help="a JSON file; a cell that is in it is not measured again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
