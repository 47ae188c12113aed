"""The slow, obvious way: one forward for each label of one item, logits everywhere, formulas as they are written."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.scoring.tokens import TokenSequences


@torch.inference_mode()
def score_slowly(model: PreTrainedModel, items: Sequence[TokenSequences]) -> dict[str, Tensor]:
    """logprob, logit and notebook_logit, each (items, most labels) float64; NaN behind an item's own labels.

    With ell_t the logits after the prompt (t = 0) and after each label token y_t (t = 1 .. K):
    logprob = sum_k ell_{k-1}[y_k] - logsumexp(ell_{k-1}); logit = sum_k ell_{k-1}[y_k];
    notebook_logit = sum_k ell_{K+1-k}[y_k].
    """
    scores: dict[str, list[list[float]]] = {"logprob": [], "logit": [], "notebook_logit": []}
    for item in items:
        for rows in scores.values():
            rows.append([])
        for branch, num_tokens in zip(item.branches, item.num_label_tokens, strict=True):
            ids = item.prompt_ids + branch
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].double().cpu()
            ell = logits[len(ids) - num_tokens - 1 :]  # ell[t]: after t label tokens
            y = ids[len(ids) - num_tokens :]  # y[k - 1] is y_k
            ks = range(1, num_tokens + 1)
            logprob = sum(float(ell[k - 1][y[k - 1]] - ell[k - 1].logsumexp(0)) for k in ks)
            logit = sum(float(ell[k - 1][y[k - 1]]) for k in ks)
            notebook_logit = sum(float(ell[num_tokens + 1 - k][y[k - 1]]) for k in ks)
            for rows, score in zip(scores.values(), (logprob, logit, notebook_logit), strict=True):
                rows[-1].append(score)
    num_labels = max(len(item.branches) for item in items)
    padded = {name: [row + [float("nan")] * (num_labels - len(row)) for row in rows] for name, rows in scores.items()}
    return {name: torch.tensor(rows, dtype=torch.float64) for name, rows in padded.items()}
