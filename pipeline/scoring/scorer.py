"""Label scores from a causal language model: each item forwarded once for all its labels.

Invariant: whatever the batch, a score is the one that a forward of prompt and label alone would give, to the precision
of the model's dtype. This is checked whenever a model is taken, and again where longer sequences come than before
(selfcheck.py); a model that cannot do it over a tree is scored one row for each label.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring.counts import Counts
from pipeline.scoring.forward import B, RowsForward, S, TreeForward
from pipeline.scoring.lanes import Lanes, open_lanes
from pipeline.scoring.memory import attempt
from pipeline.scoring.packed import PackedBatch
from pipeline.scoring.padded import LabelRow, PaddedBatch, make_rows
from pipeline.scoring.parts import ItemPart, by_regime, split_items
from pipeline.scoring.scheduler import Scheduled, Scheduler, smallest_budget
from pipeline.scoring.selfcheck import SelfCheck
from pipeline.scoring.sharing import count_distinct, make_trees
from pipeline.scoring.strings import Ids
from pipeline.scoring.terms import LabelSums
from pipeline.scoring.tokens import TokenSequences

# Measured: a CPU likes what stays in its cache, and has a batch in each lane; a GPU likes what fills it.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


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
    is_greedy: (items, labels) bool, whether each token of the label has the largest logit at its place, or None.
    Items may have different numbers of labels: `labels` is the most that one of the call has, and NaN (or False) stands
    behind an item's own.
    """

    indices: list[int]
    logprob: Tensor
    logit: Tensor
    notebook_logit: Tensor | None
    is_greedy: Tensor | None = None


class _StrangeScores(Exception):
    """Some scores are no finite numbers: those of the `suspects`, each an (item, label)."""

    def __init__(self, suspects: list[tuple[int, int]]) -> None:
        super().__init__(suspects)
        self.suspects = suspects


class _Running(NamedTuple):
    """A batch on its way; `wait` gives the scores of its terms, or None where the memory did not suffice."""

    scheduled: Scheduled[Any]
    batch: PackedBatch | PaddedBatch
    wait: Callable[[], Tensor | None]


