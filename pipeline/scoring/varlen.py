"""Attention without masks: trees as sequences of different lengths, laid end to end, for the kernels that take such.

A tree's own tokens are one causal sequence. Where its trie is a chain whose nodes are all read, as a label of several
tokens among labels of one token is, they belong to it. Where labels branch, their nodes attend twice: to what all of
them see, and to their ancestors among the nodes. The two are merged by their log-sum-exps: attention over two sets of
keys is the sum of both outputs, each weighed by its set's share of the exponentials (as in FlashInfer's cascade,
https://flashinfer.ai/2024/02/02/cascade-inference.html).

A short prefix stands before each tree's own keys; a long one is attended to by all queries at once, and merged.

Invariant: the numbers are those of attention with masks, but for rounding; where there is a kernel nothing here waits
for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from transformers import PreTrainedModel

from pipeline.scoring.cells import Tree, fold
from pipeline.scoring.layouts import Asked

# Nodes attend to nodes by a matrix for each tree, which is small up to here.
MOST_NODES = 128
# A prefix of at most so many times the tokens of a tree is repeated. Measured on an H200: at two thirds of them to
# repeat is 5 % faster than to merge, at 17 times 5 % slower.
MOST_REPEATED = 4
_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
# Told so, PyTorch from 2.12 on takes flash attention for grouped heads, and for all others, too: from 2.14 on it would
# take cuDNN, which sets up a plan for every new shape. Before it takes grouped heads as they are, and never cuDNN.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
_NOTHING_SEEN = -1e30  # the log-sum-exp of no keys at all: minus infinity would make NaN


class Queries(NamedTuple):
    """Queries that attend alike, some for each tree, over its sequence and, where it has branches, its nodes.

    places: where they lie among all queries, None for all of them. A causal one's last query sees the whole sequence,
    the one before it all but the last token, and so on; any other sees all of it.
    """

    places: Tensor | None
    ends: Tensor  # (trees + 1,) int32, from 0
    longest: int
    is_causal: bool
    folded: "Folded | None" = None


class Folded(NamedTuple):
    """Queries as a matrix with a tree in each line, and where among the nodes each stands.

    Node k is seen from place q if k <= q < ends[k]; the root's place is -1.
    """

    cells: Tensor  # (trees, most queries) which of the queries, whatever it is in the padding
    inverse: Tensor  # (queries,) cell of each
    places: Tensor  # (trees, most queries)


class Nodes(NamedTuple):
    """All nodes of the trees as keys, folded into a matrix with a tree in each line."""

    cells: Tensor  # (trees, most nodes) place among the group's tokens
    ends: Tensor  # (trees, most nodes); 0 in the padding, which nothing sees


@dataclass(slots=True, eq=False)
class VarlenGroup:
    """Trees side by side in the flat row. Where they branch a tree's sequence is its own tokens, else all of them.

    key_places: the sequences' keys among those of the prefix, if that is repeated before each of them, and the group's
    tokens; None where they are all of the group's.
    """

    begin: int
    depth: int
    num_tokens: int
    num_reads: int
    span: int  # more than any position
    is_repeated: bool
    key_ends: Tensor  # (trees + 1,) int32, from 0
    longest_key: int
    key_places: Tensor | None
    tokens: tuple[Queries, ...]
    reads: Queries
    nodes: Nodes | None
    hidden: dict[int, Tensor] = field(default_factory=dict, init=False)

    def attend(self, asked: Asked, first_read: int) -> Tensor:
        if asked.softcap is not None:
            raise NotImplementedError("a soft cap on attention without masks")
        own = slice(self.begin, self.begin + self.num_tokens)
        views: tuple[Queries, ...]
        if asked.at_reads:
            queries, views = asked.queries[first_read : first_read + self.num_reads], (self.reads,)
        else:
            queries, views = asked.queries[own], self.tokens
        if asked.weights in _KERNEL_DTYPES and queries.dtype not in _KERNEL_DTYPES and queries.is_cuda:
            raise NotImplementedError(f"attention in {queries.dtype} by a model in {asked.weights} without masks")
        if asked.kernels is not None:
            asked.kernels.add(f"attention without masks: {'flash' if _is_for_kernel(queries) else 'plain'}")
        keys = self._keys(asked, own)
        outs = []
        for view in views:
            some = queries if view.places is None else queries.index_select(0, view.places)
            out, sums = keys.over_all(some, view)
            outs.append(out if asked.sinks is None else _with_sinks(out, sums, asked.sinks))
        if len(outs) == 1:
            return outs[0]
        whole = outs[0].new_empty(len(queries), *outs[0].shape[1:])
        for view, out in zip(views, outs, strict=True):
            whole[view.places] = out
        return whole

    def _keys(self, asked: Asked, own: slice) -> "_Keys":
        window = asked.window if asked.window is not None and asked.window < self.span else None
        if window is not None and (self.nodes is not None or (self.depth and not self.is_repeated)):
            raise NotImplementedError("a sliding window over branches without masks")
        keys, values, before, nodes = asked.keys[own], asked.values[own], None, None
        if self.nodes is not None:
            nodes = keys[self.nodes.cells], values[self.nodes.cells], self._hidden
        if self.depth:
            assert asked.prefix is not None
            before = asked.prefix[0][: self.depth], asked.prefix[1][: self.depth]
            if self.is_repeated:
                keys, values, before = torch.cat([before[0], keys]), torch.cat([before[1], values]), None
        if self.key_places is not None:
            keys, values = keys.index_select(0, self.key_places), values.index_select(0, self.key_places)
        sequences = Sequences(keys, values, self.key_ends, self.longest_key, asked.scaling, window)
        return _Keys(sequences, before, nodes)

    def _hidden(self, folded: Folded) -> Tensor:
        """(trees, most queries, most nodes) bool, once for all layers."""
        assert self.nodes is not None
        if id(folded) not in self.hidden:
            nodes, places = (
                torch.arange(self.nodes.ends.shape[1], device=folded.places.device),
                folded.places[:, :, None],
            )
            self.hidden[id(folded)] = (nodes > places) | (places >= self.nodes.ends[:, None])
        return self.hidden[id(folded)]


class _Keys(NamedTuple):
    """What queries see: the sequences, the prefix where it is not repeated in them, and nodes where they branch."""

    sequences: "Sequences"
    before: tuple[Tensor, Tensor] | None
    # Keys and values of the nodes (trees, most nodes, key heads, size), and which of them queries do not see.
    nodes: tuple[Tensor, Tensor, Callable[["Folded"], Tensor]] | None

    def over_all(self, queries: Tensor, view: Queries) -> tuple[Tensor, Tensor]:
        """(queries, heads, size), and the log-sum-exps (queries, heads)."""
        scaling = self.sequences.scaling
        found = attend_sequences(queries, view, self.sequences)
        if self.before is not None:
            found = merge(*found, *attend_densely(queries, *self.before, scaling))
        if self.nodes is not None and view.folded is not None:
            keys, values, hidden = self.nodes
            out, sums = attend_plainly(queries[view.folded.cells], keys, values, hidden(view.folded), scaling)
            inverse = view.folded.inverse
            found = merge(*found, out.flatten(0, 1)[inverse], sums.flatten(0, 1)[inverse])
        return found


def has_kernel(model: PreTrainedModel) -> bool:
    """Whether a kernel takes sequences of different lengths here; heads that it does not take show when it is asked."""
    if model.device.type != "cuda" or model.dtype not in _KERNEL_DTYPES:
        return False
    return torch.cuda.get_device_capability(model.device) >= (8, 0)


def _is_for_kernel(queries: Tensor) -> bool:
    """Not so in the self-check, which asks in float32, too."""
    return queries.is_cuda and queries.dtype in _KERNEL_DTYPES


# --- attention over sequences ---------------------------------------------------------------------------------------


class Sequences(NamedTuple):
    """Keys and values (keys, key heads, size) of sequences laid end to end, and how queries see those of their own."""

    keys: Tensor
    values: Tensor
    ends: Tensor  # (sequences + 1,) int32, from 0
    longest: int
    scaling: float
    window: int | None = None


def attend_sequences(queries: Tensor, view: Queries, over: Sequences) -> tuple[Tensor, Tensor]:
    """(queries, heads, size) and log-sum-exps (queries, heads) of queries over their own sequence of keys."""
    if _is_for_kernel(queries):
        return by_kernel(queries, view, over)
    outs, all_sums = [], []
    query_ends, ends = view.ends.tolist(), over.ends.tolist()
    for first, last, begin, end in zip(query_ends[:-1], query_ends[1:], ends[:-1], ends[1:], strict=True):
        nodes = torch.arange(end - begin, device=queries.device)
        places = torch.arange(last - first, device=queries.device)[:, None] + (end - begin - (last - first))
        hidden = nodes > places if view.is_causal else torch.zeros_like(nodes > places)
        if over.window is not None:
            hidden = hidden | (places - nodes >= over.window)
        some, keys, values = queries[first:last], over.keys[begin:end], over.values[begin:end]
        out, sums = attend_plainly(some[None], keys[None], values[None], hidden[None], over.scaling)
        outs.append(out[0])
        all_sums.append(sums[0])
    return torch.cat(outs).to(queries.dtype), torch.cat(all_sums)


def by_kernel(queries: Tensor, view: Queries, over: Sequences) -> tuple[Tensor, Tensor]:
    """The same by PyTorch's flash attention."""
    sizes = (-1 if over.window is None else over.window - 1, 0) if view.is_causal else (-1, -1)
    out, sums = varlen_attn(
        queries, over.keys, over.values, view.ends, over.ends, view.longest, over.longest,
        return_aux=AuxRequest(lse=True), scale=over.scaling, window_size=sizes, **_GROUPED,
    )  # fmt: skip
    return out, sums.mT


