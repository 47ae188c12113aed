"""The label trie: what must be computed after a token, the root, so that all labels behind it can be scored.

Invariant: every distinct beginning of a branch that a term needs is one node, and all that hangs off a node comes right
after it (preorder), up to its `end`. A label's last token is no node unless the notebook's rule is asked for: its
parent's logits score it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.scoring.strings import Ids, num_common
from pipeline.scoring.terms import label_terms

ROOT = -1


class Branch(NamedTuple):
    """The tokens after the root for one label, of which the last `num_tokens` are scored."""

    part: int  # whose label it is: a place among those that share the trie
    label: int
    ids: Ids
    num_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrie:
    """The nodes that hang off the node `ROOT`, with one entry a node; the depth of the root's children is 1.

    Node k is on the way to node j if k <= j < ends[k]. Logits are read at the nodes `reads`, in their order. The terms'
    first column counts parts.
    """

    tokens: Ids
    depths: Tensor  # (nodes,)
    ends: Tensor  # (nodes,)
    reads: Tensor  # (reads,)
    terms: Tensor  # (terms, 4), by their reads
    num_reads: int  # at hand for each tree of a batch, as the length of a tensor is not
    num_terms: int
    is_chain: bool  # each node follows the one before it, and every one and the root are read


@lru_cache(maxsize=64)
def part_trie(
    branches: tuple[Ids, ...], num_label_tokens: tuple[int, ...], labels: tuple[int, ...], notebook: bool
) -> LabelTrie:
    """The trie of one part of an item; cached, because items mostly have the same labels."""
    return make_trie(
        [Branch(0, *branch) for branch in zip(labels, branches, num_label_tokens, strict=True)], notebook=notebook
    )


def make_trie(branches: Sequence[Branch], *, notebook: bool) -> LabelTrie:
    """In alphabetical order a branch leaves the way to the one before it, and comes back to no other."""
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    way: list[int] = []  # the nodes of the last branch
    found: list[tuple[int, int, int, int]] = []  # (part, slot, node whose logits are read, token)
    last: Ids = ()
    for part, label, ids, num_tokens in sorted(branches, key=lambda branch: branch.ids):
        terms = label_terms(label, ids, num_tokens, notebook=notebook)
        needed = ids[: max(term.place for term in terms) + 1]
        shared = num_common(last, needed)
        while len(way) > shared:
            ends[way.pop()] = len(tokens)
        more = needed[shared:]
        way += range(len(tokens), len(tokens) + len(more))
        depths += range(shared + 1, len(needed) + 1)
        tokens += more
        ends += [0] * len(more)
        found += [(part, term.slot, way[term.place] if term.place >= 0 else ROOT, term.token) for term in terms]
        last = needed
    for node in way:
        ends[node] = len(tokens)
    found.sort(key=lambda term: term[2])
    reads = {node: read for read, node in enumerate(dict.fromkeys(node for _, _, node, _ in found))}
    return LabelTrie(
        tokens=tuple(tokens),
        depths=torch.tensor(depths, dtype=torch.int64),
        ends=torch.tensor(ends, dtype=torch.int64),
        reads=torch.tensor(list(reads)),
        terms=torch.tensor([(part, slot, reads[node], token) for part, slot, node, token in found]),
        num_reads=len(reads),
        num_terms=len(found),
        is_chain=list(reads) == list(range(ROOT, len(tokens))) and all(end == len(tokens) for end in ends),
    )
