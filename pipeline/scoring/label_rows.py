"""The plain way for models whose attention takes no tree: each label a row of its own, padded on the right.

Invariant: nothing is asked of a model but that a token does not depend on later ones, so padding on the right changes
no score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences

# A batch ends where the next row is shorter than this share of its first, so that padding stays below 3 %.
_MIN_FILLED = 0.98


@dataclass(frozen=True, slots=True)
class Term:
    """`token` of `label`, scored by the logits at `place` of its row."""

    label: int
    place: int
    token: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelRow:
    """One forwarded sequence of an item with all the terms that can be read from it."""

    index: int
    ids: Ids
    terms: list[Term]
    notebook_terms: list[Term]


def make_rows(items: Sequence[TokenSequences], *, notebook: bool) -> list[LabelRow]:
    """The rows of all items, longest first; labels that need the same sequence, or the beginning of it, share a row."""
    rows: list[LabelRow] = []
    for index, item in enumerate(items):
        own: list[LabelRow] = []
        branches = zip(item.branches, item.num_label_tokens, strict=True)
        for label, (branch, num_tokens) in sorted(enumerate(branches), key=lambda entry: -len(entry[1][0])):
            ids = item.prompt_ids + (branch if notebook else branch[:-1])
            row = next((row for row in own if row.ids[: len(ids)] == ids), None)
            if row is None:
                row = LabelRow(index, ids, [], [])
                own.append(row)
            _add_terms(row, label, branch[-num_tokens:], len(item.prompt_ids) + len(branch) - num_tokens, notebook)
        rows += own
    return sorted(rows, key=lambda row: (-len(row.ids), row.index))


def _add_terms(row: LabelRow, label: int, tokens: Ids, first: int, notebook: bool) -> None:
    """`first`: place of the first label token in the row."""
    for k, token in enumerate(tokens):
        row.terms.append(Term(label, first + k - 1, token))
        if notebook:
            row.notebook_terms.append(Term(label, first + len(tokens) - 1 - k, token))


def end_of_batch(rows: Sequence[LabelRow], begin: int, max_tokens: int, max_reads: int) -> int:
    """Where the batch that begins at `begin` ends: within both budgets, but never empty.

    Logits are made for every row from the first place that any of them reads on.
    """
    width = first = len(rows[begin].ids)
    num_filled = 0
    for end in range(begin, len(rows)):
        num_filled += len(rows[end].ids)
        first = min(first, *(term.place for term in rows[end].terms))
        num_rows = end + 1 - begin
        is_full = num_rows * width > max_tokens or num_rows * (width - first) > max_reads
        if end > begin and (is_full or num_filled < num_rows * width * _MIN_FILLED):
            return end
    return len(rows)


def pad(rows: Sequence[LabelRow], token: int) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), each (rows, longest), on the CPU."""
    width = len(rows[0].ids)
    ids = torch.tensor([row.ids + (token,) * (width - len(row.ids)) for row in rows])
    lengths = torch.tensor([len(row.ids) for row in rows])
    return ids, (torch.arange(width) < lengths[:, None]).long()