def attend_densely(queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """(queries, heads, size) and log-sum-exps (queries, heads) of all queries over all keys."""
    # Made there: a copy from the host would wait for the device.
    both = torch.arange(2, dtype=torch.int32, device=queries.device)
    view = Queries(None, both * len(queries), len(queries), is_causal=False)
    return attend_sequences(queries, view, Sequences(keys, values, both * len(keys), len(keys), scaling))


def attend_plainly(
    queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention of (trees, queries, heads, size) over (trees, keys, key heads, size) by its definition, in float32.

    hidden: (trees, queries, keys). Also gives the log-sum-exps (trees, queries, heads).
    """
    num_heads, num_key_heads = queries.shape[2], keys.shape[2]
    folded = queries.float().reshape(*queries.shape[:2], num_key_heads, num_heads // num_key_heads, -1)
    scores = torch.einsum("tqhrs,tkhs->tqhrk", folded, keys.float()) * scaling
    scores = scores.masked_fill(hidden[:, :, None, None], float("-inf"))
    sums = scores.logsumexp(-1).clamp(min=_NOTHING_SEEN)
    out = torch.einsum("tqhrk,tkhs->tqhrs", (scores - sums[..., None]).exp(), values.float())
    return out.flatten(2, 3), sums.flatten(2, 3)


def merge(out: Tensor, sums: Tensor, more: Tensor, more_sums: Tensor) -> tuple[Tensor, Tensor]:
    """One attention from two over different keys: outputs (queries, heads, size), log-sum-exps (queries, heads)."""
    share = torch.sigmoid(sums - more_sums)[..., None]  # of the first
    return (out.float() * share + more.float() * (1 - share)).to(out.dtype), torch.logaddexp(sums, more_sums)


def _with_sinks(out: Tensor, sums: Tensor, sinks: Tensor) -> Tensor:
    """One more key for each head, whose value is zero."""
    return (out.float() * torch.sigmoid(sums - sinks.float())[..., None]).to(out.dtype)


# --- laying out -----------------------------------------------------------------------------------------------------


def lay_out(trees: Sequence[Tree], begin: int, window: int | None, most_repeated: float = MOST_REPEATED) -> VarlenGroup:
    """Trees of one depth that lie side by side from `begin` on, all with chains for tries or all with branches.

    A prefix is repeated before each where it is short, or where the narrowest `window` of the model does not hold all.
    """
    depth, has_branches = trees[0].depth, not trees[0].trie.is_chain
    sizes = [(len(tree.own), len(tree.trie.tokens), tree.trie.num_reads) for tree in trees]
    own, nodes, reads = torch.tensor(sizes).unbind(1)
    starts = _begins(own + nodes)
    lengths = own if has_branches else own + nodes
    num_own = int(own.sum())
    span = depth + int((own + nodes).max())
    is_short = depth * len(trees) <= most_repeated * num_own
    is_repeated = depth > 0 and (is_short or (window is not None and window < span))
    before = depth if is_repeated else 0
    views: tuple[Queries, ...] = (Queries(None, _ends(lengths), int(lengths.max()), is_causal=True),)
    reads_view = Queries(None, _ends(reads), int(reads.max()), is_causal=not has_branches)
    nodes_as_keys = None
    if has_branches:
        own_places, node_places = _ranges(starts, own), _ranges(starts + own, nodes)
        cells, inverse = fold(nodes)
        within = torch.arange(cells.shape[1])
        ends = torch.cat([tree.trie.ends for tree in trees])[cells]
        nodes_as_keys = Nodes(node_places[cells], ends.masked_fill(within >= nodes[:, None], 0))
        folded = Folded(cells, inverse, within.repeat(len(trees), 1))
        views = (
            views[0]._replace(places=own_places),
            Queries(node_places, _ends(nodes), int(nodes.max()), is_causal=False, folded=folded),
        )
        cells, inverse = fold(reads)
        reads_view = reads_view._replace(
            folded=Folded(cells, inverse, torch.cat([tree.trie.reads for tree in trees])[cells])
        )
    return VarlenGroup(
        begin=begin,
        depth=depth,
        num_tokens=int((own + nodes).sum()),
        num_reads=int(reads.sum()),
        span=span,
        is_repeated=is_repeated,
        key_ends=_ends(lengths + before),
        longest_key=int(lengths.max()) + before,
        key_places=_key_places(starts, lengths, before) if before or has_branches else None,
        tokens=views,
        reads=reads_view,
        nodes=nodes_as_keys,
    )


def _begins(sizes: Tensor) -> Tensor:
    return sizes.cumsum(0) - sizes


def _ends(sizes: Tensor) -> Tensor:
    """(pieces + 1,) int32, as kernels want them: where each begins, and the end of the last."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).int()


def _ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """start, start + 1, ... of each piece, one after the other."""
    return torch.arange(int(sizes.sum())) + (starts - _begins(sizes)).repeat_interleave(sizes)


def _key_places(starts: Tensor, lengths: Tensor, before: int) -> Tensor:
    """Of each sequence the `before` tokens of the prefix, and its own, which lie behind them."""
    within = _ranges(torch.zeros_like(starts), lengths + before)
    return torch.where(within < before, within, within + starts.repeat_interleave(lengths + before))
