"""Label scores from a causal language model: each item forwarded once for all its labels.

Invariant: whatever the batch, a score is the one that a forward of prompt and label alone would give, to the precision
of the model's dtype. This is checked whenever a model is taken, and again where longer sequences come than before
(selfcheck.py); a model that cannot do it over a tree is scored one row for each label.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.scoring.counts import Counts
from pipeline.scoring.forward import RowsForward, TreeForward
from pipeline.scoring.passes import Pass
from pipeline.scoring.plan import Plan, make_plan
from pipeline.scoring.ranks import is_rank
from pipeline.scoring.selfcheck import SelfCheck
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


class Scorer:
    """Scores label branches with a loaded model, over a tree where that gives what single forwards give.

    `batch_tokens` bounds the tokens of a batch (padding included), by default what suits the device. With `notebook`
    label tokens are forwarded to the last, for `notebook_logit`; with `greedy` there is `is_greedy`. With `compiles`
    the layers are compiled where that can be done, which pays on a GPU and for tens of thousands of items. Raises
    RunError where even rows give other scores than single forwards do, and where the memory does not suffice for a few
    tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_tokens: int | None = None,
        notebook: bool = False,
        greedy: bool = False,
        compiles: bool = False,
    ) -> None:
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
        self.notebook, self.greedy = notebook, greedy
        self.counts = Counts()
        self._model = model
        model.eval()  # type: ignore[no-untyped-call]
        self._tree, self._rows = TreeForward(model), RowsForward(model)
        self._ahead: Pass | None = None
        with self._unseen():
            self._check = SelfCheck(model, self._tree, self._logprob)
            self._is_compiled = compiles and self._check.compile()
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

    @property
    def kernels(self) -> str | None:
        """What attention has run on, and whether layers are compiled; None before there was any."""
        if self.path == "rows":
            return f"the model's own attention: {self._model.config._attn_implementation}"
        found = [*sorted(self._tree.kernels), *(["compiled layers"] if self._is_compiled else [])]
        return ", ".join(found) or None

    def plan(self, items: Sequence[TokenSequences]) -> Plan:
        """What is to be forwarded for some items. Any thread may ask for it ahead, as it takes no part in the scoring.

        Raises ValueError where a label has no tokens at all before it.
        """
        return self._plan(items, self.path)

    def _plan(self, items: Sequence[TokenSequences], path: str) -> Plan:
        return make_plan(items, path, self._tree.rotary.regime, self.batch_tokens, notebook=self.notebook)

    def score(
        self, items: Sequence[TokenSequences] | Plan, following: Callable[[], Plan | None] = lambda: None
    ) -> Iterator[ScoredBatch]:
        """Score items, longest first, a batch at a time; stop by not going on.

        Items may differ in their labels and how many they have; `prompt_ids` may be empty where every branch begins
        with tokens that are not scored (ValueError where one does not). Out of memory halves `batch_tokens` and goes
        on. A GPU goes on with the plan that `following` gives once all batches of this one are on their way, so that it
        has work until that is asked for, too.

        Raises NonFiniteScore for NaN or infinity, RunError where a single item does not fit into memory or the model is
        not causal over so many tokens.
        """
        plan = items if isinstance(items, Plan) else self.plan(items)
        if not plan.items:
            return
        ahead, self._ahead = self._ahead, None  # nothing of it may begin while the model is checked
        with self._unseen():
            self._check.reach(plan.items)
        if ahead is not None and ahead.plan is plan:
            current = ahead
        else:
            current = self._pass(plan if plan.path == self.path else self.plan(plan.items))
        try:
            for batch in self._go_through(current, following):
                self.counts.items += len(batch.indices)
                yield batch
        except _StrangeScores as error:
            raise NonFiniteScore(*self._find_culprit(plan.items, error.suspects)) from None

    def _pass(self, plan: Plan, *, side_by_side: bool = True) -> Pass:
        return Pass(
            plan,
            self._tree,
            self._rows,
            batch_tokens=self.batch_tokens,
            greedy=self.greedy,
            side_by_side=side_by_side,
        )

    def _go_through(self, current: Pass, following: Callable[[], Plan | None] = lambda: None) -> Iterator[ScoredBatch]:
        """Scores as they are collected, those of items that have become complete."""
        try:
            while not current.is_done:
                # Asking for scores first would leave a lane, or a GPU, idle until the next batch is laid out.
                current.begin()
                if current.is_begun and self._goes_ahead:
                    self._begin_ahead(following)
                done = current.collect()
                self.batch_tokens = min(self.batch_tokens, current.batch_tokens)
                self.counts.take(current.counts)
                if done:
                    yield _to_batch(done, current.sums, notebook=self.notebook)
        finally:
            current.close()

    @property
    def _goes_ahead(self) -> bool:
        """Ranks do the same at the same time, and what is ready on one may not be on another."""
        return self._tree.device.type != "cpu" and not is_rank()

    def _begin_ahead(self, following: Callable[[], Plan | None]) -> None:
        """Begin batches of the plan that comes next, if it is there and needs no check that this one did not."""
        plan = following() if self._ahead is None else None
        if plan is not None and plan.items and plan.path == self.path and self._check.covers(plan.items):
            self._ahead = self._pass(plan)
        if self._ahead is not None:
            self._ahead.begin()

    # --- self-check -------------------------------------------------------------------------------------------------

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Leave counts, budget and kernels as they are: where memory is short for a moment, a probe halves it."""
        counts, batch_tokens, kernels = replace(self.counts), self.batch_tokens, set(self._tree.kernels)
        try:
            yield
        finally:
            self.counts, self.batch_tokens = counts, batch_tokens
            self._tree.kernels.intersection_update(kernels)

    def _logprob(self, items: Sequence[TokenSequences], path: str) -> Tensor:
        """(items, labels), one batch at a time: the self-check may hold weights in another dtype meanwhile."""
        found = torch.full((len(items), max(len(item.branches) for item in items)), torch.nan)
        try:
            for batch in self._go_through(self._pass(self._plan(items, path), side_by_side=False)):
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
                    list(self._go_through(self._pass(self._plan([alone], "rows"))))
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
