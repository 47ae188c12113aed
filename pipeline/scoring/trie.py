"""The label trie: what must be computed after an article so that all its labels can be scored.

Invariant: every distinct beginning of a branch is one node, parents come before children, and a label's last token is
no node unless the notebook's rule is asked for: its parent's logits score it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

ROOT = -1


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What scores are sums of: each term's slot (a label), its read (a row of logits) and its token; (terms,) int64."""

    slots: Tensor
    reads: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> "Terms":
        """Reads and tokens on the device; slots stay on the CPU, where the sums are made."""
        return Terms(self.slots, self.reads.to(device), self.tokens.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrie:
    """The nodes that hang off an article's last token, which is the node `ROOT`.

    tokens and depths have one entry a node, the depth of the root's children is 1; ancestors is (nodes, nodes) bool:
    the column's node is the row's or above it. Logits are read at the nodes `reads`. `terms` take the logits before
    each label token, `notebook_terms` those at the label tokens' own places in reverse order, as the notebook did.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    ancestors: Tensor
    reads: tuple[int, ...]
    num_labels: int
    terms: Terms
    notebook_terms: Terms | None


@lru_cache(maxsize=64)
def make_trie(branches: tuple[tuple[int, ...], ...], num_label_tokens: tuple[int, ...], notebook: bool) -> LabelTrie:
    """The trie of an item's branches; cached, because items mostly share theirs."""
    nodes: dict[tuple[int, ...], int] = {(): ROOT}
    for branch in branches:
        for end in range(1, len(branch) + notebook):
            nodes.setdefault(branch[:end], len(nodes) - 1)
    paths = list(nodes)[1:]
    terms: list[tuple[int, int, int]] = []  # (label, node whose logits are read, token)
    notebook_terms: list[tuple[int, int, int]] = []
    for label, (branch, num_tokens) in enumerate(zip(branches, num_label_tokens, strict=True)):
        first = len(branch) - num_tokens
        for k in range(num_tokens):
            terms.append((label, nodes[branch[: first + k]], branch[first + k]))
            if notebook:
                notebook_terms.append((label, nodes[branch[: len(branch) - k]], branch[first + k]))
    reads = tuple(sorted({node for _, node, _ in terms + notebook_terms}))
    return LabelTrie(
        tokens=tuple(path[-1] for path in paths),
        depths=tuple(len(path) for path in paths),
        ancestors=_ancestors(paths, nodes),
        reads=reads,
        num_labels=len(branches),
        terms=_as_terms(terms, reads),
        notebook_terms=_as_terms(notebook_terms, reads) if notebook else None,
    )


def _ancestors(paths: list[tuple[int, ...]], nodes: dict[tuple[int, ...], int]) -> Tensor:
    seen = torch.eye(len(paths), dtype=torch.bool)
    for node, path in enumerate(paths):
        if len(path) > 1:
            seen[node] |= seen[nodes[path[:-1]]]
    return seen


def _as_terms(terms: list[tuple[int, int, int]], reads: tuple[int, ...]) -> Terms:
    places = {node: place for place, node in enumerate(reads)}
    labels, nodes, tokens = zip(*terms, strict=True)
    return Terms(torch.tensor(labels), torch.tensor([places[node] for node in nodes]), torch.tensor(tokens))
