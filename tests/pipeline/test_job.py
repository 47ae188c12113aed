"""What a run decides for itself, and how far it says that it is."""

from dataclasses import replace

import pytest

from pipeline import job
from pipeline.config import load_config
from pipeline.job import Progress, does_compile
from pipeline.target import find_model


@pytest.mark.parametrize(
    ("device", "dtype", "options", "num_missing", "expected"),
    [
        ("cuda", "bfloat16", {}, 90_000, True),
        ("cuda", "bfloat16", {}, 89_999, False),
        ("cuda:1", "float16", {"workers": 2}, 180_000, True),
        ("cuda", "bfloat16", {"workers": 2}, 179_998, False),
        ("cuda", "fp8", {}, 299_999, False),
        ("cuda", "fp8", {}, 300_000, True),
        ("cuda", "bfloat16", {"compile": "on"}, 1, True),
        ("cuda", "bfloat16", {"compile": "off"}, 10**9, False),
        ("cuda", "bfloat16", {"tensor_parallel": 2}, 10**9, False),
        ("cpu", "float32", {}, 10**9, False),
        ("mps", "float16", {}, 10**9, False),
    ],
)
def test_layers_are_compiled_where_each_worker_has_enough_to_do(
    device: str, dtype: str, options: dict[str, object], num_missing: int, expected: bool
) -> None:
    model = replace(find_model(load_config(None, None, {"device": "cpu"})), device=device, dtype=dtype)
    assert does_compile(load_config(None, None, options), model, num_missing) is expected


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
