"""What a user would run instead: the notebook's loop, and rows in batches as an evaluation harness makes them.

Invariant: every contender returns `logprob` (items, labels) float32 of the same quantity, so that speed is compared
between equal answers. Imports torch only; lm-evaluation-harness is imported inside the function that makes it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from tests.benchmarks.measure import Sequences

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

    from pipeline.prompts import Prompt


@torch.inference_mode()
def notebook_loop(model: Any, items: Sequence[Sequences]) -> torch.Tensor:
    """One forward pass for each label of each item: the whole prompt again, logits at every position."""
    scores = torch.empty(len(items), len(items[0].branches))  # (items, labels)
    for row, item in enumerate(items):
        for column, (branch, num_scored) in enumerate(zip(item.branches, item.num_label_tokens, strict=True)):
            ids = torch.tensor([item.prompt_ids + branch], device=model.device)  # (1, tokens)
            logits = model(input_ids=ids).logits[0, -num_scored - 1 : -1].float()  # (label tokens, vocabulary)
            logprobs = F.log_softmax(logits, dim=-1)
            scores[row, column] = logprobs.gather(1, ids[0, -num_scored:, None]).sum()
    return scores


class Read(NamedTuple):
    """A score to read from a row: the label's tokens, and where its log-likelihood goes."""

    label: tuple[int, ...]
    item: int
    column: int


def label_rows(items: Sequence[Sequences], share_rows: bool) -> list[tuple[tuple[int, ...], list[Read]]]:
    """(tokens to forward, reads), longest first; a row for each label, or one for all labels that forward the same."""
    rows: list[tuple[tuple[int, ...], list[Read]]] = []
    known: dict[tuple[int, ...], list[Read]] = {}
    for index, item in enumerate(items):
        for column, (branch, num_scored) in enumerate(zip(item.branches, item.num_label_tokens, strict=True)):
            tokens = item.prompt_ids + branch
            read = Read(tokens[-num_scored:], index, column)
            if share_rows and tokens[:-1] in known:
                known[tokens[:-1]].append(read)
            else:
                known[tokens[:-1]] = [read]
                rows.append((tokens[:-1], known[tokens[:-1]]))
    return sorted(rows, key=lambda row: -len(row[0]))


@torch.inference_mode()
def batched_rows(
    model: Any, items: Sequence[Sequences], batch_size: int = 64, share_rows: bool = False
) -> torch.Tensor:
    """One row per label, longest first, padded on the right, log-softmax at every position.

    This is what lm-evaluation-harness' HF backend does on the device (`_loglikelihood_tokens`, 0.4.13), without its
    host work; it serves where the harness is not installed. `share_rows` does what the harness' cache of one-token
    continuations does: requests that forward the same tokens share a row.
    """
    rows = label_rows(items, share_rows)
    scores = torch.empty(len(items), len(items[0].branches))  # (items, labels)
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        ids = torch.zeros(len(chunk), len(chunk[0][0]), dtype=torch.long)  # (rows, tokens)
        for row, (tokens, _) in enumerate(chunk):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        logprobs = F.log_softmax(model(input_ids=ids.to(model.device)).logits, dim=-1)  # (rows, tokens, vocabulary)
        for row, (tokens, reads) in enumerate(chunk):
            for read in reads:
                wanted = torch.tensor(read.label, device=logprobs.device)[:, None]
                found = logprobs[row, len(tokens) - len(read.label) : len(tokens)].gather(
                    1, wanted
                )  # (label tokens, 1)
                scores[read.item, read.column] = found.float().sum()
    return scores


def harness(model: Any, tokenizer: Any) -> "HFLM":
    """lm-evaluation-harness' HF backend around a model that is already loaded; set `batch_size_per_gpu` to choose."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal")


def harness_scores(lm: "HFLM", prompt: "Prompt", texts: Sequence[str], batch_size: int) -> torch.Tensor:
    """`loglikelihood` requests as a task would send them: (prompt with item, label words)."""
    from lm_eval.api.instance import Instance

    lm.batch_size_per_gpu = batch_size
    pairs = [(prompt.template.replace("{text}", text), label.words) for text in texts for label in prompt.labels]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return torch.tensor([logprob for logprob, _ in answers]).reshape(len(texts), len(prompt.labels))


def harness_token_scores(lm: "HFLM", items: Sequence[Sequences], batch_size: int) -> torch.Tensor:
    """The harness given our token ids, so that both score exactly the same requests whatever the seam."""
    lm.batch_size_per_gpu = batch_size
    requests = [
        (("", f"{index} {column}"), list(ids[:-num_scored]), list(ids[-num_scored:]))
        for index, item in enumerate(items)
        for column, (branch, num_scored) in enumerate(zip(item.branches, item.num_label_tokens, strict=True))
        for ids in [item.prompt_ids + branch]
    ]
    answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return torch.tensor([logprob for logprob, _ in answers]).reshape(len(items), -1)
