"""The section of RESULTS.md about a real model side by side, made from measured figures, and the command's options.

Invariant: no figure is measured here; ratios are taken within a round.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.prompts import BUILT_IN, Prompt
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "A real model side by side, CPU"
COMMAND = "python -m tests.benchmarks.real_model"
OURS, NOTEBOOK, HARNESS = "ours", "notebook", "harness "


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one prompt.

    rates: items a second of each contender, round by round. lacking: batch sizes of the harness that did not fit, and
    the bytes that they need. num_items: how many each contender took. shares: of the limit, round by round. executed:
    of the needed FLOPs those that were done. num_tokens: of an item with all that stands before it, on average.
    token_ratio: tokens of one row for each label over distinct trie tokens, harness_ratio: of the harness' rows.
    difference: the largest, in nats.
    """

    rates: Mapping[str, Sequence[float]]
    lacking: Mapping[int, int]
    num_items: Mapping[str, int]
    shares: Sequence[float]
    executed: float
    num_tokens: float
    token_ratio: float
    harness_ratio: float
    difference: float

    @property
    def best(self) -> str:
        """The harness at the batch size where it is fastest."""
        sizes = [name for name in self.rates if name.startswith(HARNESS)]
        return max(sizes, key=lambda name: statistics.median(self.rates[name]))

    def times(self, other: str) -> float:
        """How many times as fast as another contender we are: the median over the rounds."""
        pairs = zip(self.rates[OURS], self.rates[other], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="smollm2", help="what `labelscore run --model` takes")
    parser.add_argument("--prompts", nargs="+", default=["answer", "topic"], choices=list(BUILT_IN))
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 16, 32], help="of the harness")
    parser.add_argument("--items", type=int, default=128, help="first rows of the test split, which ours scores")
    parser.add_argument("--harness-items", type=int, default=8, help="of them, but no fewer than fill a batch")
    parser.add_argument("--notebook-items", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def keep(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    model: str,
    cells: Sequence[tuple[Prompt, int, Figures]],
) -> None:
    """Write the section: `model` says what was measured, `cells` are figures by prompt and number of shots."""
    header = ["prompt", "shots", "tokens an item", "notebook", *(f"harness, {size}" for size in options.batch_sizes)]
    header += ["ours", "times the notebook", "times the harness", "token ratio", "token ratio to the harness"]
    header += ["share of the limit", "by executed FLOPs", "largest difference"]
    rows = [_row(prompt, num_shots, figures, options.batch_sizes) for prompt, num_shots, figures in cells]
    body = [_words(options, model, [figures for _, _, figures in cells]), table(header, rows)]
    write_section(TITLE, command_line(COMMAND, parser, options), "\n\n".join(body), options.results)


def _words(options: argparse.Namespace, model: str, cells: Sequence[Figures]) -> str:
    harness = sorted({num for each in cells for name, num in each.num_items.items() if name.startswith(HARNESS)})
    return (
        f"{model}. Items a second, medians of {options.rounds} alternating rounds; ratios are medians of those within "
        f"a round, to the harness at its best batch size (in bold). Ours scores the first {options.items} test rows, "
        f"the notebook's loop {options.notebook_items} of them and the harness {' or '.join(map(str, harness))}, a "
        "whole batch at least: those closest to the mean length, so that no batch of the harness is padded, which "
        "sorts its rows by length. All start from texts, encoded alike. Shots: solved examples that our own draw takes "
        "from the bundled sample, the same before every item. Token ratio: tokens of one row per label over distinct "
        "trie tokens; to the harness: of its rows, as labels of one token share one. Share of the limit: needed FLOPs "
        "(2 x non-embedding parameters x distinct trie tokens + 2 x hidden x vocabulary x read positions) a second "
        "over the rate of this model's own matrix products, measured before and after each round of ours; by executed "
        "FLOPs: of the products that were done, which are fewer, as the last layer is done where its output is read. "
        "Largest difference: in nats, between our log-likelihoods and any contender's."
    )


def _row(prompt: Prompt, num_shots: int, figures: Figures, batch_sizes: Sequence[int]) -> list[object]:
    row: list[object] = [f"`{prompt.name}`", num_shots, f"{figures.num_tokens:.0f}", _rate(figures, NOTEBOOK)]
    row += [_of_harness(figures, size) for size in batch_sizes]
    row += [_rate(figures, OURS), f"{figures.times(NOTEBOOK):.1f}", f"{figures.times(figures.best):.1f}"]
    row += [f"{figures.token_ratio:.1f}", f"{figures.harness_ratio:.1f}"]
    share = statistics.median(figures.shares)
    return [*row, f"{share:.0%}", f"{share * figures.executed:.0%}", f"{figures.difference:.1e}"]


def _of_harness(figures: Figures, size: int) -> str:
    if size in figures.lacking:
        return f"not run: needs {figures.lacking[size] / 2**30:.0f} GiB"
    name = f"{HARNESS}{size}"
    return f"**{_rate(figures, name)}**" if name == figures.best else _rate(figures, name)


def _rate(figures: Figures, name: str) -> str:
    return number(statistics.median(figures.rates[name]))
