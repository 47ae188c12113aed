"""Attention for a flat row that holds many items: each token sees the shared prefix, its item and its ancestors.

The linear layers run over one row with all tokens of a batch and no padding; only attention is done item by item, in
groups of items of about one length. transformers calls `attend` through its interface for attention functions, the one
that inference servers use, so no model's code is touched and each model brings its own scaling, window and soft cap.

Invariant: a token's output is what it would be in a sequence of its own: prefix, item up to it, its own branch.
"""

from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from pipeline.scoring.trie import ROOT, LabelTrie

NAME = "labelscore_tree"
# Keyword arguments with tensors in them that do not change what attention computes here.
_HARMLESS = {"position_ids", "cache_position", "position_embeddings", "cu_seq_lens_q", "cu_seq_lens_k"}


@dataclass(slots=True, eq=False)
class Group:
    """Items side by side in the flat row which share a trie and see the same first `depth` tokens of the prefix.

    The row holds, item after item, its own tokens and then the trie's nodes. In `index` and `inverse` it is folded into
    a matrix of `width` = longest item + nodes; they are None where nothing has to be padded for that. Masks are made
    where `lengths` lie.
    """

    begin: int
    depth: int
    lengths: Tensor  # (items,) own tokens
    trie: LabelTrie
    index: Tensor | None = None  # (items * width,) place in the flat row of each cell
    inverse: Tensor | None = None  # (tokens,) cell of each of the group's tokens
    longest: int = 0
    num_tokens: int = 0
    masks: dict[tuple[int | None, int, bool], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_nodes = len(self.trie.tokens)
        self.longest = int(self.lengths.max())
        self.num_tokens = int(self.lengths.sum()) + len(self.lengths) * num_nodes
        if self.num_tokens == len(self.lengths) * self.width:
            return
        filled = self.filled()
        index = torch.full(filled.shape, self.begin)
        index[filled] = torch.arange(self.begin, self.begin + self.num_tokens)
        self.index = index.flatten()
        self.inverse = filled.flatten().nonzero()[:, 0]

    def to(self, device: torch.device) -> "Group":
        """A copy on the model's device, which takes its masks with it when it goes."""
        moved = copy(self)
        moved.lengths, moved.masks = self.lengths.to(device), {}
        if self.index is not None and self.inverse is not None:
            moved.index, moved.inverse = self.index.to(device), self.inverse.to(device)
        return moved

    @property
    def width(self) -> int:
        return self.longest + len(self.trie.tokens)

    def filled(self) -> Tensor:
        """(items, width) bool: the cells that hold a token; items are padded before the nodes."""
        own = torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]
        return torch.cat([own, own.new_ones(len(self.lengths), len(self.trie.tokens))], dim=1)

    def positions(self) -> Tensor:
        """(items, width) each cell's position in a sequence of its own."""
        device = self.lengths.device
        own = torch.arange(self.longest, device=device).expand(len(self.lengths), -1)
        nodes = self.lengths[:, None] - 1 + torch.tensor(self.trie.depths, dtype=torch.int64, device=device)
        return self.depth + torch.cat([own, nodes], dim=1)

    @property
    def num_reads(self) -> int:
        """How many rows of logits are read over all items."""
        return len(self.lengths) * len(self.trie.reads)

    def mask(self, window: int | None, num_folded: int, dtype: torch.dtype, *, at_reads: bool = False) -> Tensor:
        """(1 or items, 1, num_folded * queries, depth + width) what is added to attention scores: 0 or -inf.

        The queries are all `width` cells or, `at_reads`, those whose logits are read. `num_folded` query heads share a
        key head and are laid one after the other along the queries.
        """
        if window is not None and window >= self.depth + self.longest + max(self.trie.depths, default=0):
            window = None
        key = (window, num_folded, at_reads)
        if key not in self.masks:
            if at_reads:
                cells = self.mask(window, num_folded, dtype)[:, 0, : self.width]
                reads = self.read_cells()[: len(cells), :, None]  # where lengths are alike, so are the cells
                mask = cells.gather(1, reads.expand(-1, -1, cells.shape[2]))
            else:
                visible = self._visible(window)
                mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))
            self.masks[key] = mask.repeat(1, num_folded, 1)[:, None]
        return self.masks[key]

    def read_cells(self) -> Tensor:
        """(items, reads) cells of each item that are read; the root is its own last token."""
        reads = torch.tensor(self.trie.reads, device=self.lengths.device)
        return torch.where(reads == ROOT, self.lengths[:, None] - 1, self.longest + reads)

    def _visible(self, window: int | None) -> Tensor:
        """(1 or items, width, depth + width) bool: which keys each cell sees; `window` counts logical positions."""
        longest, device = self.longest, self.lengths.device
        is_alike = self.index is None  # all items have one length: one mask serves them all
        filled, positions = (self.filled()[:1], self.positions()[:1]) if is_alike else (self.filled(), self.positions())
        own = torch.zeros(len(filled), self.width, self.width, dtype=torch.bool, device=device)
        own[:, :longest, :longest] = own.new_ones(longest, longest).tril()
        own[:, longest:, :longest] = filled[:, None, :longest]
        own[:, longest:, longest:] = self.trie.ancestors.to(device)
        visible = torch.cat([own.new_ones(len(filled), self.width, self.depth), own], dim=2)
        if window is not None:
            prefix = torch.arange(self.depth, device=device).expand(len(filled), -1)
            keys = torch.cat([prefix, positions], dim=1)
            visible &= positions[:, :, None] - keys[:, None, :] < window
        return visible


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
    is_prefix: bool = False  # the row is the prefix itself, to be kept
    keeps_keys: bool = False  # the next layer is to keep its keys and values and go no further
    keys_and_values: tuple[Tensor, Tensor] | None = None  # what it kept: its queries are then the places that are read
    windows: dict[int, int | None] = field(default_factory=dict)  # sliding window of each layer that asked


