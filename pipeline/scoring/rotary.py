"""Rotary position embeddings that depend on how long the forwarded sequence is: longrope (Phi-3) and dynamic NTK.

transformers takes the longest position in the forward for the length. In a batch, or after a shared prefix that was
forwarded by itself, that is not the length of each sequence, and the scores are off by nats.

Invariant: what is forwarded together has one regime, and is rotated as a sequence of that length alone is.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Rotary:
    """The parts of a model that rotate by the length; mostly there are none.

    A regime is a length that stands for all those which are rotated alike, and 0 for those up to every limit.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules: list[nn.Module] = []
        self._limits: set[int] = set()  # what is longer is rotated by the other factors
        self._stretched: set[int] = set()  # what is longer is rotated by its own length
        for module in model.modules():
            kinds = _kinds(module)
            for layer_type, kind in kinds:
                if kind == "longrope":
                    self._limits.add(_original_length(module, layer_type))
                elif "dynamic" in kind:
                    self._stretched.add(int(module.original_max_seq_len))  # type: ignore[arg-type]
            if any(kind == "longrope" or "dynamic" in kind for _, kind in kinds):
                self._modules.append(module)

    def regime(self, num_tokens: int) -> int:
        """That of a sequence of so many tokens, all of the label's among them."""
        if any(num_tokens > limit for limit in self._stretched):
            return num_tokens
        return max((limit + 1 for limit in self._limits if num_tokens > limit), default=0)

    @contextmanager
    def at(self, regime: int) -> Iterator[None]:
        """Rotate what is forwarded as in a sequence of this regime, whatever was forwarded before."""
        with ExitStack() as stack:
            for module in self._modules:
                stack.enter_context(_told_length(module, regime))
            yield


def _kinds(module: nn.Module) -> list[tuple[str | None, str]]:
    """(layer type, kind of rotation) of a module that rotates; a model may have one for each type of its layers."""
    kind = getattr(module, "rope_type", None)
    if isinstance(kind, dict):
        return [(layer_type, str(each)) for layer_type, each in kind.items()]
    return [(None, kind)] if isinstance(kind, str) else []


def _original_length(module: Any, layer_type: str | None) -> int:
    parameters = module.config.rope_parameters
    return int((parameters[layer_type] if layer_type else parameters)["original_max_position_embeddings"])


@contextmanager
def _told_length(module: nn.Module, regime: int) -> Iterator[None]:
    """Have a module that takes the largest position for the length see that of the regime beside those it is given.

    It is asked about position 0 before and after: dynamic ones keep the factors of the longest sequence until a short
    one comes.
    """

    def tell(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = signature.bind(*args, **kwargs).arguments
        positions: Tensor = given["position_ids"]
        start.update(given, position_ids=torch.zeros_like(positions[..., :1]))
        module.forward(**start)
        if regime:
            last = torch.full_like(positions[..., :1], regime - 1)
            positions = torch.cat([positions, last], dim=-1)
        return (), {**given, "position_ids": positions}

    def take_back(_: nn.Module, __: Any, rotations: Any) -> Any:
        if not regime:
            return rotations
        if isinstance(rotations, Tensor):
            return rotations[..., :-1, :]
        return tuple(each[..., :-1, :] for each in rotations)

    signature = inspect.signature(module.forward)
    start: dict[str, Any] = {}
    before = module.register_forward_pre_hook(tell, with_kwargs=True)
    behind = module.register_forward_hook(take_back)
    try:
        yield
    finally:
        before.remove()
        behind.remove()
        if start:
            module.forward(**start)  # the model is left as it is without a long sequence before
