"""FP8 with kernels of our own for what lies between the matrix products: a prototype for CUDA.

Invariant: the same numbers as `fp8.quantize`, each row read once; importing this needs Triton.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tests.benchmarks import fp8
from tests.benchmarks.fp8 import FP8, LARGEST, SMALLEST_SCALE

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


@triton.jit
def _store_row(values, out, scales, row, columns, size, inside):
    scale = tl.maximum(tl.max(tl.abs(values), axis=0) / _LARGEST, _SMALLEST_SCALE)
    scaled = tl.minimum(tl.maximum(values / scale, -_LARGEST), _LARGEST)
    tl.store(out + row * size + columns, scaled.to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _quantize(given, out, scales, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    values = tl.load(given + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    _store_row(values, out, scales, row, columns, size, inside)


@triton.jit
def _gate_and_quantize(both, out, scales, size, IS_GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    gate = tl.load(both + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    inner = gate
    if IS_GELU:  # by the tanh formula, which is a sigmoid
        inner = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    values = gate * tl.sigmoid(inner) * up
    _store_row(values, out, scales, row, columns, size, inside)


@torch.library.custom_op("labelscore_benchmarks::quantize", mutates_args=())
def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `fp8.quantize`, for rows whose entries lie side by side."""
    out = torch.empty(rows.shape, dtype=FP8, device=rows.device)
    scales = torch.empty(len(rows), 1, device=rows.device)
    block = triton.next_power_of_2(rows.shape[1])
    _quantize[(len(rows),)](rows, out, scales, rows.stride(0), rows.shape[1], BLOCK=block, num_warps=_num_warps(block))
    return out, scales


@quantize.register_fake
def _(rows: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows, dtype=FP8), rows.new_empty(rows.shape[0], 1, dtype=torch.float32)


@torch.library.custom_op("labelscore_benchmarks::gate_and_quantize", mutates_args=())
def gate_and_quantize(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    """An MLP's activation of the left half times the right half, rounded to FP8."""
    size = both.shape[1] // 2
    out = torch.empty(len(both), size, dtype=FP8, device=both.device)
    scales = torch.empty(len(both), 1, device=both.device)
    block = triton.next_power_of_2(size)
    _gate_and_quantize[(len(both),)](both, out, scales, size, IS_GELU=is_gelu, BLOCK=block, num_warps=_num_warps(block))
    return out, scales


@gate_and_quantize.register_fake
def _(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    out = both.new_empty(both.shape[0], both.shape[1] // 2, dtype=FP8)
    return out, both.new_empty(both.shape[0], 1, dtype=torch.float32)


def _num_warps(block: int) -> int:
    return max(1, min(16, block // 512))


def check(device: torch.device) -> None:
    """Raises ValueError where the kernels give other numbers than PyTorch, beyond another rounding here and there."""
    generator = torch.Generator(device).manual_seed(0)
    both = torch.randn(64, 4096, device=device, generator=generator, dtype=torch.bfloat16)
    gate, up = both.float().chunk(2, dim=-1)
    for found, expected in (
        (quantize(both), fp8.quantize(both)),
        (gate_and_quantize(both, True), fp8.quantize(F.gelu(gate, approximate="tanh") * up)),
        (gate_and_quantize(both, False), fp8.quantize(F.silu(gate) * up)),
    ):
        wrong = (found[0].float() != expected[0].float()).double().mean().item()
        if not (wrong < 0.01 and torch.allclose(found[1], expected[1], rtol=1e-4)):
            raise ValueError(f"kernels: {wrong:.1%} of the entries differ from PyTorch's")
