"""A model's body: all of it but its head, found as what holds the layers.

Invariant: what is forwarded again here is given back as it was, without any of it being computed again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def find_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """The layers that a token goes through one after the other; None where they are not in a list."""
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    return stacks[0] if len(stacks) == 1 else None


def find_bodies(model: PreTrainedModel) -> list[nn.Module]:
    """The modules inside of the model that hold its layers, one inside of the other; a head may ask any of them."""
    layers = find_layers(model)
    inside = (module for module in model.modules() if module not in (model, layers))
    return [] if layers is None else [module for module in inside if layers in module.modules()]


@contextmanager
def forwarded_once(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have each of these modules do its work once, and give the same again whenever it is asked from then on."""
    usual = {module: vars(module).get("forward") for module in modules}  # of their own, as packages leave them
    kept: dict[nn.Module, Any] = {}

    def keeping(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def once(*args: Any, **kwargs: Any) -> Any:
            if module not in kept:
                kept[module] = forward(*args, **kwargs)
            return kept[module]

        return once

    for module in modules:
        module.forward = keeping(module, module.forward)
    try:
        yield
    finally:
        for module, forward in usual.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward
