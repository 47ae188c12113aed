"""Tree attention without masks: a prototype of attention over sequences of different lengths laid end to end.

Two ways to the shared prefix. `repeated`: its keys stand before those of each item, and one causal call does all.
`cascade`: one dense attention of all tokens over the prefix, one causal one of each item over itself, merged by their
log-sum-exps. Labels that form one chain of tokens belong to the item's sequence; those that branch are queries of their
own over the item (and the repeated prefix), and over their ancestors.

Each item is a tree of its own behind the prefix that (nearly) all share: nothing else is shared while this is in use.

Invariant: items that leave the prefix early go to the scorer's own attention; windows and soft caps are refused.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from pipeline.scoring import attention, sharing
from pipeline.scoring.attention import Row
from pipeline.scoring.forward import TreeForward
from pipeline.scoring.packed import PackedBatch, TokenTree
from pipeline.scoring.trie import LabelTrie
from tests.benchmarks.feeding import send


@dataclass(frozen=True, slots=True)
class Spans:
    """Sequences of queries and of keys, laid end to end; places in the flat row are None where all of it is meant."""

    query_ends: Tensor  # (sequences + 1,) int32, from 0
    key_ends: Tensor
    longest_query: int
    longest_key: int
    queries: Tensor | None  # places in the flat row
    keys: Tensor | None  # places in the flat row, behind the prefix where that is repeated


@dataclass(frozen=True, slots=True)
class Layout:
    """How a flat row is attended.

    items: each over itself. nodes: where labels branch, their tokens over their item. chains: if no label branches
    after its first token, nodes over their own label. reads: the places that are read, over their item. seen_by_nodes
    and seen_by_reads: for each run of items with one trie, over the nodes of an item. node_places: all nodes in the
    flat row.
    """

    depth: int
    repeats_prefix: bool
    items: Spans
    nodes: Spans | None
    chains: Spans | None
    reads: Spans
    seen_by_nodes: list["Seen"]
    seen_by_reads: list["Seen"]
    node_places: Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """Queries of a run of items over the nodes of their item; `hidden` (queries, nodes) is what they do not see."""

    num_items: int
    num_queries: int
    num_nodes: int
    hidden: Tensor


class TrieOnDevice(NamedTuple):
    """Which nodes the nodes and the reads of a trie do not see; the lengths of its chains, if it has no branches."""

    hidden_from_nodes: Tensor  # (nodes, nodes)
    hidden_from_reads: Tensor  # (reads, nodes)
    chains: Tensor | None  # (chains,)
    longest_chain: int


@lru_cache(maxsize=64)
def on_device(trie: LabelTrie, device: torch.device) -> TrieOnDevice:
    """Copied there once."""
    nodes = torch.arange(len(trie.tokens))
    ancestors = (nodes <= nodes[:, None]) & (nodes[:, None] < trie.ends)
    seen = torch.cat([ancestors, ancestors.new_zeros(1, len(nodes))])  # last: the root, -1
    starts = (trie.depths == 1).nonzero()[:, 0]
    lengths = torch.cat([starts[1:], torch.tensor([len(nodes)])]) - starts if len(nodes) else None
    chains = None
    if lengths is not None:
        alone = torch.block_diag(*(torch.ones(n, n).tril() for n in lengths.tolist())).bool()
        chains = lengths.to(device) if torch.equal(alone, ancestors) else None
    longest = 0 if lengths is None else int(lengths.max())
    return TrieOnDevice(~ancestors.to(device), ~seen[trie.reads].to(device), chains, longest)


class Laid(NamedTuple):
    """Trees of one depth that lie side by side in the flat row, in the place of a batch's groups."""

    trees: Sequence[TokenTree]
    repeats_prefix: bool

    def to(self, device: torch.device) -> Layout:
        return lay_out(self.trees, device, repeats_prefix=self.repeats_prefix)


def lay_out(trees: Sequence[TokenTree], device: torch.device, *, repeats_prefix: bool) -> Layout:
    """Makes a row's layout; nothing here waits for the device."""
    depth = trees[0].depth
    before = depth if repeats_prefix else 0
    own = send(torch.tensor([len(tree.own) for tree in trees]), device)  # (items,)
    nodes = send(torch.tensor([len(tree.trie.tokens) for tree in trees]), device)
    reads = send(torch.tensor([len(tree.trie.reads) for tree in trees]), device)
    starts = _ends(own + nodes)[:-1]
    num_tokens = sum(tree.num_tokens for tree in trees)
    num_nodes = sum(len(tree.trie.tokens) for tree in trees)
    longest = max(len(tree.own) for tree in trees)
    keys = _places(starts, own, before, num_tokens - num_nodes + before * len(own))
    node_places = _places(starts + own, nodes, 0, num_nodes)
    over_own = (_ends(own + before), longest + before, keys)
    most_nodes = max(len(tree.trie.tokens) for tree in trees)
    most_reads = max(len(tree.trie.reads) for tree in trees)
    read_spans = _spans(_ends(reads), most_reads, None, over_own)
    runs = [(trie, len(list(run))) for trie, run in groupby(tree.trie for tree in trees)]
    tries = [(on_device(trie, device), num_items) for trie, num_items in runs]
    seen_by_reads = [_seen(trie.hidden_from_reads, num_items) for trie, num_items in tries]
    if all(_is_chain(trie.depths) for trie, _ in runs):
        width = max(tree.num_tokens for tree in trees)
        all_keys = _places(starts, own + nodes, before, num_tokens + before * len(own)) if before else None
        over_all = (_ends(own + nodes + before), width + before, all_keys)
        items = _spans(_ends(own + nodes), width, None, over_all)
        return Layout(depth, repeats_prefix, items, None, None, read_spans, [], seen_by_reads, node_places)
    items = _spans(_ends(own), longest, _places(starts, own, 0, num_tokens - num_nodes), over_own)
    node_spans = _spans(_ends(nodes), most_nodes, node_places, over_own)
    seen_by_nodes = [_seen(trie.hidden_from_nodes, num_items) for trie, num_items in tries]
    lengths = [trie.chains.repeat(num_items) for trie, num_items in tries if trie.chains is not None]
    chains = None
    if len(lengths) == len(tries):
        ends, longest_chain = _ends(torch.cat(lengths)), max(trie.longest_chain for trie, _ in tries)
        chains = Spans(ends, ends, longest_chain, longest_chain, None, None)
    return Layout(
        depth, repeats_prefix, items, node_spans, chains, read_spans, seen_by_nodes, seen_by_reads, node_places
    )


def _spans(ends: Tensor, longest: int, queries: Tensor | None, keys: tuple[Tensor, int, Tensor | None]) -> Spans:
    return Spans(ends, keys[0], longest, keys[1], queries, keys[2])


def _seen(hidden: Tensor, num_items: int) -> Seen:
    return Seen(num_items, len(hidden), hidden.shape[1], hidden)


def _is_chain(depths: Tensor) -> bool:
    return depths.tolist() == list(range(1, len(depths) + 1))


def _ends(lengths: Tensor) -> Tensor:
    """(sequences + 1,) int32: where each begins, and the end of the last."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()


def _places(starts: Tensor, lengths: Tensor, before: int, total: int) -> Tensor:
    """(total,) places: for each sequence the `before` of the prefix, then its own behind that."""
    sizes = lengths + before
    which = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=total)
    within = torch.arange(total, device=sizes.device) - (sizes.cumsum(0) - sizes)[which]
    return torch.where(within < before, within, starts[which] + within)


def attend_spans(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of (queries, heads, size) over (keys, key heads, size): the output, and (heads, queries) log-sum-exps.

    Causal: the last query sees all keys of its sequence, the one before it all but the last, and so on.
    """
    if query.is_cuda:
        out, sums = torch.ops.aten._flash_attention_forward(
            query, key, value, spans.query_ends, spans.key_ends, spans.longest_query, spans.longest_key,
            0.0, causal, False, scale=scale,
        )[:2]  # fmt: skip
        return out, sums
    outs, all_sums = [], []
    for q0, q1, k0, k1 in zip(
        spans.query_ends[:-1], spans.query_ends[1:], spans.key_ends[:-1], spans.key_ends[1:], strict=True
    ):
        hidden = torch.ones(int(q1 - q0), int(k1 - k0), dtype=torch.bool).triu(1 + int(k1 - k0) - int(q1 - q0))
        out, sums = _attend_plainly(query[q0:q1], key[k0:k1], value[k0:k1], hidden & causal, scale)
        outs.append(out)
        all_sums.append(sums)
    return torch.cat(outs), torch.cat(all_sums, dim=1)


