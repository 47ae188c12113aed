"""Between the host and a device: batches go there in one piece, scores come back behind their forward.

Invariant: on CUDA neither way waits: what is sent lies in pinned memory until it has arrived, and what comes back is
waited for by itself, not together with what was begun after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_Batch = TypeVar("_Batch")


def send(batch: _Batch, device: torch.device) -> _Batch:
    """A copy of a record (dataclasses and tuples in each other) with its tensors, all of integers, on the device."""
    if device.type == "cpu":
        return batch
    here = list(_tensors(batch))
    flat = torch.empty(sum(map(Tensor.numel, here)), dtype=torch.int64, pin_memory=device.type == "cuda")
    torch.cat([tensor.flatten() for tensor in here], out=flat)
    there = torch.split(flat.to(device, non_blocking=flat.is_pinned()), [tensor.numel() for tensor in here])
    moved = iter([piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(there, here, strict=True)])
    return cast(_Batch, _with_tensors(batch, moved))


def _tensors(record: Any) -> Iterator[Tensor]:
    if isinstance(record, Tensor):
        yield record
    elif isinstance(record, tuple):
        for each in record:
            yield from _tensors(each)
    elif is_dataclass(record):
        for field in fields(record):
            if field.init:
                yield from _tensors(getattr(record, field.name))


def _with_tensors(record: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(record, Tensor):
        return next(tensors)
    if isinstance(record, tuple):
        found = [_with_tensors(each, tensors) for each in record]
        return record._make(found) if hasattr(record, "_make") else tuple(found)
    if is_dataclass(record) and not isinstance(record, type):
        names = [field.name for field in fields(record) if field.init]
        return replace(record, **{name: _with_tensors(getattr(record, name), tensors) for name in names})
    return record


def fetch(scores: Tensor) -> Callable[[], Tensor]:
    """Queue a copy for the host behind what makes the scores; the function returned waits for it alone."""
    if scores.device.type != "cuda":
        return lambda: scores
    copied = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
    copied.copy_(scores, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # else it would keep a core busy
    done.record(torch.cuda.current_stream(scores.device))  # of the scores' device, which need not be the current one

    def wait() -> Tensor:
        done.synchronize()
        return copied

    return wait
