"""Label scores from a causal language model: each item forwarded once for all its labels.

Invariant: whatever the batch, a score is the one that a forward of prompt and label alone would give, to the precision
of the model's dtype. This is checked on two probe items whenever a model is taken; a model that cannot do it over a
tree is scored one row for each label.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring import label_rows, plan
from pipeline.scoring.forward import RowsForward, TreeForward
from pipeline.scoring.lanes import Lanes, open_lanes
from pipeline.scoring.probe import Probe, make_probe
from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences
from pipeline.scoring.trie import Terms

# Measured: a CPU likes what stays in its cache, and has a batch in each lane; a GPU likes what fills it.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
# One batch reads at most so many logits (items x places x vocabulary), 256 MiB or 1 GiB in float32.
_MAX_LOGITS = {"cpu": 2**26, "cuda": 2**28}
# What PyTorch says besides OutOfMemoryError: its CPU allocators, the driver, and cuBLAS for its workspace.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


_Result = TypeVar("_Result")
_Triple = tuple[int, int, int]  # slot, read, token of a term
_TermScores = tuple[Tensor, Tensor, Tensor | None]  # log-probability, logit, notebook's logit, each (terms,)


class NonFiniteScore(ValueError):
    """The model gave NaN or infinity for a label of an item; `index` counts the items given to `Scorer.score`."""

    def __init__(self, index: int, label_index: int) -> None:
        super().__init__(f"item {index}, label {label_index}: the model's score is not a finite number")
        self.index, self.label_index = index, label_index


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Scores of the items at `indices` of what was given to `Scorer.score`, each (items, labels) float32 on the CPU.

    logprob: sum over label tokens of log p(token | all before it), natural logarithm. logit: sum of the raw logits at
    the same places. notebook_logit: sum of the logits at the label tokens' own places in reverse order, or None.
    """

    indices: list[int]
    logprob: Tensor
    logit: Tensor
    notebook_logit: Tensor | None


@dataclass(slots=True)
class Counts:
    """What a scorer has done so far. Padding is not among the forwarded tokens.

    trie_tokens: the items' distinct trie nodes plus shared prefixes, the least that had to be forwarded.
    """

    items: int = 0
    batches: int = 0
    forwarded_tokens: int = 0
    trie_tokens: int = 0
    padding_tokens: int = 0
    read_positions: int = 0
    out_of_memory: int = 0


class _Batch(NamedTuple):
    span: range  # of the units
    flat: plan.Flat


class _Started(NamedTuple):
    batch: _Batch
    was_alone: bool  # with no other batch beside it
    wait: Callable[[], _TermScores | None]