def attend_all(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Every query over every key, shapes as in `attend_spans`."""
    if query.is_cuda:
        out, sums = torch.ops.aten._flash_attention_forward(
            query[None], key[None], value[None], None, None, len(query), len(key), 0.0, False, False, scale=scale
        )[:2]
        return out[0], sums[0]
    return _attend_plainly(query, key, value, torch.zeros(1, 1, dtype=torch.bool), scale)


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of (..., queries, heads, size) over (..., keys, key heads, size) by its definition, in float32.

    `hidden` (queries, keys) is what may not be seen. Query heads that share a key head are laid one after the other.
    """
    num_queries, repeats = query.shape[-3], query.shape[-2] // key.shape[-2]
    keys, values = (each.float().transpose(-3, -2) for each in (key, value))  # (..., key heads, keys, size)
    queries = query.float().transpose(-3, -2).unflatten(-3, (-1, repeats)).flatten(-3, -2)
    scores = (queries @ keys.mT * scale).masked_fill(hidden.expand(num_queries, -1).repeat(repeats, 1), float("-inf"))
    sums = scores.logsumexp(-1, keepdim=True).clamp(min=-1e30)  # of nothing seen it would be -inf
    out = ((scores - sums).exp() @ values).unflatten(-2, (repeats, num_queries)).flatten(-4, -3)
    sums = sums.unflatten(-2, (repeats, num_queries)).flatten(-4, -3)[..., 0]  # (..., heads, queries)
    return out.transpose(-3, -2).to(query.dtype), sums


def merge(first: Tensor, first_sums: Tensor, second: Tensor, second_sums: Tensor) -> Tensor:
    """One attention from two over different keys: (queries, heads, size) each, weighed by their log-sum-exps."""
    weight = torch.sigmoid(first_sums - second_sums).mT[..., None]  # (queries, heads, 1) of the first
    return (first.float() * weight + second.float() * (1 - weight)).to(first.dtype)


@contextmanager
def varlen_rows(*, repeats_prefix: bool) -> Iterator[None]:
    """Rows come to attention with a layout in the place of groups, unless some of a batch's items leave the prefix."""
    usual = TreeForward.lay_out

    def lay_out(forward: TreeForward, trees: Sequence[TokenTree]) -> PackedBatch:
        batch = usual(forward, trees)
        laid: list[Any] = [Laid(trees, repeats_prefix)]
        return replace(batch, groups=laid) if len({tree.depth for tree in trees}) == 1 else batch

    # No two items become one tree, and no prefix is kept but what nearly all begin with.
    apart = patch.multiple(sharing, _CELLS_PER_TOKEN=-math.inf, _MIN_SAVED_BATCHES=math.inf)
    with apart, patch.object(TreeForward, "lay_out", lay_out):
        yield


class VarlenAttention:
    """An attention function for transformers' interface."""

    def __init__(self, merge: Callable[..., Tensor] = merge) -> None:
        self._merge = merge

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        row: Row = attention.ROW.get()
        layout: Any = row.groups[0]
        if row.keeps_keys or not isinstance(layout, Layout):
            return attention.attend(module, query, key, value, attention_mask, **kwargs)
        if any(kwargs.get(name) is not None for name in ("sliding_window", "softcap", "s_aux")):
            raise NotImplementedError("a window, a soft cap or attention sinks")
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        row.windows[layer] = None
        scaling = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        at_reads = row.keys_and_values is not None
        key, value = row.keys_and_values or (key, value)
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, size)
        prefix = (row.prefix.keys[layer], row.prefix.values[layer]) if layout.depth else None
        return self._attend(q, k, v, prefix, layout, scale, at_reads=at_reads)[None], None

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        layout: Layout,
        scale: float,
        *,
        at_reads: bool,
    ) -> Tensor:
        over = _Keys(k, v, None, self._merge)
        if prefix is not None:
            before = [each[:, : layout.depth].transpose(0, 1) for each in prefix]  # (depth, key heads, size)
            if layout.repeats_prefix:
                over = _Keys(torch.cat([before[0], k]), torch.cat([before[1], v]), None, self._merge)
            else:
                over = _Keys(k, v, attend_all(q, before[0], before[1], scale), self._merge)
        if at_reads:
            out, sums = over.attend(q, layout.reads, scale, causal=False)
            if not len(layout.node_places):
                return out
            return self._merge(out, sums, *_attend_nodes(q, k, v, layout.node_places, layout.seen_by_reads, scale))
        items = over.attend(q, layout.items, scale, causal=True)[0]
        if layout.nodes is None:
            return items
        assert layout.nodes.queries is not None
        out, sums = over.attend(q, layout.nodes, scale, causal=False)
        queries = q.index_select(0, layout.nodes.queries)
        if layout.chains is not None:
            keys, values = k.index_select(0, layout.node_places), v.index_select(0, layout.node_places)
            over_nodes = attend_spans(queries, keys, values, layout.chains, scale, causal=True)
        else:
            over_nodes = _attend_nodes(queries, k, v, layout.node_places, layout.seen_by_nodes, scale)
        nodes = self._merge(out, sums, *over_nodes)
        all_out = items.new_empty(len(q), *items.shape[1:])
        all_out[layout.items.queries] = items
        all_out[layout.nodes.queries] = nodes
        return all_out


