"""FP8 by kernels of our own, for what lies between the matrix products on a CUDA device; the only module with Triton.

Invariant: the same numbers as PyTorch's way in fp8_rounding.py, each row read once; `check` says whether it is so here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.scoring import fp8_rounding
from pipeline.scoring.fp8_rounding import FP8, LARGEST, SMALLEST_SCALE

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
_MAX_OTHERS = 0.01  # of the entries: those that lie between two numbers of FP8 may go to either


@triton.jit
def _larger(left, right):
    return tl.maximum(left, right, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _store_row(values, out, scales, row, columns, size, inside):
    # Where a value is no number, the scale is none, and nothing that comes of the row.
    scale = _larger(tl.reduce(tl.abs(values), 0, _larger) / _LARGEST, _SMALLEST_SCALE)
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


@torch.library.custom_op("labelscore::fp8_quantize", mutates_args=())
def _quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty(rows.shape, dtype=FP8, device=rows.device)
    scales = torch.empty(len(rows), 1, device=rows.device)
    block = triton.next_power_of_2(rows.shape[1])
    with torch.cuda.device_of(rows):  # Triton takes the current one
        _quantize[(len(rows),)](
            rows, out, scales, rows.stride(0), rows.shape[1], BLOCK=block, num_warps=_num_warps(block)
        )
    return out, scales


@_quantize_rows.register_fake
def _(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape, dtype=FP8), rows.new_empty(rows.shape[0], 1, dtype=torch.float32)


@torch.library.custom_op("labelscore::fp8_gate_and_quantize", mutates_args=())
def _gate_and_quantize_rows(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    size = both.shape[1] // 2
    out = torch.empty(len(both), size, dtype=FP8, device=both.device)
    scales = torch.empty(len(both), 1, device=both.device)
    block = triton.next_power_of_2(size)
    with torch.cuda.device_of(both):
        _gate_and_quantize[(len(both),)](
            both, out, scales, size, IS_GELU=is_gelu, BLOCK=block, num_warps=_num_warps(block)
        )
    return out, scales


@_gate_and_quantize_rows.register_fake
def _(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    out = both.new_empty(both.shape[0], both.shape[1] // 2, dtype=FP8)
    return out, both.new_empty(both.shape[0], 1, dtype=torch.float32)


def _num_warps(block: int) -> int:
    return max(1, min(16, block // 512))


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `fp8_rounding.quantize`."""
    found: tuple[Tensor, Tensor] = _quantize_rows(rows if rows.stride(1) == 1 else rows.contiguous())
    return found


def gate_and_quantize(both: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    """As `fp8_rounding.gate_and_quantize`."""
    found: tuple[Tensor, Tensor] = _gate_and_quantize_rows(both.contiguous(), is_gelu)
    return found


def check(device: torch.device) -> None:
    """Raises ValueError where the kernels give other numbers than PyTorch, beyond another rounding here and there.

    What is no number must stay none, and a row of zeros zeros.
    """
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(64, 4096, generator=generator, dtype=torch.bfloat16)
    both[0], both[-1, 0], both[-2, 0] = 0, torch.nan, torch.inf
    both = both.to(device)
    for found, expected in (
        (quantize(both), fp8_rounding.quantize(both)),
        (gate_and_quantize(both, True), fp8_rounding.gate_and_quantize(both, True)),
        (gate_and_quantize(both, False), fp8_rounding.gate_and_quantize(both, False)),
    ):
        are_others = found[0][:-2].float() != expected[0][:-2].float()
        others = are_others.double().mean().item()
        if not (others < _MAX_OTHERS and torch.allclose(found[1], expected[1], rtol=1e-4, equal_nan=True)):
            raise ValueError(f"kernels: {others:.1%} of the entries differ from PyTorch's")
