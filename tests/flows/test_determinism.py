"""The same run gives the same bytes; another batch plan gives the same scores within the float's own noise."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.storing.layout import SCORES
from tests.flows.conftest import Command
from tests.flows.kill_checks import KEYS

COMMAND = ("run", "--limit", "60", "--prompt", "answer", "--prompt", "described", "--notebook-rule")
FLOATS = ("logprob", "logit", "notebook_logit")


def scores_of(labelscore: Command, out: Path, *options: str) -> pl.DataFrame:
    """The score table of a run on an output of its own."""
    done = labelscore(*COMMAND, "--out", str(out), *options)
    assert done.code == 0, done
    return pl.read_parquet(out / SCORES)


def test_the_same_run_twice_gives_the_same_bytes(labelscore: Command, tmp_path: Path) -> None:
    """Same batch plan, threads and versions: not one bit of a score differs, and neither does the file."""
    first, second = (scores_of(labelscore, tmp_path / name) for name in ("first", "second"))
    assert first.select(KEYS).equals(first.select(KEYS).sort(KEYS))
    for name in FLOATS:
        assert first[name].to_numpy().tobytes() == second[name].to_numpy().tobytes()
    assert (tmp_path / "first" / SCORES).read_bytes() == (tmp_path / "second" / SCORES).read_bytes()


@pytest.mark.parametrize("options", [("--batch-tokens", "96"), ("--shard-size", "7"), ("--batch-tokens", "100000")])
def test_another_batch_plan_gives_the_same_scores(
    options: tuple[str, ...], labelscore: Command, tmp_path: Path
) -> None:
    """The same keys, and each score within 1e-6 x max(1, |score|) + 1e-5."""
    plain = scores_of(labelscore, tmp_path / "plain")
    other = scores_of(labelscore, tmp_path / "other", *options)
    assert other.drop(FLOATS).equals(plain.drop(FLOATS))
    for name in FLOATS:
        a, b = (table[name].to_numpy().astype(float) for table in (plain, other))
        assert (np.abs(a - b) <= 1e-6 * np.maximum(1, np.abs(a)) + 1e-5).all(), np.abs(a - b).max()
