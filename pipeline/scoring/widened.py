"""A model that computes in float32 for a while, though its weights are kept in fewer bits.

Invariant: a weight is widened while its layer is at work and no longer, and what is put back is what was there; beside
the model there is room for one layer in float32, not for all.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Have each layer do its work in float32. One thread at a time: the weights are those of all who share them."""
    with ExitStack() as stack:
        for module in _layers(model):
            stack.enter_context(_widened(module))
        yield


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules of the model's lists, which are forwarded one after the other, and those with weights beside them."""
    layers: list[nn.Module] = []
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if isinstance(module, nn.ModuleList):
            layers += module
        elif any(True for _ in module.parameters(recurse=False)):
            layers.append(module)
        else:
            waiting += module.children()
    return layers


@contextmanager
def _widened(module: nn.Module) -> Iterator[None]:
    narrow: dict[torch.Tensor, torch.Tensor] = {}

    def widen(*_: Any) -> None:
        for parameter in module.parameters():
            for tensor in (*_held(parameter), parameter):
                if tensor.dtype in (torch.bfloat16, torch.float16):
                    narrow[tensor] = tensor.data
                    tensor.data = tensor.data.float()

    def put_back(*_: Any) -> None:
        for tensor, data in narrow.items():
            tensor.data = data
        narrow.clear()

    before = module.register_forward_pre_hook(widen)
    behind = module.register_forward_hook(put_back, always_call=True)
    try:
        yield
    finally:
        put_back()
        before.remove()
        behind.remove()


def _held(parameter: nn.Parameter) -> list[torch.Tensor]:
    """What a rank holds of a parameter that is spread over several (a DTensor): to widen that leaves it as it is."""
    held = getattr(parameter, "_local_tensor", None)
    return [] if held is None else [held]