class Scorer:
    """Scores label branches with a loaded model, over a tree where that gives what single forwards give.

    `batch_tokens` bounds the tokens of a batch (padding included), by default what suits the device. With `notebook`
    label tokens are forwarded to the last, for `notebook_logit`; with `greedy` there is `is_greedy`. Raises RunError
    where even rows give other scores than single forwards do, and where the memory does not suffice for a few tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_tokens: int | None = None,
        notebook: bool = False,
        greedy: bool = False,
    ) -> None:
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.notebook, self.greedy = notebook, greedy
        self.counts = Counts()
        self._model = model
        model.eval()  # type: ignore[no-untyped-call]
        self._tree, self._rows = TreeForward(model), RowsForward(model)
        with self._unseen():
            self._check = SelfCheck(model, self._tree, self._logprob)
        self.counts = Counts()

    @property
    def path(self) -> str:
        """Which way: "tree" or "rows". It may turn to rows where longer sequences come."""
        return self._check.verdict.path

    @property
    def path_reason(self) -> str | None:
        """Why not over a tree."""
        return self._check.verdict.reason

    @property
    def remark(self) -> str | None:
        """What a person should know of the scores besides."""
        return self._check.verdict.remark

    def score(self, items: Sequence[TokenSequences]) -> Iterator[ScoredBatch]:
        """Score items, longest first, a batch at a time; stop by not going on.

        Items may differ in their labels and how many they have; `prompt_ids` may be empty where every branch begins
        with tokens that are not scored (ValueError where one does not). Out of memory halves `batch_tokens` and goes
        on. Raises NonFiniteScore for NaN or infinity, RunError where a single item does not fit into memory or the
        model is not causal over so many tokens.
        """
        if not items:
            return
        with self._unseen():
            self._check.reach(items)
        try:
            for batch in self._score(items, self.path):
                self.counts.items += len(batch.indices)
                yield batch
        except _StrangeScores as error:
            raise NonFiniteScore(*self._find_culprit(items, error.suspects)) from None

    def _score(self, items: Sequence[TokenSequences], path: str, *, side_by_side: bool = True) -> Iterator[ScoredBatch]:
        by_length = by_regime(split_items(items), self._tree.rotary.regime)
        self.counts.trie_tokens += sum(count_distinct(parts, notebook=self.notebook) for parts in by_length.values())
        if path == "tree":
            sums = self._sums(items, by_length)
            for regime, parts in by_length.items():
                self._tree.set_regime(regime)
                yield from self._score_trees(parts, sums, side_by_side=side_by_side)
        else:
            rows = {regime: make_rows(parts, notebook=self.notebook) for regime, parts in by_length.items()}
            sums = self._sums(items, rows)
            for regime, sequences in rows.items():
                self._rows.set_regime(regime)
                yield from self._forward(sums, sequences, Lanes(self._rows))

    def _sums(
        self, items: Sequence[TokenSequences], forwarded: Mapping[int, Sequence[ItemPart] | Sequence[LabelRow]]
    ) -> LabelSums:
        indices = [each.index for sequences in forwarded.values() for each in sequences]
        return LabelSums(items, indices, greedy=self.greedy)

    def _score_trees(self, parts: Sequence[ItemPart], sums: LabelSums, *, side_by_side: bool) -> Iterator[ScoredBatch]:
        trees = make_trees(parts, self.batch_tokens, notebook=self.notebook)
        num_tokens = sum(tree.num_tokens for tree in trees) if side_by_side else 0
        with open_lanes(self._tree, num_tokens // smallest_budget(self.batch_tokens)) as lanes:
            yield from self._forward(sums, trees, lanes)

    # --- schedule, run, collect -------------------------------------------------------------------------------------

    def _forward(self, sums: LabelSums, sequences: Sequence[S], lanes: Lanes[S, B]) -> Iterator[ScoredBatch]:
        scheduler = Scheduler(
            sequences,
            lanes.forward.num_fitting,
            max_tokens=self.batch_tokens,
            num_lanes=lanes.num,
            max_running=lanes.max_running,
        )
        running: deque[_Running] = deque()
        while scheduler.num_waiting or running:
            # Asking for scores first would leave a lane, or a GPU, idle until the next batch is laid out.
            while (scheduled := scheduler.schedule(len(running))) is not None:
                running.append(self._run(scheduled, lanes, is_idle=not running))
            first = running.popleft()
            scores = first.wait()
            if scores is None:
                self._put_back(first, scheduler)
            elif done := self._collect(first.batch, scores, sums):
                yield _to_batch(done, sums, notebook=self.notebook)

    def _run(self, scheduled: Scheduled[S], lanes: Lanes[S, B], *, is_idle: bool) -> _Running:
        """Lay out a batch and begin its forward, after its prefix."""
        num_forwarded = self._keep_prefix(scheduled.sequences[0].prefix, lanes, is_idle=is_idle)
        batch = lanes.forward.lay_out(scheduled.sequences)
        if num_forwarded is None:
            return _Running(scheduled, batch, lambda: None)
        self.counts.forwarded_tokens += num_forwarded
        greedy = self.greedy
        return _Running(scheduled, batch, lanes.start(lambda forward: attempt(forward.scores, batch, greedy=greedy)))

    def _keep_prefix(self, prefix: Ids, lanes: Lanes[S, B], *, is_idle: bool) -> int | None:
        """How many tokens were forwarded for it, None where the memory did not suffice."""
        if is_idle or self._tree.has_prefix(prefix):  # with all threads
            return attempt(self._tree.keep_prefix, prefix)
        return lanes.start(lambda _: attempt(self._tree.keep_prefix, prefix))()

    def _collect(self, batch: PackedBatch | PaddedBatch, scores: Tensor, sums: LabelSums) -> list[int]:
        """Count a batch and add its scores to the sums; returns the items now complete."""
        self.counts.batches += 1
        self.counts.forwarded_tokens += batch.num_tokens
        self.counts.padding_tokens += batch.ids.numel() - batch.num_tokens
        self.counts.read_positions += len(batch.reads)
        return sums.add(batch.indices, batch.terms, scores)

    def _put_back(self, failed: _Running, scheduler: Scheduler[Any]) -> None:
        """Let a batch that did not fit wait again, for smaller ones."""
        if self._model.device.type != "cpu":
            torch.accelerator.empty_cache()
        num_tokens, sequences = failed.batch.ids.numel(), failed.scheduled.sequences
        if failed.scheduled.is_alone and len(sequences) == 1 and not sequences[0].split():
            shared = f" after {len(sequences[0].prefix)} tokens of prompt" if sequences[0].prefix else ""
            raise RunError(
                f"out of memory on {self._model.device} with a single item of {num_tokens} tokens{shared}; use a "
                "smaller model, --dtype bfloat16, a shorter prompt, or --max-text-tokens to cut long texts"
            )
        if scheduler.put_back(failed.scheduled, num_tokens):
            self.counts.out_of_memory += 1
            self.batch_tokens = scheduler.max_tokens

    # --- self-check -------------------------------------------------------------------------------------------------

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Leave the counts and the budget as they are: where memory is short for a moment, a probe halves it."""
        counts, batch_tokens = replace(self.counts), self.batch_tokens
        try:
            yield
        finally:
            self.counts, self.batch_tokens = counts, batch_tokens

    def _logprob(self, items: Sequence[TokenSequences], path: str) -> Tensor:
        """(items, labels), one batch at a time: the self-check may hold weights in another dtype meanwhile."""
        found = torch.full((len(items), max(len(item.branches) for item in items)), torch.nan)
        try:
            for batch in self._score(items, path, side_by_side=False):
                found[batch.indices] = batch.logprob
        except _StrangeScores as error:
            raise NonFiniteScore(*self._find_culprit(items, error.suspects)) from None
        return found

    def _find_culprit(self, items: Sequence[TokenSequences], suspects: list[tuple[int, int]]) -> tuple[int, int]:
        """The item and label whose own forward gives no number: in a batch NaN spreads, even past a mask (0 * NaN)."""
        for index in dict.fromkeys(index for index, _ in suspects):
            item = items[index]
            for label, (branch, num_tokens) in enumerate(zip(item.branches, item.num_label_tokens, strict=True)):
                alone = TokenSequences(item.prompt_ids, (branch,), (num_tokens,), item.truncated)
                try:
                    list(self._score([alone], "rows"))
                except _StrangeScores:
                    return index, label
        return suspects[0]


def _to_batch(indices: list[int], sums: LabelSums, *, notebook: bool) -> ScoredBatch:
    """The scores of complete items. Raises _StrangeScores where one of their own labels has no number."""
    found = sums.of(indices)
    if not found[:, sums.is_own(indices)].isfinite().all():
        raise _StrangeScores(sums.find_strange())
    logprob, logit, notebook_logit, *missed = found.float().unbind()
    is_greedy = missed[0] == 0 if missed else None
    return ScoredBatch(indices, logprob, logit, notebook_logit if notebook else None, is_greedy)
