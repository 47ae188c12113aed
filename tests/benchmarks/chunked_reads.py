"""Reads in chunks: a prototype in which the token budget alone sets the batch, however many logits are read.

Invariant: the scores are those of the scorer; only the largest number of logits that exist at once differs. For models
whose head is one matrix product and nothing after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from pipeline.scoring import forward, scorer
from tests.benchmarks.feeding import send

CHUNK_LOGITS = 2**28  # 1 GiB in float32
NO_CAP = 2**62


@contextmanager
def chunked_reads(model: Any, chunk_logits: int = CHUNK_LOGITS) -> Iterator[None]:
    """Lets scorers that exist already read hidden states in place of logits and make logits of them by chunks."""
    head = model.get_output_embeddings()
    rows = max(1, chunk_logits // head.weight.shape[0])
    caps = dict.fromkeys(scorer._MAX_LOGITS, NO_CAP)

    def score(hidden: Tensor, terms: Tensor, *, greedy: bool = False) -> Tensor:
        assert not greedy, "the largest logit of a place would need all chunks"
        tokens, columns = terms[:, 3].unique(return_inverse=True)  # on the CPU, so that nothing waits
        tokens, columns, reads = (send(each, hidden.device) for each in (tokens, columns, terms[:, 2].contiguous()))
        wanted, sums = [], []
        for chunk in hidden.to(head.weight.dtype).split(rows):
            logits = head(chunk).float()
            sums.append(logits.logsumexp(-1))
            wanted.append(logits.index_select(1, tokens))
        logit = torch.cat(wanted)[reads, columns]
        return torch.stack([logit - torch.cat(sums)[reads], logit])

    model.set_output_embeddings(nn.Identity())
    try:
        with patch.object(forward, "score_terms", score), patch.dict(scorer._MAX_LOGITS, caps):
            yield
    finally:
        model.set_output_embeddings(head)
