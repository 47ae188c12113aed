"""How far a run says that it is."""

import pytest

from pipeline import job
from pipeline.job import Progress


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches count at once, what a worker lost is taken back without a word, and lines are some time apart."""
    progress = Progress(1000)
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LINES", 3600.0)
    assert not progress.advance(100)
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LINES", -1.0)
    assert progress.advance(150)
    assert str(progress).startswith("scored 250 of 1,000 (")
    assert not progress.advance(-50)
    assert str(progress).startswith("scored 200 of 1,000 (")
    assert progress.percent == 0  # of finished shards
