"""Attention for a flat row that holds many trees: each token sees the shared prefix and the way to it in its tree.

The linear layers run over one row with all tokens of a batch and no padding; only attention is done tree by tree, in
groups of trees of about one size. transformers calls `attend` through its interface for attention functions, the one
that inference servers use, so no model's code is touched and each model brings its own scaling, window and soft cap.

Invariant: a token's output is what it would be in a sequence of its own: prefix, item up to it, its own branch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from pipeline.scoring.groups import Group

NAME = "labelscore_tree"
# Keyword arguments with tensors in them that do not change what attention computes here.
_HARMLESS = {"position_ids", "cache_position", "position_embeddings", "cu_seq_lens_q", "cu_seq_lens_k"}


@dataclass(slots=True, eq=False)
class Prefix:
    """Keys and values of the tokens that items share, each (key heads, tokens, head size), by layer."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Row:
    """What attention needs to know of the flat row that is being forwarded."""

    groups: list[Group]
    prefix: Prefix
    kept: Prefix | None = None  # where to keep the row's tokens, all of one tree, behind what they see of the prefix
    keeps_keys: bool = False  # the next layer is to keep its keys and values and go no further
    keys_and_values: tuple[Tensor, Tensor] | None = None  # what it kept: its queries are then the places that are read
    windows: dict[int, int | None] = field(default_factory=dict)  # sliding window of each layer that asked


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
    if row.kept is not None:
        depth = row.groups[0].depth
        row.kept.keys[layer] = _go_on(row.prefix.keys, layer, depth, key[0])
        row.kept.values[layer] = _go_on(row.prefix.values, layer, depth, value[0])
    if row.keeps_keys:
        row.keys_and_values = key, value
        raise KeysKept
    at_reads = row.keys_and_values is not None
    if row.keys_and_values is not None:
        key, value = row.keys_and_values
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])  # (tokens, heads, size)
    begin = 0
    for group in row.groups:
        keys, values = group.fold(key), group.fold(value)  # (trees, key heads, width, size)
        if group.depth:
            keys = _prepend(row.prefix.keys[layer][:, : group.depth], keys)
            values = _prepend(row.prefix.values[layer][:, : group.depth], values)
        mask = group.mask(sliding_window, query.shape[1] // key.shape[1], query.dtype, at_reads=at_reads)
        if at_reads:
            end = begin + group.num_reads
            queries = group.fold_reads(query[0, :, begin:end])
            out[begin:end] = group.unfold_reads(_attend_cells(queries, keys, values, mask, scaling, softcap, s_aux))
            begin = end
        else:
            cells = _attend_cells(group.fold(query), keys, values, mask, scaling, softcap, s_aux)
            out[group.begin : group.begin + group.num_tokens] = group.unfold(cells)
    return out[None], None


def _go_on(kept: dict[int, Tensor], layer: int, depth: int, own: Tensor) -> Tensor:
    """The first `depth` tokens of what is kept, and `own` (heads, tokens, size)."""
    return torch.cat([kept[layer][:, :depth], own], dim=1) if depth else own


def _prepend(prefix: Tensor, own: Tensor) -> Tensor:
    """(heads, depth, size) before each tree's (trees, heads, width, size)."""
    return torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)


def _attend_cells(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Scaled dot-product attention of (trees, heads, queries, size) over (trees, key heads, depth + width, size).

    Query heads that share a key head become further rows of one query, so that keys are never repeated.
    """
    trees, heads, num_queries, size = query.shape
    query = query.reshape(trees, key.shape[1], -1, size)
    if sinks is not None:
        key, value, mask = _with_sinks(key, value, mask, sinks, num_queries)
    if softcap is None:
        cells = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) + mask
        cells = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return cells.reshape(trees, heads, num_queries, value.shape[-1])


def _with_sinks(
    key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor, num_queries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A further key and value of zeros, and the sinks as what is added to its score, which each head has its own of."""
    num_keys = mask.shape[3]
    column = sinks.to(mask.dtype).view(1, key.shape[1], -1, 1).repeat_interleave(num_queries, dim=2)
    further = torch.cat([mask.expand(-1, key.shape[1], -1, num_keys), column.expand(len(mask), -1, -1, -1)], dim=3)
    pad = (0, 0, 0, 1)
    return nn.functional.pad(key, pad), nn.functional.pad(value, pad), further


AttentionInterface.register(NAME, attend)
