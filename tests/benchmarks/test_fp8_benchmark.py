"""The benchmark of FP8's accuracy compares what a run would store, shown on a few rows."""

import re
from pathlib import Path

import torch

from tests.benchmarks.fp8 import figures, main


def test_the_benchmark_writes_its_section(shared: Path, tmp_path: Path) -> None:
    """A row for each dtype of each model, the bundled one beside agnews-tiny-gemma."""
    main(["--items", "60", "--model", "demo", "--model-items", "20", "--results", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    assert "## Accuracy in FP8" in text
    cells = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")][1:]
    dtypes = ("float32", "bfloat16", "fp8")
    models = [("agnews-tiny-gemma", "60"), ("demo", "20")]
    assert [row[:3] for row in cells] == [[*model, dtype] for model in models for dtype in dtypes]


def test_figures_are_counted_right() -> None:
    """Accuracy, predictions in common, those that turned and differences, on three rows counted by hand."""
    gold = torch.tensor([2, 3, 3])
    exact = torch.tensor([[-1.0, -2.0, -0.5, -3.0], [-1.0, -2.0, -3.0, -0.5], [-0.5, -2.0, -3.0, -1.0]])
    near, far = exact.clone(), exact.clone()
    near[2, 3] = -1.5
    far[0, 0], far[2, 0] = -0.1, -2.5
    assert figures(exact, None, gold) == ["66.67%", *"-----"]
    assert figures(near, exact, gold) == ["66.67%", "100.00%", 0, 0, "0.500", "0.0417"]
    assert figures(far, exact, gold) == ["66.67%", "33.33%", 1, 1, "2.000", "0.2417"]
