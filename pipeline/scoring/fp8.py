"""Linear layers in FP8 (e4m3): each row of the weights has a scale, and so has each token of what comes in.

Invariant: a token's output depends on that token alone, so that trees stay as exact as single forwards. Weights are
rounded once. While a model computes in float32 (widened.py) nothing that comes in is rounded: there a wrong mask shows
as closely as in any dtype. On a CPU the same rounding is emulated.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.errors import InputError
from pipeline.scoring.fp8_rounding import ACTIVATIONS, gate_and_quantize, quantize
from pipeline.scoring.widened import in_float32

_SIZE_STEP = 16  # the matrix product takes sizes that are multiples of it
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # as configurations count them
_MAX_FORMULA_ERROR = 1e-4  # of a row's largest number, where a module in float32 is held against its formula
_MAX_ROUNDING = 1 / 8  # of a token's numbers: most layers' move by a twentieth


class Rounding(NamedTuple):
    """How rows are brought to FP8: by PyTorch, or by kernels that give the same numbers."""

    quantize: Callable[[Tensor], tuple[Tensor, Tensor]]
    gate_and_quantize: Callable[[Tensor, bool], tuple[Tensor, Tensor]]


BY_PYTORCH = Rounding(quantize, gate_and_quantize)


class Fp8Linear(nn.Module):
    """One linear layer, or several side by side that are given the same.

    It has no `weight`, so that code which goes past `forward` for it fails.
    """

    rounded: Tensor  # (out, in) FP8
    scales: Tensor  # (1, out) float32
    bias: Tensor | None  # (out,)

    def __init__(self, *linears: nn.Module, rounding: Rounding = BY_PYTORCH) -> None:
        super().__init__()
        parts = [quantize(_weight(linear).detach()) for linear in linears]
        self.register_buffer("rounded", torch.cat([rounded for rounded, _ in parts]))
        self.register_buffer("scales", torch.cat([scales for _, scales in parts]).T.contiguous())
        self.register_buffer("bias", _bias(linears))
        self.rounding = rounding

    def forward(self, given: Tensor) -> Tensor:
        if given.dtype == torch.float32:
            weight = self.rounded.float() * self.scales.T
            return F.linear(given, weight, None if self.bias is None else self.bias.float())
        rows, scales = self.rounding.quantize(given.flatten(0, -2))
        return self.multiply(rows, scales, given.dtype).view(*given.shape[:-1], len(self.rounded))

    def multiply(self, rows: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """The outputs (rows, out), side by side, for rows in FP8 and their scales."""
        if rows.is_cuda:
            return torch._scaled_mm(
                rows, self.rounded.T, scales, self.scales, bias=self.bias, out_dtype=dtype, use_fast_accum=True
            )
        product = (rows.float() @ self.rounded.T.float()) * scales * self.scales
        return (product if self.bias is None else product + self.bias.float()).to(dtype)


class Fp8MLP(nn.Module):
    """A gated MLP whose first two products are one, and whose activation is rounded as it is made."""

    def __init__(self, mlp: Any, *, is_gelu: bool, rounding: Rounding) -> None:
        super().__init__()
        self.first = Fp8Linear(mlp.gate_proj, mlp.up_proj, rounding=rounding)
        self.second = Fp8Linear(mlp.down_proj, rounding=rounding)
        self._is_gelu = is_gelu

    def forward(self, given: Tensor) -> Tensor:
        if given.dtype == torch.float32:
            gate, up = self.first(given).chunk(2, dim=-1)
            widened: Tensor = self.second(ACTIVATIONS[self._is_gelu](gate) * up)
            return widened
        rounding = self.first.rounding
        both = self.first.multiply(*rounding.quantize(given.flatten(0, -2)), given.dtype)
        found = self.second.multiply(*rounding.gate_and_quantize(both, self._is_gelu), given.dtype)
        return found.view(given.shape)


def _weight(linear: nn.Module) -> Tensor:
    """(out, in)"""
    weight: Any = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight  # type: ignore[no-any-return]


def _bias(linears: tuple[nn.Module, ...]) -> Tensor | None:
    """(out,), None where there is none."""
    given: list[Any] = [linear.bias for linear in linears]
    if all(bias is None for bias in given):
        return None
    weights = map(_weight, linears)
    parts = [w.new_zeros(len(w)) if bias is None else bias.detach() for w, bias in zip(weights, given, strict=True)]
    return torch.cat(parts)


# --- turning a model's layers ---------------------------------------------------------------------------------------


def to_fp8(model: PreTrainedModel, name: str) -> int:
    """Turn the linear layers of the body of a model in bfloat16, one by one; embeddings and head stay as they are.

    So does what sends tokens to experts, and what has other sizes than multiples of 16. Beside the model there is room
    for one layer in float32, not for all in FP8. Returns how many there are (an MLP is one). Raises InputError where no
    layer can be turned.
    """
    config = model.config.get_text_config(decoder=True)
    num_experts = {getattr(config, counted, None) for counted in _EXPERTS}
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    rounding, _ = find_rounding(model.device)
    left: list[str] = []

    def turn(parent: nn.Module) -> None:
        for key, child in parent.named_children():
            if child is head or isinstance(child, Fp8Linear | Fp8MLP):
                continue
            if (is_gelu := _gated_by(child)) is not None:
                setattr(parent, key, Fp8MLP(child, is_gelu=is_gelu, rounding=rounding))
            elif not _is_linear(child):
                turn(child)
            elif why := _why_not(child) or _why_no_router(key, child, num_experts):
                left.append(why)
            else:
                setattr(parent, key, Fp8Linear(child, rounding=rounding))

    with torch.no_grad():
        turn(model.base_model)
    if not (layers := fp8_layers(model)):
        why = left[0] if left else "its code has linear layers of a kind of its own, or none"
        raise InputError(f"{name}: none of its layers can be turned to fp8 ({why}); use --dtype bfloat16 or auto")
    return len(layers)


def fp8_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that were turned, an MLP as a whole."""
    mlps = [module for module in model.modules() if isinstance(module, Fp8MLP)]
    inside = {part for mlp in mlps for part in mlp.modules()}
    return [*mlps, *(m for m in model.modules() if isinstance(m, Fp8Linear) and m not in inside)]


