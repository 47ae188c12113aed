"""Label scores from a causal language model: each item forwarded once for all its labels.

Invariant: whatever the batch, a score is the one that a forward of prompt and label alone would give, to the precision
of the model's dtype. This is checked on two probe items whenever a model is taken; a model that cannot do it over a
tree is scored one row for each label.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring.forward import B, RowsForward, S, TreeForward
from pipeline.scoring.lanes import Lanes, open_lanes
from pipeline.scoring.memory import attempt
from pipeline.scoring.packed import PackedBatch
from pipeline.scoring.padded import PaddedBatch, make_rows
from pipeline.scoring.parts import split_items
from pipeline.scoring.probe import Probe, make_probe
from pipeline.scoring.scheduler import Scheduled, Scheduler, smallest_budget
from pipeline.scoring.sharing import Budget, count_distinct, make_trees
from pipeline.scoring.strings import Ids
from pipeline.scoring.terms import LabelSums
from pipeline.scoring.tokens import TokenSequences

# Measured: a CPU likes what stays in its cache, and has a batch in each lane; a GPU likes what fills it.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
# One batch reads at most so many logits (items x places x vocabulary), 256 MiB or 1 GiB in float32.
_MAX_LOGITS = {"cpu": 2**26, "cuda": 2**28}


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


@dataclass(slots=True)
class Counts:
    """What a scorer has done so far. Padding is not among the forwarded tokens.

    trie_tokens: the nodes of the trie over all sequences of a call, the least that had to be forwarded.
    """

    items: int = 0
    batches: int = 0
    forwarded_tokens: int = 0
    trie_tokens: int = 0
    padding_tokens: int = 0
    read_positions: int = 0
    out_of_memory: int = 0


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
    """Scores label branches with a loaded model; `path` tells which way ("tree" or "rows"), `path_reason` why not tree.

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
        self.path = "tree"
        self.path_reason: str | None = None
        self.counts = Counts()
        self._model = model
        model.eval()  # type: ignore[no-untyped-call]
        self._tree, self._rows = TreeForward(model), RowsForward(model)
        probe = attempt(make_probe, model)
        if probe is None:
            raise RunError(
                f"out of memory on {model.device} with a probe of some tokens; use a smaller model or --dtype bfloat16"
            )
        self._check_path(probe)
        self.counts = Counts()

    def score(self, items: Sequence[TokenSequences]) -> Iterator[ScoredBatch]:
        """Score items, longest first, a batch at a time; stop by not going on.

        Items may differ in their labels and how many they have; `prompt_ids` may be empty where every branch begins
        with tokens that are not scored (ValueError where one does not). Out of memory halves `batch_tokens` and goes
        on. Raises NonFiniteScore for NaN or infinity, RunError where a single item does not fit into memory.
        """
        try:
            for batch in self._score(items, self.path) if items else ():
                self.counts.items += len(batch.indices)
                yield batch
        except _StrangeScores as error:
            raise NonFiniteScore(*self._find_culprit(items, error.suspects)) from None

    def _score(self, items: Sequence[TokenSequences], path: str) -> Iterator[ScoredBatch]:
        parts = split_items(items)
        self.counts.trie_tokens += count_distinct(parts, notebook=self.notebook)
        if path == "tree":
            trees = make_trees(parts, Budget(self.batch_tokens, self._max_reads()), notebook=self.notebook)
            num_tokens = sum(tree.num_tokens for tree in trees)
            sums = LabelSums(items, [part.index for part in parts], greedy=self.greedy)
            self._tree.drop_prefix()
            with open_lanes(self._tree, num_tokens // smallest_budget(self.batch_tokens)) as lanes:
                yield from self._forward(sums, trees, lanes)
        else:
            rows = make_rows(items, notebook=self.notebook)
            sums = LabelSums(items, [row.index for row in rows], greedy=self.greedy)
            yield from self._forward(sums, rows, Lanes(self._rows))

    # --- schedule, run, collect -------------------------------------------------------------------------------------

    def _forward(self, sums: LabelSums, sequences: Sequence[S], lanes: Lanes[S, B]) -> Iterator[ScoredBatch]:
        scheduler = Scheduler(
            sequences,
            lanes.forward.num_fitting,
            max_tokens=self.batch_tokens,
            max_reads=self._max_reads(),
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
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
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

    def _max_reads(self) -> int:
        max_logits = _MAX_LOGITS.get(self._model.device.type, 2**26)
        return max(1, max_logits // int(self._model.config.get_text_config().vocab_size))

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
