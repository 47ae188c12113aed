"""Attention for a flat row that holds many trees: each token sees the shared prefix and the way to it in its tree.

The linear layers run over one row with all tokens of a batch and no padding; only attention is done tree by tree, as a
batch's layouts say. transformers calls `attend` through its interface for attention functions, the one
that inference servers use, so no model's code is touched and each model brings its own scaling, window and soft cap.

Invariant: a token's output is what it would be in a sequence of its own: prefix, item up to it, its own branch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from pipeline.scoring.layouts import Asked, Layout

NAME = "labelscore_tree"
# Keyword arguments with tensors in them that do not change what attention computes here.
_HARMLESS = {"position_ids", "cache_position", "position_embeddings", "cu_seq_lens_q", "cu_seq_lens_k"}


@dataclass(slots=True, eq=False)
class Prefix:
    """Keys and values of the tokens that items share, each (tokens, key heads, head size), by layer."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Row:
    """What attention needs to know of the flat row that is being forwarded."""

    layouts: Sequence[Layout]  # one after the other, as their trees lie in the row
    prefix: Prefix
    kept: Prefix | None = None  # where to keep the row's tokens, all of one tree, behind what they see of the prefix
    keeps_keys: bool = False  # the next layer is to keep its keys and values and go no further
    keys_and_values: tuple[Tensor, Tensor] | None = None  # what it kept: its queries are then the places that are read
    windows: dict[int, int | None] = field(default_factory=dict)  # sliding window of each layer that asked
    kernels: set[str] | None = None  # where to say what it ran on, the first time that a layer asks for a window
    told: set[int | None] = field(default_factory=set)  # the windows of which that was said


class KeysKept(Exception):
    """A layer has come to its attention and its keys and values are kept; the rest of it is not wanted."""


# Not a keyword argument of the model's forward: some models' layers drop those that they do not know.
ROW: ContextVar[Row] = ContextVar("row")


@contextmanager
def forwarding(row: Row) -> Iterator[None]:
    """Have `attend` in this thread work on this row."""
    token = ROW.set(row)
    try:
        yield
    finally:
        ROW.reset(token)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention over a flat row: query (1, heads, tokens, size), key and value (1, key heads, tokens, size).

    s_aux: (heads,) attention sinks, logits of a key that nothing is taken from (GPT-OSS). Returns (1, tokens, heads,
    value size). In a layer of which only the places that are read are wanted there are as many queries, and keys and
    values are those that it kept. Raises NotImplementedError for what it cannot honour.
    """
    strange = {name for name, given in kwargs.items() if isinstance(given, Tensor)} - _HARMLESS
    if attention_mask is not None or strange:
        raise NotImplementedError(f"attention with {', '.join(sorted(strange)) or 'a mask of its own'}")
    row, layer = ROW.get(), int(module.layer_idx)  # type: ignore[arg-type]
    row.windows[layer] = sliding_window
    queries, keys, values = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, size)
    if row.kept is not None:
        depth = row.layouts[0].depth
        row.kept.keys[layer] = _go_on(row.prefix.keys, layer, depth, keys)
        row.kept.values[layer] = _go_on(row.prefix.values, layer, depth, values)
    if row.keeps_keys:
        row.keys_and_values = keys, values
        raise KeysKept
    at_reads = row.keys_and_values is not None
    if row.keys_and_values is not None:
        keys, values = row.keys_and_values
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefix = (row.prefix.keys[layer], row.prefix.values[layer]) if row.prefix.keys else None
    own = next(module.parameters(), None)
    weights = None if own is None else own.dtype
    kernels = row.kernels if sliding_window not in row.told else None
    row.told.add(sliding_window)
    asked = Asked(queries, keys, values, prefix, scaling, at_reads, sliding_window, softcap, s_aux, kernels, weights)
    parts, first_read = [], 0
    for layout in row.layouts:
        parts.append(layout.attend(asked, first_read))
        first_read += layout.num_reads
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _go_on(kept: dict[int, Tensor], layer: int, depth: int, own: Tensor) -> Tensor:
    """The first `depth` tokens of what is kept, and `own` (tokens, heads, size)."""
    return torch.cat([kept[layer][:depth], own]) if depth else own


AttentionInterface.register(NAME, attend)
