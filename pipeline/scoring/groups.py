"""Groups for attention: trees of about one size, folded from the flat row into a matrix with a tree in each line.

A tree's cells are its own tokens and then its nodes in preorder, so that what a cell sees needs no table of ancestors:
cell k is on the way to cell q if k <= q < ends[k]. That masks any trees side by side, whatever their tries.

Invariant: a line is padded behind its tree alone, and nothing that is no padding sees padding.
"""

from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

_TENSORS = ("ends", "positions", "reads", "index", "inverse", "read_index", "read_inverse")


@dataclass(slots=True, eq=False)
class Group:
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
    masks: dict[tuple[int | None, int, bool], Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Group":
        """A copy on the model's device, brought there in one go, which takes its masks with it when it goes."""
        moved = copy(self)
        moved.masks = {}
        if device.type == "cpu":
            return moved
        here = {name: tensor for name in _TENSORS if (tensor := getattr(self, name)) is not None}
        flat = torch.cat([tensor.flatten() for tensor in here.values()]).to(device)
        pieces = torch.split(flat, [tensor.numel() for tensor in here.values()])
        for (name, tensor), piece in zip(here.items(), pieces, strict=True):
            setattr(moved, name, piece.view_as(tensor))
        return moved

    def fold(self, tensor: Tensor) -> Tensor:
        """(1, heads, tokens of the row, size) -> (trees, heads, width, size)."""
        flat = tensor[0].transpose(0, 1)  # (tokens, heads, size)
        end = self.begin + self.num_tokens
        flat = flat[self.begin : end] if self.index is None else flat.index_select(0, self.index)
        return flat.view(self.num_trees, self.width, *flat.shape[1:]).transpose(1, 2)

    def unfold(self, cells: Tensor) -> Tensor:
        """(trees, heads, width, size) -> (tokens of the group, heads, size)."""
        flat = cells.transpose(1, 2).flatten(0, 1)
        return flat if self.inverse is None else flat.index_select(0, self.inverse)

    def fold_reads(self, queries: Tensor) -> Tensor:
        """(heads, reads of the group, size) -> (trees, heads, most reads, size)."""
        if self.read_index is not None:
            queries = queries.index_select(1, self.read_index)
        return queries.reshape(len(queries), self.num_trees, -1, queries.shape[2]).transpose(0, 1)

    def unfold_reads(self, cells: Tensor) -> Tensor:
        """(trees, heads, most reads, size) -> (reads of the group, heads, size)."""
        flat = cells.transpose(1, 2).flatten(0, 1)
        return flat if self.read_inverse is None else flat.index_select(0, self.read_inverse)

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
