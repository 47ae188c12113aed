"""The fast way's batches: items as token trees behind a shared prefix, packed side by side into one row of tokens.

Invariant: trees depend on the items alone; each part of an item is in one tree, and a batch holds each of its tokens
after the prefix once and no padding.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.scoring.attention import Prefix
from pipeline.scoring.groups import Group
from pipeline.scoring.parts import ItemPart, num_common
from pipeline.scoring.strings import Ids
from pipeline.scoring.trie import LabelTrie, part_trie

# The prefix goes on while so large a share of the items goes along with it; the others leave it where they depart.
_FOLLOWERS = 0.9
# Items join a group for attention while at most this share of its cells would be padding.
_MAX_PADDED = 0.06


def find_prefix(prompts: Sequence[Ids]) -> Ids:
    """The tokens with which (nearly) all prompts begin; each that follows it to its end has a token of its own left."""
    if len(prompts) < 2:
        return ()
    needed = _FOLLOWERS * len(prompts)
    size = num_common(min(prompts), max(prompts))
    following = [ids for ids in prompts if len(ids) > size + 1]
    prefix = list(prompts[0][: min(size, *(len(ids) - 1 for ids in prompts))])
    while len(prefix) >= size and len(following) >= needed:
        counts = Counter(ids[len(prefix)] for ids in following)
        token = min(counts, key=lambda token: (-counts[token], token))
        if counts[token] < needed:
            break
        prefix.append(token)
        following = [ids for ids in following if ids[len(prefix) - 1] == token and len(ids) > len(prefix) + 1]
    return tuple(prefix)


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """Parts of items that are forwarded together.

    They see the prefix's first `depth` tokens, and bring `own` ones and, behind these, a trie.
    """

    indices: tuple[int, ...]  # the item of each part
    depth: int
    own: Ids
    trie: LabelTrie

    @property
    def num_tokens(self) -> int:
        return len(self.own) + len(self.trie.tokens)


def make_trees(parts: Sequence[ItemPart], prefix: Ids, *, notebook: bool) -> list[TokenTree]:
    """The parts' trees, longest first."""
    trees = []
    for part in parts:
        depth = len(prefix)
        if part.prompt[:depth] != prefix or len(part.prompt) <= depth:
            depth = min(num_common(part.prompt, prefix), len(part.prompt) - 1)
        trie = part_trie(part.branches, part.num_label_tokens, part.labels, notebook)
        trees.append(TokenTree((part.index,), depth, part.prompt[depth:], trie))
    return sorted(trees, key=lambda tree: (-tree.num_tokens, tree.depth, tree.indices))


def num_fitting(trees: Iterable[TokenTree], max_tokens: int, max_reads: int) -> int:
    """How many of the first trees make a batch within both budgets, at least one."""
    num = num_tokens = num_reads = 0
    for num, tree in enumerate(trees):
        num_tokens += tree.num_tokens
        num_reads += len(tree.trie.reads)
        if num and (num_tokens > max_tokens or num_reads > max_reads):
            return num
    return num + 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """Trees that go on from `prefix`, side by side in one row, on the CPU."""

    indices: list[int]  # the item of each part
    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    reads: Tensor  # (reads,) places in the row
    terms: Tensor  # (terms, 4)
    num_tokens: int
    groups: list[Group]
    prefix: Prefix


def pack(trees: Sequence[TokenTree], prefix: Prefix | None = None) -> PackedBatch:
    """Lay trees side by side, those of one depth in a row: own tokens, trie, own tokens, trie, ..."""
    trees = sorted(trees, key=lambda tree: tree.depth)
    cells = _Cells.of(trees)
    groups, first = [], 0
    for num_trees in _group_sizes(trees):
        groups.append(cells.group(first, first + num_trees, trees[first].depth))
        first += num_trees
    indices = [index for tree in trees for index in tree.indices]
    return PackedBatch(
        indices=indices,
        ids=torch.tensor([[token for tree in trees for token in (*tree.own, *tree.trie.tokens)]]),
        positions=cells.positions[None],
        reads=cells.reads + _repeat(cells.starts, cells.num_reads),
        terms=_place_terms(trees, torch.tensor(indices), cells.num_reads),
        num_tokens=len(cells.ends),
        groups=groups,
        prefix=prefix or Prefix(),
    )


