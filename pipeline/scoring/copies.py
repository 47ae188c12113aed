"""Copies of a model that share its weights, and nothing that a forward may write.

Invariant: what a checkpoint holds is in memory once.
"""

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def copy_model(model: Model) -> Model:
    """Another model with the same weights: for a thread of its own, or to forward what was never forwarded."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in _weights(model)})


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """What a checkpoint holds. A forward may write to other buffers, such as the frequencies of rotary embeddings."""
    yield from model.parameters()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield buffer
        if isinstance(held := getattr(getattr(module, "state", None), "CB", None), Tensor):
            yield held  # the weights of an 8-bit layer of bitsandbytes, once more
