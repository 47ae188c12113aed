"""One rank that loads its slices of some models and scores made-up items with each, for tests/pipeline/test_ranks.py.

Run as: python -m tests.pipeline.sliced RANK NUM_RANKS FOLDER MODEL...; writes FOLDER/RANK.pt.
"""

import os
import sys
from pathlib import Path

import torch

from pipeline.reading.model import resolve_model
from pipeline.reading.sharded import check_slices, load_slice
from pipeline.scoring.probe import made_up_items
from pipeline.scoring.ranks import join_ranks
from pipeline.scoring.scorer import Scorer


def main(rank: int, num_ranks: int, folder: Path, models: list[str]) -> None:
    """Of each model: the scores both ways, which way was taken, and the sizes of what this rank holds."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    torch.set_num_threads(1)
    join_ranks(rank, num_ranks, folder, "cpu")
    found = {}
    for name in models:
        path, _, dtype = name.partition(":")
        ref = resolve_model(path, device="cpu", dtype=dtype or "auto")
        check_slices(ref, num_ranks)
        model = load_slice(ref, num_ranks)
        scorer, items = Scorer(model), made_up_items(model.config)
        scores = {path: scorer._logprob(items, path) for path in ("tree", "rows")}
        held = {
            name: getattr(parameter, "to_local", lambda whole=parameter: whole)().numel()
            for name, parameter in model.named_parameters()
        }
        found[name] = {
            "scores": scores,
            "path": scorer.path,
            "remark": scorer.remark,
            "held": held,
            "exact": scorer._check._exact is not None and scorer._check._exact[1] is not None,
        }
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