def _group_sizes(trees: Sequence[TokenTree]) -> list[int]:
    """How many neighbours of one depth and about one size, longest first, make each group."""
    sizes: list[int] = []
    num_tokens = 0  # of the last group
    for place, tree in enumerate(trees):
        if sizes:
            first = trees[place - sizes[-1]]
            num_tokens += tree.num_tokens
            num_filled = (sizes[-1] + 1) * first.num_tokens * (1 - _MAX_PADDED)
            if tree.depth == first.depth and num_tokens >= num_filled:
                sizes[-1] += 1
                continue
        sizes.append(1)
        num_tokens = tree.num_tokens
    return sizes


def _place_terms(trees: Sequence[TokenTree], indices: Tensor, num_reads: Tensor) -> Tensor:
    """(terms, 4) of all trees: parts become items, and reads are counted through the batch."""
    terms = torch.cat([tree.trie.terms for tree in trees])
    num_terms = torch.tensor([len(tree.trie.terms) for tree in trees])
    num_parts = torch.tensor([len(tree.indices) for tree in trees])
    terms[:, 0] = indices[terms[:, 0] + _repeat(num_parts.cumsum(0) - num_parts, num_terms)]
    terms[:, 2] += _repeat(num_reads.cumsum(0) - num_reads, num_terms)
    return terms


def _repeat(values: Tensor, times: Tensor) -> Tensor:
    """Each value so many times, at least once.

    Not repeat_interleave: it asks all threads to help however little there is to do, and they are busy in lanes.
    """
    begins = torch.zeros(int(times.sum()), dtype=torch.int64)
    begins[times.cumsum(0)[:-1]] = 1
    return values[begins.cumsum(0)]


class _Cells(NamedTuple):
    """The cells of all trees of a batch, one tree after the other; places count in the tree."""

    starts: Tensor  # (trees,) places in the row
    sizes: Tensor  # (trees,)
    num_reads: Tensor  # (trees,)
    positions: Tensor  # (tokens,) in a sequence of its own
    ends: Tensor  # (tokens,) behind the last cell that the cell is on the way to
    reads: Tensor  # (reads,)

    @classmethod
    def of(cls, trees: Sequence[TokenTree]) -> "_Cells":
        tries = [tree.trie for tree in trees]
        num_own = torch.tensor([len(tree.own) for tree in trees])
        sizes = num_own + torch.tensor([len(trie.tokens) for trie in tries])
        num_reads = torch.tensor([len(trie.reads) for trie in tries])
        starts = sizes.cumsum(0) - sizes
        own = _repeat(num_own, sizes)  # (tokens,) how many own tokens the cell's tree has
        positions = torch.arange(len(own)) - _repeat(starts, sizes)
        ends = _repeat(sizes, sizes)
        is_node = positions >= own
        positions[is_node] = own[is_node] - 1 + torch.cat([trie.depths for trie in tries])
        ends[is_node] = own[is_node] + torch.cat([trie.ends for trie in tries])
        positions += _repeat(torch.tensor([tree.depth for tree in trees]), sizes)
        reads = torch.cat([trie.reads for trie in tries]) + _repeat(num_own, num_reads)  # the root is the last of own
        return cls(starts, sizes, num_reads, positions, ends, reads)

    def group(self, first: int, last: int, depth: int) -> Group:
        """The trees [first, last) folded into a matrix."""
        sizes, num_reads = self.sizes[first:last], self.num_reads[first:last]
        begin, first_read = int(self.starts[first]), int(self.num_reads[:first].sum())
        index, inverse = _fold(sizes)
        read_index, read_inverse = _fold(num_reads)
        width = int(sizes.max())
        is_filled = torch.arange(width) < sizes[:, None]
        ends = torch.where(is_filled, self.ends[begin + index], width)  # padding sees itself, as it must see something
        positions, reads = self.positions[begin + index], self.reads[first_read + read_index]
        is_padded, reads_are_padded = len(inverse) < index.numel(), len(read_inverse) < read_index.numel()
        if not is_padded and not reads_are_padded and bool((ends == ends[0]).all() and (reads == reads[0]).all()):
            ends, positions, reads = ends[:1], positions[:1], reads[:1]
        return Group(
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


def _fold(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of these sizes as lines of a matrix: (pieces, longest) the place of each cell, and each place's cell.

    Padding repeats its own piece's last place, so that what is wrong with a piece stays in it.
    """
    width = int(sizes.max())
    starts = sizes.cumsum(0) - sizes
    index = starts[:, None] + torch.minimum(torch.arange(width), sizes[:, None] - 1)
    shifts = torch.arange(len(sizes)) * width - starts
    return index, torch.arange(int(sizes.sum())) + _repeat(shifts, sizes)
