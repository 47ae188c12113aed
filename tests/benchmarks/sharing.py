"""What items share forwarded once, beside the same scorer that shares nothing but the head of all items.

Invariant: the same items, model and batches; rounds of the two alternate, so that a noisy machine is noisy for both.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from pipeline.scoring import sharing
from pipeline.scoring.counts import Counts
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.benchmarks import inputs
from tests.benchmarks.measure import alternate, median_ratio
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section
from tests.pipeline.scoring.shapes import SHAPES

TITLE = "What items share, CPU"
COMMAND = "python -m tests.benchmarks.sharing"
VOCABULARY = 4_000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    scorer = Scorer(inputs.tiny_gemma())
    rows = [measure(scorer, name, options.rounds) for name in options.shapes]
    header = ["shape", "items", "forwarded", "distinct", "forwarded / distinct", "forwarded apart", "items/s", "gain"]
    body = (
        "agnews-tiny-gemma, made-up items (tests/pipeline/scoring/shapes.py). Distinct: nodes of the trie over all "
        "sequences, without a label's last token, counted from the sequences. Apart: nothing is shared but what nearly "
        f"all items begin with. Gain: ratio of the median seconds of {options.rounds} alternating rounds.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


def measure(scorer: Scorer, name: str, rounds: int) -> list[str]:
    make, num = SHAPES[name]
    items = make(num, VOCABULARY)
    nothing = {"_CELLS_PER_TOKEN": -math.inf, "_MIN_SAVED_BATCHES": math.inf}
    together = score(scorer, items)
    with patch.multiple(sharing, **nothing):
        apart = score(scorer, items)

    def run_apart() -> None:
        with patch.multiple(sharing, **nothing):
            score(scorer, items)

    seconds = alternate({"together": lambda: score(scorer, items), "apart": run_apart}, rounds)
    rate = len(items) / sorted(seconds["together"])[rounds // 2]
    ratio = together.forwarded_tokens / together.trie_tokens
    counts = (len(items), together.forwarded_tokens, together.trie_tokens)
    gain = median_ratio(seconds["apart"], seconds["together"])
    row = [name, *(f"{each:,}" for each in counts), f"{ratio:.3f}", f"{apart.forwarded_tokens:,}"]
    return [*row, number(rate), f"{gain:.2f}"]


def score(scorer: Scorer, items: Sequence[TokenSequences]) -> Counts:
    """What scoring the items counted."""
    scorer.counts = Counts()
    for _ in scorer.score(items):
        pass
    return scorer.counts


if __name__ == "__main__":
    main()