class KeysKept(Exception):
    """A layer has come to its attention and its keys and values are kept; the rest of it is not wanted."""


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
    labelscore_row: Row | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention over a flat row: query (1, heads, tokens, size), key and value (1, key heads, tokens, size).

    Returns (1, tokens, heads, value size). In a layer of which only the places that are read are wanted there are as
    many queries, and keys and values are those that it kept. Raises NotImplementedError for what it cannot honour.
    """
    strange = {name for name, given in kwargs.items() if isinstance(given, Tensor)} - _HARMLESS
    if labelscore_row is None or attention_mask is not None or strange:
        raise NotImplementedError(f"attention with {', '.join(sorted(strange)) or 'a mask of its own'}")
    row, layer = labelscore_row, int(module.layer_idx)  # type: ignore[arg-type]
    row.windows[layer] = sliding_window
    if row.is_prefix:
        row.prefix.keys[layer], row.prefix.values[layer] = key[0], value[0]
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
        keys, values = _fold(group, key), _fold(group, value)  # (items, key heads, width, size)
        if group.depth:
            keys = _prepend(row.prefix.keys[layer][:, : group.depth], keys)
            values = _prepend(row.prefix.values[layer][:, : group.depth], values)
        mask = group.mask(sliding_window, query.shape[1] // key.shape[1], query.dtype, at_reads=at_reads)
        if at_reads:
            end = begin + group.num_reads
            # (heads, items * reads, size) -> (items, heads, reads, size)
            queries = query[0, :, begin:end].reshape(query.shape[1], len(group.lengths), -1, query.shape[3])
            queries = queries.transpose(0, 1)
            cells = _attend_cells(queries, keys, values, mask, scaling, softcap)
            out[begin:end] = cells.transpose(1, 2).flatten(0, 1)
            begin = end
        else:
            _unfold(group, _attend_cells(_fold(group, query), keys, values, mask, scaling, softcap), out)
    return out[None], None


def _fold(group: Group, tensor: Tensor) -> Tensor:
    """(1, heads, tokens, size) -> (items, heads, width, size)."""
    flat = tensor[0].transpose(0, 1)  # (tokens, heads, size)
    if group.index is None:
        flat = flat[group.begin : group.begin + group.num_tokens]
    else:
        flat = flat.index_select(0, group.index)
    return flat.view(len(group.lengths), group.width, *flat.shape[1:]).transpose(1, 2)


def _prepend(prefix: Tensor, own: Tensor) -> Tensor:
    """(heads, depth, size) before each item's (items, heads, width, size)."""
    return torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)


def _unfold(group: Group, cells: Tensor, out: Tensor) -> None:
    """Write (items, heads, width, size) to the group's place in `out` (tokens, heads, size)."""
    flat = cells.transpose(1, 2).flatten(0, 1)
    if group.inverse is not None:
        flat = flat.index_select(0, group.inverse)
    out[group.begin : group.begin + group.num_tokens] = flat


def _attend_cells(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    """Scaled dot-product attention of (items, heads, queries, size) over (items, key heads, depth + width, size).

    Query heads that share a key head become further rows of one query, so that keys are never repeated.
    """
    items, heads, num_queries, size = query.shape
    query = query.reshape(items, key.shape[1], -1, size)
    if softcap is None:
        cells = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    else:
        scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) + mask
        cells = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return cells.reshape(items, heads, num_queries, value.shape[-1])


def keep_soft_cap(model: PreTrainedModel) -> None:
    """Have attention with a soft cap (Gemma 2) done as written: transformers 5.17 takes a kernel that leaves it out."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")


AttentionInterface.register(NAME, attend)
