"""Ranks: processes that hold a slice of one model each, and forward every batch together.

Invariant: all ranks do the same forwards in the same order, because each number that decides on what comes next is
rank 0's on all of them. A rank that cannot go on so says it with `OutOfStep`, which nothing here catches.
"""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

# Whoever started the ranks sees when one dies; until then they may wait for each other, as for a slow disk.
_PATIENCE = timedelta(days=1)

_joined = False  # not asked of torch.distributed, which a program around this one may use for purposes of its own


class OutOfStep(BaseException):
    """This rank cannot do what the others are doing; no Exception, as some of those only mean that a way is closed."""


def join_ranks(rank: int, num_ranks: int, folder: Path, device: str) -> None:
    """Make this process one of the ranks, which meet in an empty folder; on a GPU each takes the one of its number."""
    global _joined
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/ranks",
        rank=rank,
        world_size=num_ranks,
        timeout=_PATIENCE,
    )
    _joined = True


def is_rank() -> bool:
    """Whether this process is one of several ranks."""
    return _joined


def agreed(tensor: Tensor) -> Tensor:
    """Rank 0's values of a tensor that all ranks have: in the last bit theirs may differ, and with it a decision."""
    if _joined:
        dist.broadcast(tensor, 0)
    return tensor


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; all ranks ask this at the same time."""
    if not _joined:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)
