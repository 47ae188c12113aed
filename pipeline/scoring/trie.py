"""The label trie: what must be computed after an item's prompt so that all its labels can be scored.

Invariant: every distinct beginning of a branch that a term needs is one node, and parents come before children; a
label's last token is no node unless the notebook's rule is asked for: its parent's logits score it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.scoring.strings import Ids
from pipeline.scoring.terms import label_terms

ROOT = -1


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrie:
    """The nodes that hang off a prompt's last token, which is the node `ROOT`.

    tokens and depths have one entry a node, the depth of the root's children is 1; ancestors is (nodes, nodes) bool:
    the column's node is the row's or above it. Logits are read at the nodes `reads`; the terms are those of item 0.
    """

    tokens: Ids
    depths: tuple[int, ...]
    ancestors: Tensor
    reads: tuple[int, ...]
    terms: Tensor  # (terms, 4)


@lru_cache(maxsize=64)
def make_trie(
    branches: tuple[Ids, ...], num_label_tokens: tuple[int, ...], labels: tuple[int, ...], notebook: bool
) -> LabelTrie:
    """The trie of the branches of an item's labels; cached, because items mostly share theirs."""
    nodes: dict[Ids, int] = {(): ROOT}
    found: list[tuple[int, int, int]] = []  # (slot, node whose logits are read, token)
    for label, branch, num_tokens in zip(labels, branches, num_label_tokens, strict=True):
        terms = label_terms(label, branch, num_tokens, notebook=notebook)
        for last in range(max(term.place for term in terms) + 1):
            nodes.setdefault(branch[: last + 1], len(nodes) - 1)
        found += [(term.slot, nodes[branch[: term.place + 1]], term.token) for term in terms]
    paths = list(nodes)[1:]
    reads = sorted({node for _, node, _ in found})
    return LabelTrie(
        tokens=tuple(path[-1] for path in paths),
        depths=tuple(len(path) for path in paths),
        ancestors=_ancestors(paths, nodes),
        reads=tuple(reads),
        terms=torch.tensor([(0, slot, reads.index(node), token) for slot, node, token in found]),
    )


def _ancestors(paths: list[Ids], nodes: dict[Ids, int]) -> Tensor:
    seen = torch.eye(len(paths), dtype=torch.bool)
    for node, path in enumerate(paths):
        if len(path) > 1:
            seen[node] |= seen[nodes[path[:-1]]]
    return seen
