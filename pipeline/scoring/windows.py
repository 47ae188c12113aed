"""Sliding windows as a model's configuration tells them."""

from transformers import PretrainedConfig


def layer_windows(config: PretrainedConfig) -> dict[int, int | None]:
    """Each layer's sliding window by the configuration; -1 for attention of another kind."""
    window = effective_window(getattr(config, "sliding_window", None), config)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    known = {"full_attention": None, "sliding_attention": window}
    return {layer: known.get(kind, -1) for layer, kind in enumerate(kinds)}


def effective_window(window: int | None, config: PretrainedConfig) -> int | None:
    """A sliding window, None where it is as wide as any text that the model takes (Phi-3.5-MoE)."""
    limit = getattr(config, "max_position_embeddings", None)
    return None if window and isinstance(limit, int) and window >= limit else window


def narrowest_window(config: PretrainedConfig) -> int | None:
    """The narrowest window of any layer; None where all see everything."""
    return min((window for window in layer_windows(config).values() if window and window > 0), default=None)