class Scorer:
    """Scores label branches with a loaded model; `path` tells which way ("tree" or "rows"), `path_reason` why not tree.

    `batch_tokens` bounds the tokens of a batch (padding included), by default what suits the device. With `notebook`
    label tokens are forwarded to the last, for `notebook_logit`. Raises RunError where even rows give other scores than
    single forwards do, and where the memory does not suffice for a few tokens.
    """

    def __init__(self, model: PreTrainedModel, *, batch_tokens: int | None = None, notebook: bool = False) -> None:
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.notebook = notebook
        self.path = "tree"
        self.path_reason: str | None = None
        self.counts = Counts()
        self._model = model
        model.eval()  # type: ignore[no-untyped-call]
        self._tree, self._rows = TreeForward(model), RowsForward(model)
        probe = _attempt(make_probe, model)
        if probe is None:
            raise RunError(
                f"out of memory on {model.device} with a probe of some tokens; use a smaller model or --dtype bfloat16"
            )
        self._check_path(probe)
        self.counts = Counts()

    def score(self, items: Sequence[TokenSequences]) -> Iterator[ScoredBatch]:
        """Score items of one prompt, longest first, a batch at a time; stop by not going on.

        Out of memory halves `batch_tokens` and goes on. Raises NonFiniteScore for NaN or infinity, RunError where a
        single item does not fit into memory.
        """
        if not items:
            return
        batches = self._score_tree(items) if self.path == "tree" else self._score_rows(items)
        try:
            for batch in batches:
                self.counts.items += len(batch.indices)
                yield batch
        except NonFiniteScore as error:
            raise NonFiniteScore(error.index, self._find_culprit(items[error.index], error.label_index)) from None

    # --- tree -------------------------------------------------------------------------------------------------------

    def _score_tree(self, items: Sequence[TokenSequences]) -> Iterator[ScoredBatch]:
        prefix = plan.find_prefix([item.prompt_ids for item in items])
        units = plan.order_items(items, prefix, notebook=self.notebook)
        num_tokens = sum(unit.num_tokens for unit in units)
        self.counts.trie_tokens += len(prefix) + num_tokens
        with open_lanes(self._tree, num_tokens // self._least_tokens()) as lanes:
            yield from self._score_units(units, prefix, lanes)

    def _score_units(self, units: Sequence[plan.Unit], prefix: Ids, lanes: Lanes) -> Iterator[ScoredBatch]:
        todo = [range(len(units))]  # the next ones last
        left = list(accumulate((unit.num_tokens for unit in reversed(units)), initial=0))[::-1]  # tokens from each on
        following: _Batch | None = None
        started: deque[_Started] = deque()
        while todo or following or started:
            if todo and not following:
                # A GPU is still at work on the batch before; asking for its scores first would leave it idle meanwhile.
                span = todo.pop()
                # The last batches get smaller, so that the lanes end at one time.
                budget = min(self.batch_tokens, max(self._least_tokens(), left[span.start] // lanes.num))
                end = min(span.stop, plan.end_of_batch(units, span.start, budget, self._max_reads()))
                if end < span.stop:
                    todo.append(range(end, span.stop))
                following = _Batch(range(span.start, end), plan.lay_out(units[span.start : end]))
            if following and len(started) < lanes.depth:
                started.append(_Started(following, lanes.depth == 1, self._start(following.flat, prefix, lanes)))
                following = None
                continue
            first = started.popleft()
            scores = first.wait()
            flat = first.batch.flat
            if scores is not None:
                self._count(flat.num_tokens, 0, len(flat.reads))
                yield self._sum_flat(flat, scores)
                continue
            todo += [batch.span for batch in (following, first.batch) if batch]
            following = None
            if first.was_alone or (lanes.depth > 1 and len(flat.units) > 1):
                self._shrink(flat.num_tokens, len(flat.units), len(prefix))
            lanes.depth = 1  # what does not fit beside others may fit alone

    def _least_tokens(self) -> int:
        return max(1, self.batch_tokens // 8)

    def _start(self, flat: plan.Flat, prefix: Ids, lanes: Lanes) -> Callable[[], _TermScores | None]:
        """Begin a forward; the function returned waits for the scores, None where the memory did not suffice."""
        is_new = _attempt(self._tree.keep_prefix, prefix)
        if is_new is None:
            return lambda: None
        if is_new:
            self.counts.forwarded_tokens += len(prefix)
        return lanes.start(lambda tree: _attempt(self._forward, tree, flat))

    def _forward(self, tree: TreeForward, flat: plan.Flat) -> _TermScores:
        """The terms' scores on the model's device, which may still be working on them."""
        flat = flat.to(self._model.device)
        return _score_terms(tree.logits(flat, self._tree.prefix), flat.terms, flat.notebook_terms)

    def _sum_flat(self, flat: plan.Flat, scores: _TermScores) -> ScoredBatch:
        num_items, num_labels = len(flat.units), flat.units[0].trie.num_labels
        sums = _sum_terms(scores, flat.terms, flat.notebook_terms, num_items * num_labels)
        indices = [unit.index for unit in flat.units]
        return _to_batch(indices, sums.view(3, num_items, num_labels), notebook=self.notebook)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _score_rows(self, items: Sequence[TokenSequences]) -> Iterator[ScoredBatch]:
        """Rows are sorted by length, an item's rows apart; an item comes out with its last row."""
        num_labels = len(items[0].branches)
        prefix = plan.find_prefix([item.prompt_ids for item in items])
        units = plan.order_items(items, prefix, notebook=self.notebook)
        self.counts.trie_tokens += len(prefix) + sum(unit.num_tokens for unit in units)
        todo = label_rows.make_rows(items, notebook=self.notebook)
        missing = torch.bincount(torch.tensor([row.index for row in todo]), minlength=len(items)).tolist()
        sums = torch.zeros(3, len(items), num_labels, dtype=torch.float64)
        begin = 0
        while begin < len(todo):
            end = label_rows.end_of_batch(todo, begin, self.batch_tokens, self._max_reads())
            batch = todo[begin:end]
            added = _attempt(self._sum_rows, batch, sums.shape)
            if added is None:
                self._shrink(len(batch) * len(batch[0].ids), len(batch))
                continue
            sums += added
            begin = end
            for row in batch:
                missing[row.index] -= 1
            done = [index for index in dict.fromkeys(row.index for row in batch) if missing[index] == 0]
            if done:
                yield _to_batch(done, sums[:, done], notebook=self.notebook)

    def _sum_rows(self, batch: Sequence[label_rows.LabelRow], shape: torch.Size) -> Tensor:
        """What the batch's rows add to the sums (3, items, labels)."""
        reads: dict[tuple[int, int], int] = {}
        terms: tuple[list[_Triple], list[_Triple]] = ([], [])
        for i, row in enumerate(batch):
            for triples, row_terms in zip(terms, (row.terms, row.notebook_terms), strict=True):
                for term in row_terms:
                    read = reads.setdefault((i, term.place), len(reads))
                    triples.append((row.index * shape[2] + term.label, read, term.token))
        logits = self._rows.logits(batch, list(reads))  # (reads, vocabulary)
        num_tokens = sum(len(row.ids) for row in batch)
        self._count(num_tokens, len(batch) * len(batch[0].ids) - num_tokens, len(reads))
        plain = _as_terms(terms[0]).to(logits.device)
        notebook = _as_terms(terms[1]).to(logits.device) if self.notebook else None
        return _sum_terms(_score_terms(logits, plain, notebook), plain, notebook, shape[1] * shape[2]).view(shape)

    # --- self-check -------------------------------------------------------------------------------------------------

    def _check_path(self, probe: Probe) -> None:
        """Stay on the tree only if it gives the scores of single forwards; windows too wide to probe must be known."""
        batch_tokens = self.batch_tokens
        self.path_reason = self._find_fault(probe)
        if self.path_reason is not None and self._tree.last_layer is not None:
            self._tree.last_layer = None  # some models' code wants every token to come out of its last layer
            self.path_reason = self._find_fault(probe)
        self.batch_tokens = batch_tokens  # where memory was short for a moment, the probe has left it at a few tokens
        if self.path_reason is None:
            return
        self.path = "rows"
        difference = self._difference(probe)
        if difference > probe.tolerance:
            raise RunError(
                f"the model's scores depend on how texts are batched (by {difference:.3g} nats, at most "
                f"{probe.tolerance:.3g} is rounding): it does not work as a causal language model here; use another one"
            )

    def _find_fault(self, probe: Probe) -> str | None:
        try:
            difference = self._difference(probe)
        except RunError:  # no memory for the probe: that tells nothing of the tree
            raise
        except Exception as error:  # whatever a model's code raises, it only tells that it takes no tree
            return f"the model does not take a tree of labels: {type(error).__name__}: {str(error)[:200]}"
        if not difference <= probe.tolerance:
            return f"over a tree of labels the model's scores differ by {difference:.3g} nats from single forwards"
        return probe.check_windows(self._tree.windows)

    def _difference(self, probe: Probe) -> float:
        found = torch.empty_like(probe.logprob)
        for batch in self.score(probe.items):
            found[batch.indices] = batch.logprob
        return float((found - probe.logprob).abs().max())

    def _find_culprit(self, item: TokenSequences, suspect: int) -> int:
        """The label whose own forward gives no number: within a batch NaN spreads, even past a mask (0 * NaN)."""
        for label, (branch, num_tokens) in enumerate(zip(item.branches, item.num_label_tokens, strict=True)):
            try:
                list(self._score_rows([TokenSequences(item.prompt_ids, (branch,), (num_tokens,), item.truncated)]))
            except NonFiniteScore:
                return label
        return suspect

    # --- both -------------------------------------------------------------------------------------------------------

    def _max_reads(self) -> int:
        max_logits = _MAX_LOGITS.get(self._model.device.type, 2**26)
        return max(1, max_logits // int(self._model.config.get_text_config().vocab_size))

    def _count(self, num_tokens: int, num_padding: int, num_reads: int) -> None:
        self.counts.batches += 1
        self.counts.forwarded_tokens += num_tokens
        self.counts.padding_tokens += num_padding
        self.counts.read_positions += num_reads

    def _shrink(self, num_tokens: int, num_units: int, num_shared: int = 0) -> None:
        """Make room after a batch that did not fit; `num_shared`: tokens of the prefix before it."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if num_units == 1:
            shared = f" after {num_shared} tokens of prompt" if num_shared else ""
            raise RunError(
                f"out of memory on {self._model.device} with a single item of {num_tokens} tokens{shared}; use a "
                "smaller model, --dtype bfloat16, a shorter prompt, or --max-text-tokens to cut long texts"
            )
        self.counts.out_of_memory += 1
        self.batch_tokens = max(1, min(self.batch_tokens, num_tokens) // 2)


def _attempt(work: Callable[..., _Result], *arguments: Any) -> _Result | None:
    """What `work` gives, or None where it ran out of memory; what the failed work held is free again then."""
    try:
        return work(*arguments)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    return None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def _score_terms(logits: Tensor, terms: Terms, notebook_terms: Terms | None) -> _TermScores:
    """Each term's log-probability, logit and, where asked for, notebook's logit, from logits (reads, vocabulary)."""
    logprobs = logits.log_softmax(dim=-1)  # (reads, vocabulary); in one pass, twice as fast as logsumexp
    notebook = logits[notebook_terms.reads, notebook_terms.tokens] if notebook_terms else None
    return logprobs[terms.reads, terms.tokens], logits[terms.reads, terms.tokens], notebook


def _sum_terms(scores: _TermScores, terms: Terms, notebook_terms: Terms | None, num_slots: int) -> Tensor:
    """(3, slots) float64 on the CPU: logprob, logit and notebook_logit, summed in one order on any device."""
    sums = torch.zeros(3, num_slots, dtype=torch.float64)
    for total, of_terms, used in zip(sums, scores, (terms, terms, notebook_terms), strict=True):
        if of_terms is not None and used is not None:
            total.index_add_(0, used.slots, of_terms.double().cpu())
    return sums


def _as_terms(terms: list[_Triple]) -> Terms:
    return Terms(*(torch.tensor(column) for column in zip(*terms, strict=True)))


def _to_batch(indices: list[int], sums: Tensor, *, notebook: bool) -> ScoredBatch:
    """`sums` (3, items, labels). Raises NonFiniteScore for the first score that is no number."""
    strange = (~sums.isfinite()).any(dim=0).nonzero()
    if len(strange):
        item, label = strange[0].tolist()
        raise NonFiniteScore(indices[item], label)
    logprob, logit, notebook_logit = sums.float().unbind()
    return ScoredBatch(indices, logprob, logit, notebook_logit if notebook else None)
