"""The section of RESULTS.md about the harness' tasks, made from measured cells.

Invariant: no figure is measured here; a cell whose log-likelihoods differ from the harness' shows that instead of a
ratio.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.harness_tasks import FIRST
from tests.benchmarks.results import command_line, number, table, write_section

TITLE = "The harness' tasks, CPU"
COMMAND = "python -m tests.benchmarks.tasks"
TOLERANCE = 1e-4  # nats
GOAL = 1.5  # times as fast as the harness, over the token ratio
FIRST_GOAL = 10.0  # times as fast as the harness, for MMLU with its own five shots
WAYS = ("inside", "own")


def keep(parser: argparse.ArgumentParser, options: argparse.Namespace, cells: Sequence[dict[str, Any]]) -> None:
    """Write the section."""
    body = [_words(options), table(_header(), [_row(cell) for cell in cells]), *_verdict(cells)]
    if profiled := [cell for cell in cells if "shares" in cell]:
        body += [_profile_words(), _profile_table(profiled)]
    sources = "; ".join(dict.fromkeys(cell["source"] for cell in cells))
    write_section(TITLE, command_line(COMMAND, parser, options), "\n\n".join(body), options.results, sources)


def _words(options: argparse.Namespace) -> str:
    sizes = ", ".join(map(str, options.batch_sizes))
    return (
        "From the harness' own requests, as strings, to log-likelihoods; its first items of each task, as many as it "
        f"forwards about {options.max_tokens:,} tokens for (at least four, at most {options.limit}). Shots `first 5`: "
        "the same five solved examples before all items, as MMLU is done, and all items; elsewhere the harness draws "
        f"them anew for each item. Harness: its HF backend, at the best of batch sizes {sizes} whose logits stay "
        "within 2 GiB. Inside: our model class, called by the harness. Own: what `labelscore run --task` does between "
        f"reading and writing. Times: median over {options.rounds} alternating rounds of the harness' seconds over "
        "ours. Token ratio: tokens that the harness forwards, padding included, over distinct trie nodes. Gain: times "
        f"over token ratio, goal {GOAL}; for MMLU's five shots the goal is {FIRST_GOAL:.0f} times. Figures count where "
        f"all log-likelihoods are within {TOLERANCE:g} nats of the harness'."
    )


def _header() -> list[str]:
    header = ["model", "task", "shots", "items", "harness, items/s", "inside, items/s", "own, items/s"]
    header += ["times inside", "times own", "token ratio", "forwarded / distinct", "gain inside", "gain own"]
    return [*header, "largest difference"]


def _row(cell: dict[str, Any]) -> list[object]:
    rates = {name: cell["items"] / statistics.median(seconds) for name, seconds in cell["seconds"].items()}
    row: list[object] = [cell["model"], cell["task"].removeprefix(FIRST), _shots(cell), cell["items"]]
    row += [f"{number(rates[cell['best']])} (batch {cell['best'].split()[-1]})", *(number(rates[way]) for way in WAYS)]
    row += [f"{times(cell, way):.1f}" if agrees(cell, way) else "scores differ" for way in WAYS]
    row += [f"{token_ratio(cell):.2f}", f"{cell['forwarded_tokens'] / cell['trie_tokens']:.3f}"]
    row += [f"{gain(cell, way):.2f}" if agrees(cell, way) else "-" for way in WAYS]
    return [*row, f"{max(cell['difference'].values()):.1e}"]


def _shots(cell: dict[str, Any]) -> str:
    return f"first {cell['shots']}" if cell["task"].startswith(FIRST) else str(cell["shots"])


def agrees(cell: dict[str, Any], way: str) -> bool:
    return bool(cell["difference"][way] <= TOLERANCE)


def times(cell: dict[str, Any], way: str) -> float:
    """How many times as fast as the harness at its best: the median over the rounds."""
    pairs = zip(cell["seconds"][cell["best"]], cell["seconds"][way], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def token_ratio(cell: dict[str, Any]) -> float:
    return float(cell["padded_tokens"] / cell["trie_tokens"])


def gain(cell: dict[str, Any], way: str) -> float:
    return times(cell, way) / token_ratio(cell)


def reaches(cell: dict[str, Any], way: str) -> bool:
    """Whether a way reaches the cell's goal, with scores that agree."""
    is_first = cell["task"].startswith(FIRST)
    found, goal = (times(cell, way), FIRST_GOAL) if is_first else (gain(cell, way), GOAL)
    return agrees(cell, way) and found >= goal


def _verdict(cells: Sequence[dict[str, Any]]) -> list[str]:
    """How many cells reach their goal, and which do not."""
    lines = []
    for way in WAYS:
        short = [
            f"{cell['model']} `{cell['task'].removeprefix(FIRST)}` {_shots(cell)}"
            for cell in cells
            if not reaches(cell, way)
        ]
        names = f"; short of it: {', '.join(short)}" if short else ""
        lines.append(f"{way.capitalize()}: {len(cells) - len(short)} of {len(cells)} rows reach their goal{names}.")
    return lines


def _profile_words() -> str:
    return (
        "Where our own path's time goes, in one thread, by the clock; the last two are shares of processor time under "
        "the profiler, over all stages. What the model does beside its matrix products is attention, normalisation and "
        "the like; the rest is scoring the logits, schedules and sums."
    )


def _profile_table(cells: Sequence[dict[str, Any]]) -> str:
    parts = list(cells[0]["shares"])
    rows = [
        [
            cell["model"],
            cell["task"].removeprefix(FIRST),
            _shots(cell),
            *(f"{cell['shares'][part]:.1%}" for part in parts),
        ]
        for cell in cells
    ]
    return table(["model", "task", "shots", *parts], rows)
