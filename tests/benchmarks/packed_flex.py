"""FlexAttention over packed rows: a variant that the GPU benchmark tries beside the scorer's own path.

Invariant: imports torch only; a row is [shared prefix | item | item | ...], a token sees the prefix, the trunk of its
own item and its own branch, and positions count along the path, so that scores equal one forward per label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from tests.benchmarks.measure import Sequences

PADDING = -1  # segment of tokens that fill a row's end; 0 is the shared prefix, items count from 1


@dataclass(slots=True)
class Row:
    """Parallel lists over tokens, and the reads: (position, token wanted there, item, label)."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    branches: list[int]
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, ids: Sequence[int], first_position: int, segment: int, branch: int) -> None:
        self.ids += ids
        self.positions += range(first_position, first_position + len(ids))
        self.segments += [segment] * len(ids)
        self.branches += [branch] * len(ids)


def pack(items: Sequence[Sequences], num_shared: int, row_tokens: int) -> list[Row]:
    """Rows filled in the order of the items; a branch's last token is left out, its score is read before it."""
    prefix = items[0].prompt_ids[:num_shared]
    rows: list[Row] = []
    for index, item in enumerate(items):
        size = len(item.prompt_ids) - num_shared + sum(len(branch) - 1 for branch in item.branches)
        if not rows or len(rows[-1].ids) + size > row_tokens:
            rows.append(Row([], [], [], []))
            rows[-1].add(prefix, 0, 0, 0)
        row = rows[-1]
        segment = row.segments[-1] + 1
        row.add(item.prompt_ids[num_shared:], num_shared, segment, 0)
        end = len(row.ids) - 1  # the trunk's last token, where every branch begins
        for label, (branch, num_scored) in enumerate(zip(item.branches, item.num_label_tokens, strict=True)):
            before = [end, *range(len(row.ids), len(row.ids) + len(branch) - 1)]  # where each branch token is predicted
            row.add(branch[:-1], len(item.prompt_ids), segment, label + 1)
            row.reads += [(before[k], branch[k], index, label) for k in range(len(branch) - num_scored, len(branch))]
    return rows


class FlexPacked:
    """Scores items in batches of equal packed rows with one block mask a batch."""

    def __init__(self, model: Any, *, row_tokens: int, num_rows: int) -> None:
        self.model, self.row_tokens, self.num_rows = model, row_tokens, num_rows
        model.set_attn_implementation("flex_attention")

    @torch.inference_mode()
    def score(self, items: Sequence[Sequences], num_shared: int) -> torch.Tensor:
        """logprob (items, labels), float32 on the CPU."""
        device = self.model.device
        scores = torch.zeros(len(items), len(items[0].branches), device=device)  # (items, labels)
        rows = pack(items, num_shared, self.row_tokens)
        for start in range(0, len(rows), self.num_rows):
            chunk = rows[start : start + self.num_rows]
            chunk += [Row([], [], [], [])] * (self.num_rows - len(chunk))  # shapes stay fixed
            fields = [self._padded([row.ids for row in chunk], 0), self._padded([row.positions for row in chunk], 0)]
            hidden = self.model.base_model(  # (rows, tokens, hidden)
                input_ids=fields[0], position_ids=fields[1], attention_mask=self._mask(chunk), use_cache=False
            ).last_hidden_state
            reads = [(number, *read) for number, row in enumerate(chunk) for read in row.reads]
            where, slots = torch.tensor([read[:2] for read in reads], device=device).unique(dim=0, return_inverse=True)
            logits = self.model.lm_head(hidden[where[:, 0], where[:, 1]]).float()  # (read positions, vocabulary)
            wanted = torch.tensor([read[2] for read in reads], device=device)
            logprobs = logits[slots, wanted] - logits.logsumexp(-1)[slots]
            target = torch.tensor([read[3] * scores.shape[1] + read[4] for read in reads], device=device)
            scores.view(-1).index_add_(0, target, logprobs)
        return scores.cpu()

    def _padded(self, lists: list[list[int]], fill: int) -> torch.Tensor:
        padded = [values + [fill] * (self.row_tokens - len(values)) for values in lists]
        return torch.tensor(padded, device=self.model.device)  # (rows, tokens)

    def _mask(self, rows: list[Row]) -> BlockMask:
        segments = self._padded([row.segments for row in rows], PADDING)  # (rows, tokens)
        branches = self._padded([row.branches for row in rows], 0)  # (rows, tokens)

        def visible(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            same = (segments[b, kv] == 0) | (segments[b, kv] == segments[b, q])
            return (kv <= q) & same & ((branches[b, kv] == 0) | (branches[b, kv] == branches[b, q]))

        return create_block_mask(
            visible, len(rows), None, self.row_tokens, self.row_tokens, device=segments.device.type
        )
