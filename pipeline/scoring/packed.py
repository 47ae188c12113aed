"""The fast way's batches: items as token trees behind a shared prefix, packed side by side into one row of tokens.

Invariant: a batch holds each token of its trees once and no padding; a tree holds each token that its parts need, after
those of the prefix, once.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, groupby

import torch
from torch import Tensor

from pipeline.scoring.attention import Prefix
from pipeline.scoring.cells import Cells, repeat
from pipeline.scoring.layouts import Layout
from pipeline.scoring.parts import ItemPart
from pipeline.scoring.strings import Ids, num_common
from pipeline.scoring.trie import Branch, LabelTrie, make_trie, part_trie
from pipeline.scoring.varlen import MOST_NODES, MOST_REPEATED, lay_out

# Trees join a group for attention with masks while at most this share of its cells would be padding.
_MAX_PADDED = 0.06


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """Parts of items that are forwarded together.

    They see the first `depth` tokens of their section's prefix, and bring `own` ones and, behind these, a trie.
    """

    parts: tuple[ItemPart, ...]  # in alphabetical order
    prefix: Ids
    depth: int
    section: int
    own: Ids
    trie: LabelTrie
    notebook: bool

    @property
    def num_tokens(self) -> int:
        return len(self.own) + len(self.trie.tokens)

    @property
    def order(self) -> tuple[int, int]:
        """Section by section, longest first."""
        return self.section, -self.num_tokens

    def split(self) -> list["TokenTree"]:
        """Two smaller trees with the same parts; none where there is one part alone."""
        if len(self.parts) == 1:
            return []
        half = len(self.parts) // 2
        trees = [
            make_tree(parts, self.prefix, self.depth, self.section, notebook=self.notebook)
            for parts in (self.parts[:half], self.parts[half:])
        ]
        return sorted(trees, key=lambda tree: tree.order)


def make_tree(parts: tuple[ItemPart, ...], prefix: Ids, depth: int, section: int, *, notebook: bool) -> TokenTree:
    """One tree for parts, in alphabetical order, that have more than `depth` tokens in common."""
    first = parts[0]
    if len(parts) == 1:
        own = first.prompt[depth:]
        trie = part_trie(first.branches, first.num_label_tokens, first.labels, notebook)
    else:
        root = num_common(first.prompt, parts[-1].prompt)
        own = first.prompt[depth:root]
        trie = make_trie(_branches(parts, root), notebook=notebook)
    return TokenTree(parts, prefix, depth, section, own, trie, notebook)


def _branches(parts: Sequence[ItemPart], root: int) -> list[Branch]:
    """What follows the first `root` tokens of each label's sequence."""
    return [
        Branch(place, label, part.prompt[root:] + branch, num_tokens)
        for place, part in enumerate(parts)
        for label, branch, num_tokens in zip(part.labels, part.branches, part.num_label_tokens, strict=True)
    ]


def num_fitting(trees: Iterable[TokenTree], max_tokens: int) -> int:
    """How many of the first trees make a batch within the budget, at least one; all of one section."""
    num = num_tokens = section = 0
    for num, tree in enumerate(trees):
        num_tokens += tree.num_tokens
        if num and (num_tokens > max_tokens or tree.section != section):
            return num
        section = tree.section
    return num + 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """Trees that go on from `prefix`, side by side in one row, on the CPU."""

    indices: list[int]  # the item of each part
    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    reads: Tensor  # (reads,) places in the row
    terms: Tensor  # (terms, 4), by their reads
    num_tokens: int
    layouts: tuple[Layout, ...]
    prefix: Prefix


class Shape(IntEnum):
    """How a tree is attended: with a mask, or without, as a chain of tokens or with branches."""

    MASKED, CHAIN, BRANCHES = range(3)


@dataclass(frozen=True, slots=True)
class Unmasked:
    """Attention without masks where it can; `window` is the narrowest sliding window of the model's layers.

    A prefix of `most_repeated` times a tree's tokens is repeated before each tree, a longer one merged.
    """

    window: int | None
    most_repeated: float = MOST_REPEATED

    def shape(self, tree: TokenTree) -> Shape:
        if tree.trie.is_chain:
            return Shape.CHAIN
        is_within = self.window is None or tree.depth + tree.num_tokens <= self.window
        return Shape.BRANCHES if is_within and len(tree.trie.tokens) <= MOST_NODES else Shape.MASKED


def pack(trees: Sequence[TokenTree], prefix: Prefix | None = None, unmasked: Unmasked | None = None) -> PackedBatch:
    """Lay trees side by side, those of one depth in a row: own tokens, trie, own tokens, trie, ..."""

    kinds = [(tree.depth, Shape.MASKED if unmasked is None else unmasked.shape(tree)) for tree in trees]
    order = sorted(range(len(trees)), key=kinds.__getitem__)
    trees = [trees[place] for place in order]
    cells = Cells.of(trees)
    layouts: list[Layout] = []
    first = 0
    for (depth, shape), run in groupby(order, kinds.__getitem__):
        alike = trees[first : first + len(list(run))]
        if unmasked is not None and shape is not Shape.MASKED:
            layouts.append(lay_out(alike, int(cells.starts[first]), unmasked.window, unmasked.most_repeated))
            first += len(alike)
            continue
        for num_trees in _group_sizes(alike):
            layouts.append(cells.masked(first, first + num_trees, depth))
            first += num_trees
    indices = [part.index for tree in trees for part in tree.parts]
    tokens = chain.from_iterable(ids for tree in trees for ids in (tree.own, tree.trie.tokens))
    return PackedBatch(
        indices=indices,
        ids=torch.frombuffer(array("q", tokens), dtype=torch.int64)[None],
        positions=cells.positions[None],
        reads=cells.reads + repeat(cells.starts, cells.num_reads),
        terms=_place_terms(trees, torch.tensor(indices), cells.num_reads),
        num_tokens=len(cells.ends),
        layouts=tuple(layouts),
        prefix=prefix or Prefix(),
    )


def _group_sizes(trees: Sequence[TokenTree]) -> list[int]:
    """How many neighbours of about one size, longest first, make each group."""
    sizes: list[int] = []
    num_tokens = 0  # of the last group
    for place, tree in enumerate(trees):
        if sizes:
            first = trees[place - sizes[-1]]
            num_tokens += tree.num_tokens
            num_filled = (sizes[-1] + 1) * first.num_tokens * (1 - _MAX_PADDED)
            if num_tokens >= num_filled:
                sizes[-1] += 1
                continue
        sizes.append(1)
        num_tokens = tree.num_tokens
    return sizes


def _place_terms(trees: Sequence[TokenTree], indices: Tensor, num_reads: Tensor) -> Tensor:
    """(terms, 4) of all trees: parts become items, and reads are counted through the batch."""
    terms = torch.cat([tree.trie.terms for tree in trees])
    num_terms = torch.tensor([tree.trie.num_terms for tree in trees])
    num_parts = torch.tensor([len(tree.parts) for tree in trees])
    terms[:, 0] = indices[terms[:, 0] + repeat(num_parts.cumsum(0) - num_parts, num_terms)]
    terms[:, 2] += repeat(num_reads.cumsum(0) - num_reads, num_terms)
    return terms
