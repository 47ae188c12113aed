"""Which sentences a report begins with where nothing differs, and where something does.

Invariant: the words are those of `findings.find`, of a real report whose right answers alone are drawn.
"""

import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.reporting.agreement import AgreementCounter, Arm
from pipeline.reporting.findings import Findings, find
from pipeline.reporting.report import Report
from pipeline.reporting.stats import wilson_interval
from pipeline.reporting.verdict import make_verdict
from tests.benchmarks.coverage_families import draw_right
from tests.pipeline.reporting.tables import write_large_run, write_report

RULE = "sum"
# Three kinds of verdict, of which every data set has one, and two kinds of lines.
PATTERNS = {
    "No prompt can be called the best": "No prompt of ",
    "some may be the best": r"\d+ of \d+ prompts may be the best",
    "one is the best": r"'.*' is the best of ",
    "Cannot be told from": "Cannot be told from ",
    "Worse than": "Worse than ",
}
KINDS = tuple(PATTERNS)


def make_base() -> Report:
    """A report whose verdict and summary are replaced draw by draw."""
    with tempfile.TemporaryDirectory() as folder:
        return write_report(write_large_run(Path(folder) / "run", 40), RULE)


def draw_findings(
    base: Report, truth: np.ndarray, num_items: int, num_sets: int, alike: Sequence[float], seed: int = 0
) -> list[Findings]:
    """What is said of `num_sets` data sets in which the prompts are right as often as `truth` (prompts,) says."""
    right = draw_right(np.random.default_rng(seed), truth[:, None], num_items, num_sets, alike)[:, :, 0]
    return [words_of(base, own) for own in right]


def words_of(base: Report, right: np.ndarray) -> Findings:
    """Of one data set, `right` (prompts, items); guessing gets a quarter."""
    arms = [Arm(f"prompt {i + 1}", RULE) for i in range(len(right))]
    counter, n = AgreementCounter(arms), right.shape[1]
    counter.add(right, np.ones(n, np.int64), np.arange(n, dtype=np.uint64))
    num_right = right.sum(axis=1).tolist()
    ends = [wilson_interval(k, n) for k in num_right]
    summary = pl.DataFrame(
        {
            "prompt": [arm.prompt for arm in arms],
            "rule": RULE,
            "num_gold": n,
            "num_correct": num_right,
            "num_effective": float(n),
            "accuracy": [k / n for k in num_right],
            "low": [end.low for end in ends],
            "high": [end.high for end in ends],
        }
    )
    chances = {arm.prompt: 0.25 for arm in arms}
    verdict = make_verdict({"": counter.finish()}, summary, RULE, chances, None, 0, of_tasks=False)
    found = find(dataclasses.replace(base, verdict=verdict, summary=summary, chances=chances))
    assert found is not None
    return found


def count_sentences(found: Sequence[Findings]) -> Counter[str]:
    """In how many data sets each of KINDS stands; raises where a verdict is none of the first three."""
    counts = Counter(kind for one in found for kind in KINDS if any(_is_kind(line, kind) for line in one.lines))
    if counts.total() - sum(counts[kind] for kind in KINDS[3:]) != len(found):
        raise ValueError("a verdict is worded in no known way")
    return counts


def _is_kind(line: str, kind: str) -> bool:
    return re.match(PATTERNS[kind], line) is not None
