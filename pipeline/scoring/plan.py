"""What is forwarded, and in which order: the shared prefix, then batches of items, longest first.

Invariant: a plan depends on the items and the budgets alone, so the same call gives the same batches; each item is in
one batch, and its tokens after the prefix are in it once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.scoring.attention import Group
from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences, num_shared
from pipeline.scoring.trie import LabelTrie, Terms, make_trie

# The prefix goes on while so large a share of the items goes along with it; the others leave it where they depart.
_FOLLOWERS = 0.9
# Items join a group for attention while at most this share of its cells would be padding.
_MAX_PADDED = 0.06


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One item: it sees the prefix's first `depth` tokens, and brings its `own` and its trie's."""

    index: int  # place among the caller's items
    depth: int
    own: Ids
    trie: LabelTrie

    @property
    def num_tokens(self) -> int:
        return len(self.own) + len(self.trie.tokens)


def find_prefix(prompts: Sequence[Ids]) -> Ids:
    """The tokens with which (nearly) all prompts begin; each that follows it to its end has a token of its own left."""
    if len(prompts) < 2:
        return ()
    needed = _FOLLOWERS * len(prompts)
    size = num_shared(min(prompts), max(prompts))
    following = [ids for ids in prompts if len(ids) > size + 1]
    prefix = list(prompts[0][: min(size, *(len(ids) - 1 for ids in prompts))])
    while len(prefix) >= size and len(following) >= needed:
        counts = Counter(ids[len(prefix)] for ids in following)
        token = min(counts, key=lambda token: (-counts[token], token))
        if counts[token] < needed:
            break
        prefix.append(token)
        following = [ids for ids in following if ids[len(prefix) - 1] == token and len(ids) > len(prefix) + 1]
    return tuple(prefix)


def order_items(items: Sequence[TokenSequences], prefix: Ids, *, notebook: bool) -> list[Unit]:
    """The items as units, longest first; those of one length that share a trie side by side."""
    units = []
    tries: dict[LabelTrie, int] = {}
    for index, item in enumerate(items):
        depth = len(prefix)
        if item.prompt_ids[:depth] != prefix or len(item.prompt_ids) <= depth:
            depth = min(num_shared(item.prompt_ids, prefix), len(item.prompt_ids) - 1)
        trie = make_trie(item.branches, item.num_label_tokens, notebook)
        tries.setdefault(trie, len(tries))
        units.append(Unit(index, depth, item.prompt_ids[depth:], trie))
    return sorted(units, key=lambda unit: (-unit.num_tokens, tries[unit.trie], unit.depth, unit.index))


def end_of_batch(units: Sequence[Unit], begin: int, max_tokens: int, max_reads: int) -> int:
    """Where the batch that begins at `begin` ends: within both budgets, but never empty."""
    num_tokens = num_reads = 0
    for end in range(begin, len(units)):
        num_tokens += units[end].num_tokens
        num_reads += len(units[end].trie.reads)
        if end > begin and (num_tokens > max_tokens or num_reads > max_reads):
            return end
    return len(units)


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """A batch as one row of tokens, laid out on the CPU. Slots of terms are items (as in the batch) times labels."""

    units: Sequence[Unit]
    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    reads: Tensor  # (reads,) places in the row
    groups: list[Group]
    terms: Terms
    notebook_terms: Terms | None
    num_tokens: int

    def to(self, device: torch.device) -> "Flat":
        """The batch where the model is."""
        for group in self.groups:
            group.move(device)
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            reads=self.reads.to(device),
            terms=self.terms.to(device),
            notebook_terms=self.notebook_terms.to(device) if self.notebook_terms else None,
        )


def lay_out(units: Sequence[Unit]) -> Flat:
    """Lay the units' tokens side by side: article, trie, article, trie, ..."""
    groups: list[Group] = []
    positions, reads, terms, notebook_terms = [], [], [], []
    num_tokens = num_reads = 0
    for begin, end in _find_groups(units):
        trie = units[begin].trie
        lengths = torch.tensor([len(unit.own) for unit in units[begin:end]])
        group = Group(num_tokens, units[begin].depth, lengths, trie)
        positions.append(group.positions()[group.filled()])
        reads.append(_places_of_reads(group).flatten())
        terms.append(_shift(trie.terms, begin, end, num_reads, trie))
        if trie.notebook_terms is not None:
            notebook_terms.append(_shift(trie.notebook_terms, begin, end, num_reads, trie))
        num_tokens += group.num_tokens
        num_reads += group.num_reads
        groups.append(group)
    ids = [token for unit in units for token in (*unit.own, *unit.trie.tokens)]
    return Flat(
        units=units,
        ids=torch.tensor([ids]),
        positions=torch.cat(positions)[None],
        reads=torch.cat(reads),
        groups=groups,
        terms=_concatenate(terms),
        notebook_terms=_concatenate(notebook_terms) if notebook_terms else None,
        num_tokens=num_tokens,
    )


def _find_groups(units: Sequence[Unit]) -> list[tuple[int, int]]:
    """(begin, end) of runs of units with one trie, one depth and about one length."""
    ends: list[tuple[int, int]] = []
    begin = num_tokens = 0
    for end in range(1, len(units) + 1):
        first, cells = units[begin], (end + 1 - begin) * units[begin].num_tokens
        num_tokens += units[end - 1].num_tokens
        if end < len(units):
            unit = units[end]
            is_alike = unit.trie is first.trie and unit.depth == first.depth
            if is_alike and num_tokens + unit.num_tokens >= cells * (1 - _MAX_PADDED):
                continue
        ends.append((begin, end))
        begin, num_tokens = end, 0
    return ends


def _places_of_reads(group: Group) -> Tensor:
    """(items, reads) places in the flat row."""
    cells = torch.arange(len(group.lengths))[:, None] * group.width + group.read_cells()
    return group.begin + cells if group.index is None else group.index[cells]


def _shift(terms: Terms, begin: int, end: int, first_read: int, trie: LabelTrie) -> Terms:
    """One item's terms for each of the items `begin` to `end` of the batch."""
    items = torch.arange(end - begin)[:, None]
    return Terms(
        slots=((begin + items) * trie.num_labels + terms.slots).flatten(),
        reads=(first_read + items * len(trie.reads) + terms.reads).flatten(),
        tokens=terms.tokens.expand(end - begin, -1).flatten(),
    )


def _concatenate(parts: list[Terms]) -> Terms:
    return Terms(
        slots=torch.cat([part.slots for part in parts]),
        reads=torch.cat([part.reads for part in parts]),
        tokens=torch.cat([part.tokens for part in parts]),
    )
