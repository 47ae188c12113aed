"""The flat row of a batch: where each tree's cells lie in it, and how they are folded into groups.

Invariant: a tree's cells are its own tokens and then its trie's nodes, and nothing lies between two trees.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.scoring.masked import MaskedGroup
from pipeline.scoring.strings import Ids
from pipeline.scoring.trie import LabelTrie


class Tree(Protocol):
    """What a tree brings: own tokens behind `depth` others, and a trie behind the last of them."""

    @property
    def depth(self) -> int: ...
    @property
    def own(self) -> Ids: ...
    @property
    def trie(self) -> LabelTrie: ...


def repeat(values: Tensor, times: Tensor) -> Tensor:
    """Each value so many times, at least once.

    Not repeat_interleave: it asks all threads to help however little there is to do, and they are busy in lanes.
    """
    begins = torch.zeros(int(times.sum()), dtype=torch.int64)
    begins[times.cumsum(0)[:-1]] = 1
    return values[begins.cumsum(0)]


class Cells(NamedTuple):
    """The cells of all trees of a batch, one tree after the other; places count in the tree."""

    starts: Tensor  # (trees,) places in the row
    sizes: Tensor  # (trees,)
    num_reads: Tensor  # (trees,)
    positions: Tensor  # (tokens,) in a sequence of its own
    ends: Tensor  # (tokens,) behind the last cell that the cell is on the way to
    reads: Tensor  # (reads,)

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> "Cells":
        tries = [tree.trie for tree in trees]
        num_own = torch.tensor([len(tree.own) for tree in trees])
        sizes = num_own + torch.tensor([len(trie.tokens) for trie in tries])
        num_reads = torch.tensor([trie.num_reads for trie in tries])
        starts = sizes.cumsum(0) - sizes
        own = repeat(num_own, sizes)  # (tokens,) how many own tokens the cell's tree has
        positions = torch.arange(len(own)) - repeat(starts, sizes)
        ends = repeat(sizes, sizes)
        is_node = positions >= own
        positions[is_node] = own[is_node] - 1 + torch.cat([trie.depths for trie in tries])
        ends[is_node] = own[is_node] + torch.cat([trie.ends for trie in tries])
        positions += repeat(torch.tensor([tree.depth for tree in trees]), sizes)
        reads = torch.cat([trie.reads for trie in tries]) + repeat(num_own, num_reads)  # the root is the last of own
        return cls(starts, sizes, num_reads, positions, ends, reads)

    def masked(self, first: int, last: int, depth: int) -> MaskedGroup:
        """The trees [first, last) folded into a matrix."""
        sizes, num_reads = self.sizes[first:last], self.num_reads[first:last]
        begin, first_read = int(self.starts[first]), int(self.num_reads[:first].sum())
        index, inverse = fold(sizes)
        read_index, read_inverse = fold(num_reads)
        width = int(sizes.max())
        is_filled = torch.arange(width) < sizes[:, None]
        ends = torch.where(is_filled, self.ends[begin + index], width)  # padding sees itself, as it must see something
        positions, reads = self.positions[begin + index], self.reads[first_read + read_index]
        is_padded, reads_are_padded = len(inverse) < index.numel(), len(read_inverse) < read_index.numel()
        if not is_padded and not reads_are_padded and bool((ends == ends[0]).all() and (reads == reads[0]).all()):
            ends, positions, reads = ends[:1], positions[:1], reads[:1]
        return MaskedGroup(
            begin=begin,
            depth=depth,
            num_trees=last - first,
            width=width,
            num_tokens=len(inverse),
            num_reads=len(read_inverse),
            span=int(positions.max()) + 1,
            ends=ends,
            positions=positions,
            reads=reads,
            index=(begin + index).flatten() if is_padded else None,
            inverse=inverse if is_padded else None,
            read_index=read_index.flatten() if reads_are_padded else None,
            read_inverse=read_inverse if reads_are_padded else None,
        )


def fold(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of these sizes as lines of a matrix: (pieces, longest) the place of each cell, and each place's cell.

    Padding repeats its own piece's last place, so that what is wrong with a piece stays in it.
    """
    width = int(sizes.max())
    starts = sizes.cumsum(0) - sizes
    index = starts[:, None] + torch.minimum(torch.arange(width), sizes[:, None] - 1)
    shifts = torch.arange(len(sizes)) * width - starts
    return index, torch.arange(int(sizes.sum())) + repeat(shifts, sizes)
