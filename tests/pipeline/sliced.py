"""One rank that loads its slices of some models and scores made-up items with each, for tests/pipeline/test_ranks.py.

Run as: python -m tests.pipeline.sliced RANK NUM_RANKS FOLDER MODEL...; writes FOLDER/RANK.pt.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.reading.model import resolve_model
from pipeline.reading.sharded import check_slices, load_slice
from pipeline.scoring.memory import attempt
from pipeline.scoring.probe import made_up_items
from pipeline.scoring.ranks import OutOfStep, join_ranks
from pipeline.scoring.scorer import Scorer

WAYS = ("tree", "rows")


def look(scorer: Scorer) -> dict[str, Any]:
    """The scores both ways, what the self-check found and whether it looked in float32, too."""
    items = made_up_items(scorer._model.config)
    return {
        "scores": {way: scorer._logprob(items, way) for way in WAYS},
        "path": scorer.path,
        "remark": scorer.remark,
        "in_float32": scorer._check._exact is not None and scorer._check._exact[1] is not None,
    }


def num_held(parameter: Tensor) -> int:
    """How many values of a parameter this process has."""
    return int(getattr(parameter, "_local_tensor", parameter).numel())


def main(rank: int, num_ranks: int, folder: Path, models: list[str]) -> None:
    """What each model gives in slices, and how much of it this rank holds. A model is PATH:DTYPE."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    torch.set_num_threads(1)
    join_ranks(rank, num_ranks, folder, "cpu")
    found: dict[str, Any] = {}
    for name in models:
        path, _, dtype = name.partition(":")
        ref = resolve_model(path, device="cpu", dtype=dtype)
        check_slices(ref, num_ranks)
        model = load_slice(ref, num_ranks)
        held = {name: num_held(parameter) for name, parameter in model.named_parameters()}
        found[name] = look(Scorer(model)) | {"held": held}
    try:
        found["out of memory"] = attempt(torch.empty, 2**55)
    except OutOfStep as error:
        found["out of memory"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
