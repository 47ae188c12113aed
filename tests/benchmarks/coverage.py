"""Whether the intervals that a report prints hold the truth as often as they say, and what it says of nothing.

Invariant: the shipped functions are asked, on data whose truth is known; what can be enumerated is not drawn, and what
is drawn is seeded.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.benchmarks.coverage_single import accuracies, differences, gaps, repeated_differences, single_intervals
from tests.benchmarks.coverage_together import calibration, commonest, families, words
from tests.benchmarks.results import RESULTS, command_line, write_section

TITLE = "Coverage of the intervals"
COMMAND = "python -m tests.benchmarks.coverage"


def sections(num_sets: int, num_families: int, num_words: int) -> Iterable[str]:
    yield accuracies(num_sets)
    yield differences()
    yield repeated_differences(num_sets)
    yield families(num_families)
    yield words(num_words)
    yield single_intervals()
    yield commonest(num_sets)
    yield calibration(num_families)
    yield gaps(num_sets)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=10_000, help="data sets drawn for each cell")
    parser.add_argument("--families", type=int, default=2_000, help="data sets drawn for each family of arms")
    parser.add_argument("--words", type=int, default=400, help="data sets drawn whose sentences are read")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    body = "\n\n".join(sections(options.sets, options.families, options.words))
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results)


if __name__ == "__main__":
    main()
