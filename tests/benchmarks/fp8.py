"""Linear layers in FP8 (e4m3) with a scale for each row of activations and each row of weights: a prototype.

Invariant: a token's output depends on that token alone, so that packed trees stay as exact as they are in the dtype of
the model. On a CPU the same rounding is emulated in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12  # of a row of zeros


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(rows in FP8, scales (rows, 1) float32): each row is scaled so that its largest entry is the largest number."""
    scales = (rows.abs().amax(dim=-1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST_SCALE)
    return (rows.float() / scales).clamp(-LARGEST, LARGEST).to(FP8), scales


class Fp8Linear(nn.Module):
    """Linear layers side by side, without biases: weights are kept in FP8, and inputs rounded to it."""

    def __init__(self, *linears: nn.Linear, has_kernels: bool = False) -> None:
        super().__init__()
        if any(linear.bias is not None for linear in linears):
            raise NotImplementedError("a linear layer with a bias")
        weight, scales = quantize(torch.cat([linear.weight.detach() for linear in linears]))
        self.weight: Tensor
        self.scales: Tensor
        self.register_buffer("weight", weight)  # (out, in)
        self.register_buffer("scales", scales.T.contiguous())  # (1, out)
        self._has_kernels = has_kernels

    def forward(self, given: Tensor) -> Tensor:
        rows, scales = quantize_by(given.flatten(0, -2), has_kernels=self._has_kernels)
        return self.multiply(rows, scales, given.dtype).unflatten(0, given.shape[:-1])

    def multiply(self, rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """The layers' outputs side by side from rows in FP8 and their scales."""
        if rows.is_cuda:
            return torch._scaled_mm(rows, self.weight.T, scales, self.scales, out_dtype=dtype, use_fast_accum=True)
        return ((rows.float() @ self.weight.T.float()) * scales * self.scales).to(dtype)


class Fp8MLP(nn.Module):
    """A gated MLP whose first two matrix products are one, and whose activation is rounded as it is made."""

    def __init__(self, mlp: Any, *, has_kernels: bool) -> None:
        super().__init__()
        self.first = Fp8Linear(mlp.gate_proj, mlp.up_proj, has_kernels=has_kernels)
        self.second = Fp8Linear(mlp.down_proj, has_kernels=has_kernels)
        self._has_kernels = has_kernels
        activation = type(mlp.act_fn).__name__
        if not ("Tanh" in activation or "SiLU" in activation):
            raise NotImplementedError(f"an MLP with {activation}")
        self._is_gelu = "Tanh" in activation

    def forward(self, given: Tensor) -> Tensor:
        rows, scales = quantize_by(given.flatten(0, -2), has_kernels=self._has_kernels)
        both = self.first.multiply(rows, scales, given.dtype)
        if self._has_kernels and given.is_cuda:
            from tests.benchmarks import fp8_kernels

            rows, scales = fp8_kernels.gate_and_quantize(both, self._is_gelu)
        else:
            gate, up = both.chunk(2, dim=-1)
            rows, scales = quantize((F.gelu(gate, approximate="tanh") if self._is_gelu else F.silu(gate)) * up)
        return self.second.multiply(rows, scales, given.dtype).unflatten(0, given.shape[:-1])


def quantize_by(rows: Tensor, *, has_kernels: bool) -> tuple[Tensor, Tensor]:
    """`quantize`, on a GPU by a kernel of our own where there is one."""
    if has_kernels and rows.is_cuda:
        from tests.benchmarks import fp8_kernels

        return fp8_kernels.quantize(rows)
    return quantize(rows)


def to_fp8(model: Any, *, has_kernels: bool = False) -> None:
    """Replace the linear layers of the model's body, MLPs as a whole; embeddings and head stay."""
    replace(model.base_model, ("MLP",), lambda mlp: Fp8MLP(mlp, has_kernels=has_kernels))
    replace(model.base_model, ("Linear",), lambda linear: linear_or_fp8(linear, has_kernels=has_kernels))


def linear_or_fp8(linear: nn.Linear, *, has_kernels: bool) -> nn.Module:
    """The layer in FP8, if its sizes are multiples of 16, as the matrix product wants them."""
    fits = linear.in_features % 16 == 0 and linear.out_features % 16 == 0
    return Fp8Linear(linear, has_kernels=has_kernels) if fits else linear


def replace(parent: nn.Module, endings: Sequence[str], make: Any) -> None:
    """Replace modules by the endings of their classes' names, but not inside of what was replaced before."""
    for name, child in parent.named_children():
        if type(child).__name__.endswith(tuple(endings)) and not type(child).__name__.startswith("Fp8"):
            setattr(parent, name, make(child))
        elif not type(child).__name__.startswith("Fp8"):
            replace(child, endings, make)
