"""The plain way's batches, for models whose attention takes no tree: each label a row, padded on the right.

Invariant: nothing is asked of a model but that a token does not depend on later ones, so padding on the right changes
no score.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.scoring.parts import ItemPart
from pipeline.scoring.strings import Ids
from pipeline.scoring.terms import Term, label_terms

# A batch ends where the next row is shorter than this share of its first, so that padding stays below 3 %.
_MIN_FILLED = 0.98
# Padding is masked and comes last, so any token will do.
_PADDING = 0


@dataclass(frozen=True, slots=True, eq=False)
class LabelRow:
    """One forwarded sequence of the item `index` with all the terms that can be read from it; places count in it."""

    index: int
    ids: Ids
    terms: list[Term]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def prefix(self) -> Ids:
        """Rows bring all that they need."""
        return ()

    @property
    def order(self) -> tuple[int, int]:
        """Longest first."""
        return 0, -self.num_tokens

    def split(self) -> list["LabelRow"]:
        """A row is no smaller in pieces."""
        return []


def make_rows(parts: Sequence[ItemPart], *, notebook: bool) -> list[LabelRow]:
    """The rows of all parts, longest first; labels that need the same sequence, or the beginning of it, share a row."""
    rows = [row for part in parts for row in _rows_of(part, notebook=notebook)]
    return sorted(rows, key=lambda row: (-row.num_tokens, row.index))


def _rows_of(part: ItemPart, *, notebook: bool) -> list[LabelRow]:
    needed: list[tuple[Ids, list[Term]]] = []
    for label, branch, num_tokens in zip(part.labels, part.branches, part.num_label_tokens, strict=True):
        terms = label_terms(label, branch, num_tokens, notebook=notebook)
        ids = part.prompt + branch[: max(term.place for term in terms) + 1]
        needed.append((ids, [term._replace(place=len(part.prompt) + term.place) for term in terms]))
    rows: list[LabelRow] = []
    # Backwards in alphabetical order a beginning comes right after all that begin with it.
    for ids, terms in sorted(needed, key=lambda entry: entry[0], reverse=True):
        if not rows or rows[-1].ids[: len(ids)] != ids:
            rows.append(LabelRow(part.index, ids, []))
        rows[-1].terms.extend(terms)
    return rows


def num_fitting(rows: Iterable[LabelRow], max_tokens: int, max_reads: int) -> int:
    """How many of the first rows, longest first, make a batch within both budgets, at least one.

    Logits are made for every row from the first place that any of them reads on.
    """
    num = num_filled = width = first = 0
    for num, row in enumerate(rows):
        if num == 0:
            width = first = row.num_tokens
        num_filled += row.num_tokens
        first = min(first, *(term.place for term in row.terms))
        is_full = (num + 1) * width > max_tokens or (num + 1) * (width - first) > max_reads
        if num and (is_full or num_filled < (num + 1) * width * _MIN_FILLED):
            return num
    return num + 1


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Rows side by side, on the CPU."""

    indices: list[int]  # the item of each row
    ids: Tensor  # (rows, longest)
    mask: Tensor  # (rows, longest) 1 for a token, 0 for padding
    reads: Tensor  # (reads, 2) a row and a place among those that are kept
    kept: Tensor  # (places,) of which logits are made, in every row: rows end with their labels, so they are few
    terms: Tensor  # (terms, 4), by their reads
    num_tokens: int  # without padding


def pad(rows: Sequence[LabelRow]) -> PaddedBatch:
    """Lay rows, longest first, side by side."""
    reads: dict[tuple[int, int], int] = {}
    terms = [
        (row.index, term.slot, reads.setdefault((i, term.place), len(reads)), term.token)
        for i, row in enumerate(rows)
        for term in sorted(row.terms, key=lambda term: term.place)
    ]
    width = rows[0].num_tokens
    lengths = torch.tensor([row.num_tokens for row in rows])
    kept, places = torch.unique(torch.tensor([place for _, place in reads]), return_inverse=True)
    return PaddedBatch(
        indices=[row.index for row in rows],
        ids=torch.tensor([row.ids + (_PADDING,) * (width - row.num_tokens) for row in rows]),
        mask=(torch.arange(width) < lengths[:, None]).long(),
        reads=torch.stack([torch.tensor([row for row, _ in reads]), places], dim=1),
        kept=kept,
        terms=torch.tensor(terms),
        num_tokens=sum(row.num_tokens for row in rows),
    )
