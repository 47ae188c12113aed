"""Work queued on the GPU without waiting for it: a prototype of feeding it.

Batches go up by copies from pinned memory that do not block, and a batch's scores come down by a copy that is queued
right behind its forward; so the next batch is queued while the GPU works on this one.

Invariant: the numbers are the scorer's own; only who waits for whom differs. On a CPU nothing changes. Groups are
still copied with a wait, so it pays only for an attention that has a layout in their place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.scoring.attention import Row
from pipeline.scoring.forward import TreeForward
from pipeline.scoring.lanes import Lanes
from pipeline.scoring.packed import PackedBatch


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, queued."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def queued_logits(forward: TreeForward, batch: PackedBatch) -> Tensor:
    ids, positions, reads = (send(each, forward.device) for each in (batch.ids, batch.positions, batch.reads))
    return forward._forward(
        ids, positions, reads, Row([group.to(forward.device) for group in batch.groups], batch.prefix)
    )


def queued_start(lanes: Lanes[Any, Any], work: Callable[[Any], Any]) -> Callable[[], Any]:
    result = lanes._run(work)
    if not (isinstance(result, Tensor) and result.is_cuda):
        return lambda: result
    scores = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    scores.copy_(result, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return scores

    return wait


@contextmanager
def queued() -> Iterator[None]:
    with patch.object(TreeForward, "logits", queued_logits), patch.object(Lanes, "start", queued_start):
        yield
