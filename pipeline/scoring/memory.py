"""Running out of memory, in whatever words Python, PyTorch or a driver have for it.

Invariant: what a failed work held is free again when `attempt` returns.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from pipeline.scoring.ranks import OutOfStep, is_rank

# What PyTorch says besides OutOfMemoryError: its CPU allocators, the driver, and cuBLAS for its workspace.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def attempt(work: Callable[_Given, _Result], *args: _Given.args, **kwargs: _Given.kwargs) -> _Result | None:
    """What `work` gives, or None where it ran out of memory. One of several ranks raises OutOfStep there.

    The others are in the middle of it, and what this one did next would be taken for the rest of it.
    """
    try:
        return work(*args, **kwargs)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        if is_rank():
            raise OutOfStep(
                "out of memory with a slice of the model; use more of them (--tensor-parallel), or a smaller "
                "--batch-tokens"
            ) from error
    return None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )
