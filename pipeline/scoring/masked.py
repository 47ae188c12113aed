"""Attention with masks: trees of about one size, folded from the flat row into a matrix with a tree in each line.

A tree's cells are its own tokens and then its nodes in preorder, so that what a cell sees needs no table of ancestors:
cell k is on the way to cell q if k <= q < ends[k]. That masks any trees side by side, whatever their tries.

Invariant: a line is padded behind its tree alone, and nothing that is no padding sees padding.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from pipeline.scoring.layouts import Asked


@dataclass(slots=True, eq=False)
class MaskedGroup:
    """Trees side by side in the flat row, `width` cells each, which see the same first `depth` tokens of the prefix.

    Where all trees have one shape, `ends`, `positions` and `reads` have one line for all. `index` and `inverse` are
    None where no tree has to be padded, and so are those of the reads.
    """

    begin: int  # place in the flat row
    depth: int
    num_trees: int
    width: int
    num_tokens: int
    num_reads: int
    span: int  # more than any position
    ends: Tensor  # (trees or 1, width)
    positions: Tensor  # (trees or 1, width), in a sequence of its own
    reads: Tensor  # (trees or 1, most reads) cells whose logits are read
    index: Tensor | None = None  # (trees * width,) place in the flat row of each cell
    inverse: Tensor | None = None  # (tokens,) cell of each of the group's tokens
    read_index: Tensor | None = None  # (trees * most reads,) which of the group's reads
    read_inverse: Tensor | None = None  # (reads,)
    masks: dict[tuple[int | None, int, bool], Tensor] = field(default_factory=dict, init=False)

    def attend(self, asked: Asked, first_read: int) -> Tensor:
        keys, values = self._fold(asked.keys), self._fold(asked.values)  # (trees, key heads, width, size)
        if self.depth:
            assert asked.prefix is not None
            keys, values = (
                _prepend(each[: self.depth], own) for each, own in zip(asked.prefix, (keys, values), strict=True)
            )
        num_folded = asked.queries.shape[1] // keys.shape[1]
        mask = self.mask(asked.window, num_folded, asked.queries.dtype, at_reads=asked.at_reads)
        if asked.at_reads:
            queries = self._fold_reads(asked.queries[first_read : first_read + self.num_reads])
        else:
            queries = self._fold(asked.queries)
        if asked.kernels is not None:
            asked.kernels.add(_kernel(queries, keys, values, mask, asked))
        cells = _attend_cells(queries, keys, values, mask, asked.scaling, asked.softcap, asked.sinks)
        flat = cells.transpose(1, 2).flatten(0, 1)
        inverse = self.read_inverse if asked.at_reads else self.inverse
        return flat if inverse is None else flat.index_select(0, inverse)

    def _fold(self, tensor: Tensor) -> Tensor:
        """(tokens of the row, heads, size) -> (trees, heads, width, size)."""
        end = self.begin + self.num_tokens
        cells = tensor[self.begin : end] if self.index is None else tensor.index_select(0, self.index)
        return cells.view(self.num_trees, self.width, *cells.shape[1:]).transpose(1, 2)

    def _fold_reads(self, queries: Tensor) -> Tensor:
        """(reads of the group, heads, size) -> (trees, heads, most reads, size)."""
        if self.read_index is not None:
            queries = queries.index_select(0, self.read_index)
        return queries.reshape(self.num_trees, -1, *queries.shape[1:]).transpose(1, 2)

    def mask(self, window: int | None, num_folded: int, dtype: torch.dtype, *, at_reads: bool = False) -> Tensor:
        """(1 or trees, 1, num_folded * queries, depth + width) what is added to attention scores: 0 or -inf.

        The queries are all `width` cells or, `at_reads`, those whose logits are read. `num_folded` query heads share a
        key head and are laid one after the other along the queries.
        """
        if window is not None and window >= self.span:
            window = None
        key = (window, num_folded, at_reads)
        if key not in self.masks:
            cells = torch.arange(self.width, device=self.ends.device)[None]
            visible = self._visible(self.reads if at_reads else cells, cells, window)
            mask = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))
            self.masks[key] = mask.repeat(1, num_folded, 1)[:, None]
        return self.masks[key]

    def _visible(self, queries: Tensor, cells: Tensor, window: int | None) -> Tensor:
        """(1 or trees, queries, depth + width) bool: which keys each query sees; `window` counts logical positions."""
        queries = queries[:, :, None]  # (1 or trees, queries, 1)
        own = (cells[:, None] <= queries) & (queries < self.ends[:, None])
        visible = torch.cat([own.new_ones(len(own), own.shape[1], self.depth), own], dim=2)
        if window is not None:
            prefix = torch.arange(self.depth, device=queries.device).expand(len(self.positions), -1)
            keys = torch.cat([prefix, self.positions], dim=1)[:, None]
            places = self.positions.gather(1, queries[:, :, 0].expand(len(self.positions), -1))
            visible = visible & (places[:, :, None] - keys < window)
        return visible


def _kernel(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, asked: Asked) -> str:
    """What PyTorch takes for such an attention, in words."""
    if asked.softcap is not None:
        return "attention with masks: plain, for a soft cap"
    if queries.device.type not in ("cpu", "cuda"):  # PyTorch does not tell
        return f"attention with masks: {queries.device.type}"
    folded = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
    chosen = torch._fused_sdp_choice(
        folded, keys, values, attn_mask=mask[..., : folded.shape[2], :], scale=asked.scaling
    )
    return f"attention with masks: {SDPBackend(chosen).name.lower().replace('_', ' ')}"


def _prepend(prefix: Tensor, own: Tensor) -> Tensor:
    """(depth, heads, size) before each tree's (trees, heads, width, size)."""
    return torch.cat([prefix.transpose(0, 1).expand(len(own), -1, -1, -1), own], dim=2)


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
