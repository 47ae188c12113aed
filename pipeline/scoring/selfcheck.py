"""Trust, but verify: which way through a model gives the scores that its plain forwards give.

Invariant: no length is scored that was not checked, unless a plain forward of it has no room. A model that cannot do it
over a tree is scored one row for each label; one whose rows are no better is refused.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring.forward import Shortcut, TreeForward
from pipeline.scoring.fp8 import find_fault, fp8_layers, why_slower
from pipeline.scoring.fused import Fused, uncompiled
from pipeline.scoring.memory import attempt
from pipeline.scoring.probe import (
    Probe,
    fresh,
    is_packed,
    longest_items,
    made_up_items,
    make_probe,
    rebatched_difference,
    sequence_size,
)
from pipeline.scoring.tokens import TokenSequences
from pipeline.scoring.widened import in_float32
from pipeline.scoring.windows import effective_window, layer_windows

# What is exact in float32 may be so many times as far off in few bits as plain forwards are: one token that is sent to
# other experts moves a score by several times what rounding does without.
_MAX_ROUNDING = 10
# FP8 moves all scores, and over a tree otherwise than in single forwards: on average the two may be as far apart as two
# such steps, and as much again as a probe has few scores. Of 150 random models they were 1.3 steps apart at most, and
# 2.7 with experts.
_MAX_FP8_STEPS = 4
# The probe has few places to read, and what a batch does with many is to be checked, too.
_FEW_READS = 4


@dataclass(slots=True)
class Verdict:
    """`path` is "tree" or "rows"; `reason` says why not tree; `remark` what else there is to know of the scores."""

    path: str = "tree"
    reason: str | None = None
    remark: str | None = None


class _NoVerdict(Exception):
    """A way gave no scores to compare: no memory, or no finite numbers. Its cause says which."""


class SelfCheck:
    """Compares both ways with plain forwards, when a model is taken and where longer sequences come than before.

    logprob(items, path): (items, labels), by one of the two ways.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tree: TreeForward,
        logprob: Callable[[Sequence[TokenSequences], str], Tensor],
    ) -> None:
        """Raises RunError where even rows give other scores than single forwards do, or the memory does not suffice."""
        self.verdict = Verdict()
        self._words: str | None = None
        slower = why_slower(model)
        self._standing = [f"fp8 by PyTorch, which is slower than by kernels ({slower})"] if slower else []
        self._remark()
        self._model, self._tree, self._logprob = model, tree, logprob
        self._untouched = fresh(model)  # of which nothing is ever forwarded
        self._as_written: Callable[[], AbstractContextManager[None]] = nullcontext  # what is compiled, in another dtype
        self._exact: tuple[Probe, Probe | None] | None = None  # the last probe, and a few of its sequences in float32
        probe = self._probe(made_up_items(model.config.get_text_config(decoder=True)))
        if probe is None:
            raise RunError(
                f"out of memory on {model.device} with a probe of some tokens; use a smaller model or --dtype bfloat16"
            )
        if (fault := attempt(find_fault, model)) is None:
            raise RunError(
                f"out of memory on {model.device} with a layer in float32, which fp8 is held against; use --dtype "
                "bfloat16"
            )
        if fault:
            raise RunError(f"in fp8 {fault}, so that its scores cannot be trusted; use --dtype bfloat16")
        self._reach, self._first = probe.num_tokens, probe
        if is_packed(model):
            self._remark(
                f"weights in few bits: the scores agree with single forwards to {probe.tolerance:.2g} nats, and could "
                "not be checked more closely in float32"
            )
        try:
            self._choose(probe)
        except _NoVerdict as error:
            raise error.__cause__ or error from None

    def compile(self) -> bool:
        """Compile the layers, if a tree gives the first probe's scores with them; else the remark says why not.

        A model that is scored in rows goes its own way through its layers.
        """
        if self.verdict.path != "tree":
            return False
        self._as_written, fused = uncompiled, None
        try:
            fused = Fused(self._model)
            differences = self._differences(self._first, "tree")
            is_right = self._is_right(self._first, "tree", differences)
            fault = None if is_right else f"scores moved by {differences.max():.2g} nats"
        except _NoVerdict as error:
            fault = str(error.__cause__ or error)
        except Exception as error:  # no compiler in the image, or code that it does not take
            fault = _said(error)
        if fault is None:
            Fused.keep_going()
            return True
        if fused is not None:
            fused.undo()
        self._standing.append(f"the layers were not compiled ({fault}); without it a GPU takes about a fifth longer")
        self._remark()
        return False

    def covers(self, items: Sequence[TokenSequences]) -> bool:
        """Whether sequences as long as the items' have been checked."""
        return max(map(sequence_size, items)) <= self._reach

    def reach(self, items: Sequence[TokenSequences]) -> None:
        """Check the longest sequence of some items, if no longer one was checked. Raises RunError as when made."""
        if self.covers(items):
            return
        num_tokens = max(map(sequence_size, items))
        probe = self._probe(longest_items(items, self._tree.rotary.regime))
        checked, self._reach = self._reach, num_tokens
        if probe is None:
            self._remark(
                f"not checked: scores of texts of {num_tokens:,} tokens against single forwards, for want of memory"
            )
            return
        if not probe.logprob.isfinite().all():
            return  # whoever scores the items will say which of them it is
        with suppress(_NoVerdict):  # nor has the memory room for them, or they are no numbers: that is said then, too
            self._check_longest(probe, checked)

    # --- both ways --------------------------------------------------------------------------------------------------

    def _choose(self, probe: Probe) -> None:
        if fault := self._find_way(probe):
            self._take_rows(probe, fault)

    def _check_longest(self, probe: Probe, checked: int) -> None:
        if (limit := self._find_limit(probe)) is not None:
            raise RunError(
                f"the model is causal only up to about {max(limit, checked):,} tokens, and a text has "
                f"{probe.num_tokens:,}: beyond, its logits depend on what comes later, as with some sparse attention; "
                "cut the texts (max_text_tokens), or use another model"
            )
        if self.verdict.path == "rows":
            self._refuse_rows(probe)
        elif fault := self._find_way(probe):
            self._take_rows(probe, f"{fault}, in texts of {probe.num_tokens:,} tokens")

    def _probe(self, items: list[TokenSequences]) -> Probe | None:
        """The items by the slow way; None where the memory does not suffice for it."""
        try:
            return attempt(make_probe, self._untouched, items)
        except Exception as error:
            raise RunError(
                f"the model's own forward fails for a text of {max(map(sequence_size, items)):,} tokens "
                f"({_said(error)}); use another dtype or another model"
            ) from error

    def _find_way(self, probe: Probe) -> str | None:
        """Have the tree take the shortcuts with which it gives the probe's scores; what is wrong where none do."""
        every = self._tree.shortcuts
        fewer = [frozenset([shortcut]) for shortcut in sorted(every)]
        with self._tree.reading(_FEW_READS):
            fault = self._find_fault(probe)
            for given_up in [*fewer, *([every] if len(every) > 1 else [])]:
                if fault is None:
                    break
                self._tree.shortcuts = every - given_up
                fault = self._find_fault(probe)
        return fault

    def _find_fault(self, probe: Probe) -> str | None:
        """What is wrong with the tree; None where it gives the probe's scores."""
        try:
            differences = self._differences(probe, "tree")
        except _NoVerdict:  # that tells nothing of the tree
            raise
        except Exception as error:  # whatever a model's code raises, it only tells that it takes no tree
            return f"the model does not take a tree of labels: {_said(error)}"
        if not self._is_right(probe, "tree", differences):
            return (
                f"over a tree of labels the model's scores differ by {differences.max():.3g} nats from single forwards"
            )
        config = self._model.config.get_text_config(decoder=True)
        told = {layer: effective_window(window, config) for layer, window in self._tree.windows.items()}
        if told != layer_windows(config):
            return "the model's layers attend in other ways than over everything or a known sliding window"
        return None

    def _take_rows(self, probe: Probe, reason: str) -> None:
        self.verdict.path, self.verdict.reason = "rows", reason
        self._refuse_rows(probe)

    def _refuse_rows(self, probe: Probe) -> None:
        """Raise RunError where rows do not give the probe's scores either."""
        try:
            differences = self._differences(probe, "rows")
        except ValueError as error:  # scores that are no numbers
            raise _NoVerdict from error
        if not self._is_right(probe, "rows", differences):
            raise RunError(
                f"the model's scores depend on how texts are batched (by {differences.max():.3g} nats with "
                f"{probe.num_tokens:,} tokens, where {probe.tolerance:.3g} may be rounding): it does not work as a "
                "causal language model here; use another one, or cut the texts (max_text_tokens) if shorter ones work"
            )

    def _differences(self, probe: Probe, path: str) -> Tensor:
        """(items, labels) how far from the probe's scores those of a way are: in whatever manner it may go.

        What has no branches is laid out in another way, and a long prefix, which no probe has, is merged.
        """
        try:
            differences = (self._logprob(probe.items, path).double() - probe.logprob).abs()
            if probe.logprob.shape[1] > 1:
                place = probe.longest_label
                chain = probe.only(place)
                alone = (self._logprob(chain.items, path).double() - chain.logprob).abs()
                differences[:, place] = differences[:, place].maximum(alone[:, 0])
            if path == "tree" and Shortcut.NO_MASKS in self._tree.shortcuts:
                with self._tree.merging():
                    merged = (self._logprob(probe.items, path).double() - probe.logprob).abs()
                differences = differences.maximum(merged)
        except RunError as error:
            raise _NoVerdict from error
        return differences

    def _remark(self, words: str | None = None) -> None:
        """Say one thing in the verdict, beside what is so of the model whatever is scored."""
        self._words = words or self._words
        self.verdict.remark = "; ".join(filter(None, (*self._standing, self._words))) or None

    # --- a wrong mask, or few bits ----------------------------------------------------------------------------------

    def _is_right(self, probe: Probe, path: str, differences: Tensor) -> bool:
        """Whether differences are no more than rounding; what is the dtype's doing is said in the verdict's remark.

        Few bits hide a wrong mask, so that in float32, too, all must agree. And they move scores: in a mixture of
        experts a token's choice of them may turn on the last one, about as far as the dtype moves plain forwards, one
        by one or batched. FP8 moves those of any model.
        """
        difference = float(differences.max())
        exact = self._few_in_float32(probe)
        exact_difference = None if exact is None else self._difference_in_float32(exact, path)
        if exact is None or exact_difference is None:
            return difference <= probe.tolerance
        if not exact_difference <= exact.tolerance:
            return False
        if difference <= probe.tolerance:
            return True
        whole = self._in_float32(probe)
        moved = (probe.logprob - whole.logprob).abs() if whole else torch.zeros(1)
        by_dtype = float(moved.max())
        if fp8_layers(self._model):
            if not differences.mean() <= _MAX_FP8_STEPS * moved.mean():
                return False
            self._remark(
                f"in fp8 the scores here differ by up to {difference:.2g} nats from single forwards, which rounding "
                f"tokens to fp8 moves by {by_dtype:.2g}; in float32 all agree"
            )
            return True
        rebatched = attempt(rebatched_difference, self._untouched, probe) or 0.0
        if difference > _MAX_ROUNDING * max(by_dtype, rebatched, probe.tolerance):
            return False
        name = str(self._model.dtype).removeprefix("torch.")
        self._remark(
            f"in {name} the model's scores are rough: {name} moves plain forwards by up to {by_dtype:.2g} nats, other "
            f"batches of them by {rebatched:.2g} and the {path} here by {difference:.2g} (a mixture of experts sends "
            "tokens to other ones by the last bit); in float32 all agree"
        )
        return True

    def _find_limit(self, probe: Probe) -> int | None:
        """Up to how many tokens the model is causal; None where nothing that comes later moves more than rounding."""
        exact = self._few_in_float32(probe)
        return probe.causal_tokens if exact is None else exact.causal_tokens

    def _few_in_float32(self, probe: Probe) -> Probe | None:
        """As `_in_float32`, of a few of its sequences; once for a probe, however often it is asked."""
        if self._exact is None or self._exact[0] is not probe:
            self._exact = probe, self._in_float32(probe.few())
        return self._exact[1]

    def _in_float32(self, probe: Probe) -> Probe | None:
        """The probe's sequences, scored in float32 by the model as it is now: what it has kept may be of its own dtype.

        None for a model that is in it already, whose weights are packed or whose code takes no other dtype, or that
        leaves no room for a layer.
        """
        if self._model.dtype == torch.float32 or is_packed(self._model):
            return None
        with suppress(Exception), self._as_written(), in_float32(self._model):
            return attempt(make_probe, self._model, probe.items, torch.float32)
        return None

    def _difference_in_float32(self, exact: Probe, path: str) -> float | None:
        """None where there is no room for it: that tells nothing of the way."""
        try:
            with self._as_written(), in_float32(self._model):
                return float(self._differences(exact, path).max())
        except _NoVerdict:
            return None


def _said(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