class _Keys(NamedTuple):
    """Keys and values of the flat row, behind the prefix where that is repeated; if not, what queries saw of it."""

    keys: Tensor
    values: Tensor
    dense: tuple[Tensor, Tensor] | None
    merge: Callable[..., Tensor]

    def attend(self, q: Tensor, spans: Spans, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
        """The queries of some spans over these: outputs and log-sum-exps."""
        keys, values = self.keys, self.values
        if spans.keys is not None:
            keys, values = keys.index_select(0, spans.keys), values.index_select(0, spans.keys)
        queries = q if spans.queries is None else q.index_select(0, spans.queries)
        out, sums = attend_spans(queries, keys, values, spans, scale, causal=causal)
        if self.dense is None:
            return out, sums
        seen, seen_sums = self.dense
        if spans.queries is not None:
            seen, seen_sums = seen.index_select(0, spans.queries), seen_sums.index_select(1, spans.queries)
        return self.merge(out, sums, seen, seen_sums), torch.logaddexp(sums, seen_sums)


def _attend_nodes(
    queries: Tensor, k: Tensor, v: Tensor, places: Tensor, groups: list[Seen], scale: float
) -> tuple[Tensor, Tensor]:
    """Queries of each item over the nodes of its labels: few keys, so by the definition."""
    keys, values = k.index_select(0, places), v.index_select(0, places)
    outs, all_sums, query, node = [], [], 0, 0
    for seen in groups:
        end, last = query + seen.num_items * seen.num_queries, node + seen.num_items * seen.num_nodes
        part = queries[query:end].unflatten(0, (seen.num_items, seen.num_queries))
        own = (each[node:last].unflatten(0, (seen.num_items, seen.num_nodes)) for each in (keys, values))
        out, sums = _attend_plainly(part, *own, seen.hidden, scale)
        outs.append(out.flatten(0, 1))
        all_sums.append(sums.transpose(0, 1).flatten(1))  # (heads, items * queries)
        query, node = end, last
    return torch.cat(outs), torch.cat(all_sums, dim=1)
