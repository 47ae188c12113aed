"""What scores are sums of: a term is one number read from the logits, its slot is the sum that it goes into.

Invariant: which logits score a label is said in `label_terms` alone; a slot's terms are added in the order of the
places that are read, in float64 on the CPU, whatever the batch and the device.

Laid out for a batch, terms are a table (terms, 4) int64: item, slot, read (a row of logits) and token.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences

# An item has a slot for each label and kind of term: at label * NUM_KINDS + kind.
NEXT_TOKEN, NOTEBOOK = range(2)
NUM_KINDS = 2


class Term(NamedTuple):
    """`token`, scored by the logits at the token `place` of a sequence."""

    slot: int
    place: int
    token: int


def label_terms(label: int, branch: Ids, num_tokens: int, *, notebook: bool) -> list[Term]:
    """The terms of a label, the last `num_tokens` of its branch; places count in the branch, -1 is just before it.

    A label token is scored by the logits just before it. With `notebook` it is scored in a further slot by those at
    the label tokens' own places in reverse order, as the notebook did.
    """
    slot, first = label * NUM_KINDS, len(branch) - num_tokens
    terms = []
    for k, token in enumerate(branch[first:]):
        terms.append(Term(slot + NEXT_TOKEN, first + k - 1, token))
        if notebook:
            terms.append(Term(slot + NOTEBOOK, len(branch) - 1 - k, token))
    return terms


def score_terms(logits: Tensor, terms: Tensor, first_read: int = 0, *, greedy: bool = False) -> Tensor:
    """(2, terms): each term's log-probability and logit, from logits (reads, vocabulary) of the reads from one on.

    With `greedy` a third line says 1 where another token would have been chosen, and 0 where this one would.
    """
    _, _, reads, tokens = terms.unbind(1)
    reads = reads - first_read
    logprobs = logits.log_softmax(dim=-1)  # (reads, vocabulary); in one pass, twice as fast as logsumexp
    scores = [logprobs[reads, tokens], logits[reads, tokens]]
    if greedy:
        scores.append((logits.argmax(dim=-1)[reads] != tokens).to(logits.dtype))
    return torch.stack(scores)


class LabelSums:
    """The sums of a call's items; an item is complete once all that was to be forwarded for it is in.

    Items may have different numbers of labels: behind an item's own stands NaN.
    """

    def __init__(self, items: Sequence[TokenSequences], forwarded: Iterable[int], *, greedy: bool = False) -> None:
        """`forwarded`: the item of each part or row that will be forwarded; `greedy` as for `score_terms`."""
        self._missing = Counter(forwarded)
        self._num_labels = torch.tensor([len(item.branches) for item in items])
        ends = self._num_labels.cumsum(0)
        self._begins = (ends - self._num_labels) * NUM_KINDS  # of each item among the sums
        self._sums = torch.zeros(3 if greedy else 2, int(ends[-1]) * NUM_KINDS, dtype=torch.float64)

    def add(self, indices: Sequence[int], terms: Tensor, scores: Tensor) -> list[int]:
        """Add the scores (2 or 3, terms) of what was forwarded of the items `indices`; returns those now complete."""
        places = self._begins[terms[:, 0]] + terms[:, 1]
        for sums, added in zip(self._sums, scores.cpu().double(), strict=True):
            sums.index_add_(0, places, added)
        self._missing.subtract(indices)
        return [index for index in dict.fromkeys(indices) if not self._missing[index]]

    def is_own(self, indices: list[int]) -> Tensor:
        """(items, most labels of the call) bool: whether the item has that label."""
        return torch.arange(int(self._num_labels.max())) < self._num_labels[indices][:, None]

    def of(self, indices: list[int]) -> Tensor:
        """(3 or 4, items, most labels of the call) float64: logprob, logit, notebook_logit, and what is not greedy."""
        is_own = self.is_own(indices)
        places = self._begins[indices][:, None] + torch.arange(is_own.shape[1]) * NUM_KINDS
        logprob, logit, *missed = self._sums[:, (places * is_own)[..., None] + torch.arange(NUM_KINDS)]
        kinds = [logprob[..., NEXT_TOKEN], logit[..., NEXT_TOKEN], logit[..., NOTEBOOK]]
        sums = torch.stack([*kinds, *(each[..., NEXT_TOKEN] for each in missed)])
        return sums.masked_fill_(~is_own, torch.nan)

    def find_strange(self) -> list[tuple[int, int]]:
        """(item, label) of each sum of the call that is no finite number by now."""
        places = (~self._sums.isfinite().all(dim=0)).nonzero()[:, 0]
        items = torch.searchsorted(self._begins, places, right=True) - 1
        labels = (places - self._begins[items]) // NUM_KINDS
        return list(dict.fromkeys(zip(items.tolist(), labels.tolist(), strict=True)))