def _is_linear(module: nn.Module) -> bool:
    """Not of a class of its own: what that computes is not known."""
    return type(module) in (nn.Linear, Conv1D)


def _why_not(linear: nn.Module) -> str | None:
    """Why a linear layer stays as it is; None where it can be turned."""
    weight = _weight(linear)
    num_out, num_in = weight.shape
    if weight.dtype != torch.bfloat16:
        return f"a layer is kept in {str(weight.dtype).removeprefix('torch.')}"
    if num_out % _SIZE_STEP or num_in % _SIZE_STEP:
        return f"a layer is {num_in} x {num_out}, and sizes have to be multiples of {_SIZE_STEP}"
    return None


def _why_no_router(key: str, linear: nn.Module, num_experts: set[int | None]) -> str | None:
    """The same of what sends tokens to experts, which is called a gate, a router or a classifier, and no projection."""
    is_router = len(_weight(linear)) in num_experts and not key.endswith("_proj")
    return "a layer chooses experts" if is_router else None


@torch.no_grad()
def _gated_by(module: nn.Module) -> bool | None:
    """Of an MLP that computes down(act(gate(x)) * up(x)) whether `act` is GELU, else SiLU; None for anything else.

    By what it computes, as classes that look alike clip, scale or leave out what is small.
    """
    mlp: Any = module
    if not all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return None
    gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    if not all(_is_linear(part) and _why_not(part) is None for part in (gate, up, down)):
        return None
    generator = torch.Generator().manual_seed(0)
    sizes = 4.0 ** torch.arange(-4, 4)[:, None]
    given = (torch.randn(8, _weight(gate).shape[1], generator=generator) * sizes).to(_weight(gate).device)
    points = torch.linspace(-8, 8, 1000, device=given.device)
    try:
        for is_gelu, activation in ACTIVATIONS.items():
            if torch.allclose(mlp.act_fn(points), activation(points), rtol=0, atol=1e-5):
                with in_float32(module):
                    found, expected = mlp(given), down(activation(gate(given)) * up(given))
                return is_gelu if _largest_part(found - expected, expected) < _MAX_FORMULA_ERROR else None
    except Exception:  # whatever its code wants besides
        return None
    return None


def _largest_part(difference: Tensor, whole: Tensor) -> float:
    """The largest difference of a row, as a part of the row's largest number."""
    return float((difference.abs().amax(-1) / whole.abs().amax(-1).clamp(min=1e-30)).max())


# --- kernels, and what is checked -----------------------------------------------------------------------------------


@cache
def find_rounding(device: torch.device) -> tuple[Rounding, str | None]:
    """What brings rows to FP8 on a device, and why it is slower than it could be, if so."""
    if device.type != "cuda":
        return BY_PYTORCH, None
    try:
        from pipeline.scoring import fp8_kernels

        fp8_kernels.check(device)
    except Exception as error:  # there is no Triton, it finds no compiler, or the numbers are others
        return BY_PYTORCH, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Rounding(fp8_kernels.quantize, fp8_kernels.gate_and_quantize), None


def why_slower(model: PreTrainedModel) -> str | None:
    """Why a model's FP8 is slower than it could be; None where it is not, or there is none."""
    return find_rounding(model.device)[1] if fp8_layers(model) else None


@torch.inference_mode()
def find_fault(model: PreTrainedModel) -> str:
    """What is wrong with a layer on this device; nothing where each kind gives a token what it gives in float32.

    But for rounding, and whatever stands beside it: all of this hides in scores, as rounding moves them by far more.
    """
    kinds = {(type(layer), *(buffer.shape for buffer in layer.buffers())): layer for layer in fp8_layers(model)}
    return next(filter(None, (_find_fault(layer, model.device) for layer in kinds.values())), "")


def _find_fault(layer: Any, device: torch.device) -> str:
    first = layer.first if isinstance(layer, Fp8MLP) else layer
    generator = torch.Generator().manual_seed(0)
    sizes = 2.0 ** torch.arange(16)[:, None]  # of the tokens, so that none has the scale of another
    given = (torch.randn(1, 16, first.rounded.shape[1], generator=generator) * sizes).to(device, torch.bfloat16)
    found, exact = layer(given), layer(given.float())
    if not _apart(found, exact).median() < _MAX_ROUNDING:
        return "a layer gives other numbers than in float32"
    if not _apart(layer(torch.cat([given, given * 2.0**16], dim=1))[:, :16], found).max() < _MAX_ROUNDING:
        return "a layer gives a token other numbers when larger ones are beside it"
    return ""


def _apart(found: Tensor, expected: Tensor) -> Tensor:
    """(1, tokens) how far each token's numbers are from those expected, as a part of these."""
    difference, whole = (numbers.norm(dim=-1) for numbers in (found.float() - expected, expected.float()))
    apart: Tensor = difference / whole.clamp(min=torch.finfo(torch.float32).tiny)
    return apart
