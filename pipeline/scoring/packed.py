"""The fast way's batches: items as token trees behind a shared prefix, packed side by side into one row of tokens.

Invariant: trees depend on the items alone; each part of an item is one tree, and a batch holds each of its tokens after
the prefix once and no padding.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.scoring.attention import Group, Prefix
from pipeline.scoring.parts import ItemPart, num_common
from pipeline.scoring.strings import Ids
from pipeline.scoring.trie import LabelTrie, make_trie

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
    """A part of an item: it sees the prefix's first `depth` tokens, and brings `own` ones and, behind them, a trie."""

    index: int  # place among the caller's items
    depth: int
    own: Ids
    trie: LabelTrie

    @property
    def num_tokens(self) -> int:
        return len(self.own) + len(self.trie.tokens)


def make_trees(parts: Sequence[ItemPart], prefix: Ids, *, notebook: bool) -> list[TokenTree]:
    """The parts' trees, longest first; those of one length that share a trie side by side."""
    trees = []
    tries: dict[LabelTrie, int] = {}
    for part in parts:
        depth = len(prefix)
        if part.prompt[:depth] != prefix or len(part.prompt) <= depth:
            depth = min(num_common(part.prompt, prefix), len(part.prompt) - 1)
        trie = make_trie(part.branches, part.num_label_tokens, part.labels, notebook)
        tries.setdefault(trie, len(tries))
        trees.append(TokenTree(part.index, depth, part.prompt[depth:], trie))
    return sorted(trees, key=lambda tree: (-tree.num_tokens, tries[tree.trie], tree.depth, tree.index))


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

    indices: list[int]  # the item of each tree
    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    reads: Tensor  # (reads,) places in the row
    terms: Tensor  # (terms, 4)
    num_tokens: int
    groups: list[Group]
    prefix: Prefix


def pack(trees: Sequence[TokenTree], prefix: Prefix | None = None) -> PackedBatch:
    """Lay trees side by side: item, trie, item, trie, ..."""
    groups: list[Group] = []
    positions, reads, terms = [], [], []
    num_tokens = num_reads = 0
    for alike in _find_groups(trees):
        trie = alike[0].trie
        group = Group(num_tokens, alike[0].depth, torch.tensor([len(tree.own) for tree in alike]), trie)
        positions.append(group.positions()[group.filled()])
        reads.append(_places_of_reads(group).flatten())
        firsts = [(tree.index, 0, num_reads + i * len(trie.reads), 0) for i, tree in enumerate(alike)]
        terms.append((torch.tensor(firsts)[:, None] + trie.terms).flatten(0, 1))
        num_tokens += group.num_tokens
        num_reads += group.num_reads
        groups.append(group)
    return PackedBatch(
        indices=[tree.index for tree in trees],
        ids=torch.tensor([[token for tree in trees for token in (*tree.own, *tree.trie.tokens)]]),
        positions=torch.cat(positions)[None],
        reads=torch.cat(reads),
        terms=torch.cat(terms),
        num_tokens=num_tokens,
        groups=groups,
        prefix=prefix or Prefix(),
    )


def _find_groups(trees: Sequence[TokenTree]) -> list[list[TokenTree]]:
    """Neighbours with one trie, one depth and about one length."""
    groups = [[trees[0]]]
    num_tokens = trees[0].num_tokens  # of the last group
    for tree in trees[1:]:
        group, first = groups[-1], groups[-1][0]
        num_tokens += tree.num_tokens
        is_alike = tree.trie is first.trie and tree.depth == first.depth
        if is_alike and num_tokens >= (len(group) + 1) * first.num_tokens * (1 - _MAX_PADDED):
            group.append(tree)
        else:
            groups.append([tree])
            num_tokens = tree.num_tokens
    return groups


def _places_of_reads(group: Group) -> Tensor:
    """(items, reads) places in the flat row."""
    cells = torch.arange(len(group.lengths))[:, None] * group.width + group.read_cells()
    return group.begin + cells if group.index is None else group.index[cells]
