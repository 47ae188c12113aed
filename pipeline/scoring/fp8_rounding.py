"""Rows of numbers rounded to FP8 (e4m3), each by a scale of its own, as PyTorch does it.

Invariant: a row becomes what it would by itself; what is no number stays none.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12  # of a row of zeros
# Each by whether it is GELU (by tanh, as Gemma has it) or SiLU.
ACTIVATIONS: dict[bool, Callable[[Tensor], Tensor]] = {True: partial(F.gelu, approximate="tanh"), False: F.silu}


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(rows in FP8, scales (rows, 1) float32): each row is scaled so that its largest entry is the largest number."""
    scales = (rows.abs().amax(dim=-1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST_SCALE)
    return (rows.float() / scales).clamp(-LARGEST, LARGEST).to(FP8), scales


def gate_and_quantize(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    """`quantize` of the activation of the left half of each row times the right half."""
    gate, up = both.float().chunk(2, dim=-1)
    return quantize(ACTIVATIONS[is_gelu](gate) * up)
