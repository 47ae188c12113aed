"""The two ways through a model: packed trees with an attention of ours, or padded rows with the model's own.

Invariant: a forward here leaves the model as it was; both ways score terms by the logits at the places that are read,
in float32, made by the model's own head, whatever it does after its last matrix product. Over trees no more of them
than `max_reads` places' exist at once, however many a batch reads.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from enum import IntEnum, auto
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.scoring import attention, packed, padded
from pipeline.scoring.attention import KeysKept, Prefix, Row
from pipeline.scoring.body import find_bodies, find_layers, forwarded_once
from pipeline.scoring.copies import copy_model
from pipeline.scoring.packed import PackedBatch, TokenTree, Unmasked, pack
from pipeline.scoring.padded import LabelRow, PaddedBatch, pad
from pipeline.scoring.parts import ItemPart
from pipeline.scoring.ranks import agreed
from pipeline.scoring.rotary import Rotary
from pipeline.scoring.strings import Ids, num_common
from pipeline.scoring.terms import score_terms
from pipeline.scoring.transfers import send
from pipeline.scoring.trie import part_trie
from pipeline.scoring.varlen import has_kernel
from pipeline.scoring.windows import narrowest_window

# A prefix has no labels; its last token is read, as every forward reads something.
_NO_PART = ItemPart(0, (), ((0,),), (1,), (0,))
_NO_TRIE = part_trie(_NO_PART.branches, _NO_PART.num_label_tokens, _NO_PART.labels, False)


# So many logits (places x vocabulary) exist at once: 256 MiB or 1 GiB in float32.
_MAX_LOGITS = {"cpu": 2**26, "cuda": 2**28}

S = TypeVar("S", TokenTree, LabelRow)
B = TypeVar("B", PackedBatch, PaddedBatch)


class Forward(ABC, Generic[S, B]):
    """A way through a model: which sequences make a batch, how they are laid out, and the scores of their terms."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self.device = model, model.device
        max_logits = _MAX_LOGITS.get(model.device.type, 2**26)
        self.max_reads = max(1, max_logits // int(model.config.get_text_config().vocab_size))
        self.rotary = Rotary(model)
        self.regime = 0  # of the rotary embeddings

    def set_regime(self, regime: int) -> None:
        """Have all that is forwarded from now on rotated as in sequences of this regime (see Rotary)."""
        self.regime = regime

    @abstractmethod
    def num_fitting(self, sequences: Iterable[S], max_tokens: int) -> int:
        """How many of the first sequences make a batch within the budget, at least one."""

    @abstractmethod
    def lay_out(self, sequences: Sequence[S]) -> B: ...

    @abstractmethod
    def _read(self, batch: B, use: Callable[[Tensor], None]) -> None:
        """Hand logits (places, vocabulary) to `use`, of the first reads, of the next; the batch is on the device."""

    @torch.inference_mode()
    def scores(self, batch: B, *, greedy: bool = False) -> Tensor:
        """What `score_terms` gives, on the model's device, which may still be working on it."""
        reads, there = batch.terms[:, 2].contiguous(), send(batch, self.device)
        found: list[Tensor] = []
        num_read = 0

        def score(logits: Tensor) -> None:
            nonlocal num_read
            first, last = torch.searchsorted(reads, torch.tensor([num_read, num_read + len(logits)])).tolist()
            found.append(score_terms(logits.float(), there.terms[first:last], num_read, greedy=greedy))
            num_read += len(logits)

        with without_cudnn_attention(self.device), self.rotary.at(self.regime):
            self._read(there, score)
        return agreed(torch.cat(found, dim=1))


@contextmanager
def without_cudnn_attention(device: torch.device) -> Iterator[None]:
    """Let other kernels do attention on a GPU: cuDNN sets up a plan for every new shape, and each batch has new ones.

    Measured: 1,410 items/s with it and 2,000 without. Nothing is switched elsewhere: a CPU's lanes would meet here.
    """
    if device.type != "cuda":
        yield
        return
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


class Shortcut(IntEnum):
    """What saves work, and some models' code does not bear."""

    LAST_LAYER = auto()  # is done for the places that are read alone: nothing else is needed after its keys and values
    BODY_ONCE = auto()  # the layers are not gone through again for the reads that `max_reads` leaves for later
    NO_MASKS = auto()  # attention over sequences of different lengths


class TreeForward(Forward[TokenTree, PackedBatch]):
    """Forwards packed trees; keeps the keys and values of the last prefix. `shortcuts` are those that are taken."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._layers, self._bodies = find_layers(model), find_bodies(model)
        self.unmasked = Unmasked(narrowest_window(model.config.get_text_config(decoder=True)))
        found = {
            Shortcut.LAST_LAYER: self._layers,
            Shortcut.BODY_ONCE: self._bodies,
            Shortcut.NO_MASKS: has_kernel(model),
        }
        self.shortcuts = frozenset(shortcut for shortcut, is_there in found.items() if is_there)
        self._prefix = Prefix()
        self._prefix_ids: Ids = ()
        self.windows: dict[int, int | None] = {}  # the sliding window that each layer asked for
        self.kernels: set[str] = set()  # what attention has run on

    def twin(self) -> "TreeForward":
        """Another forward with the same weights, for a thread of its own: a model keeps some of its state in itself."""
        twin = TreeForward(copy_model(self._model))
        twin.windows, twin.kernels = self.windows, self.kernels
        twin.regime, twin.shortcuts = self.regime, self.shortcuts
        return twin

    def num_fitting(self, sequences: Iterable[TokenTree], max_tokens: int) -> int:
        return packed.num_fitting(sequences, max_tokens)

    @contextmanager
    def reading(self, max_reads: int) -> Iterator[None]:
        """Have no more logits than those of so many places at once."""
        usual, self.max_reads = self.max_reads, max_reads
        try:
            yield
        finally:
            self.max_reads = usual

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Have every prefix merged, however short, where attention has no masks."""
        usual, self.unmasked = self.unmasked, replace(self.unmasked, most_repeated=0)
        try:
            yield
        finally:
            self.unmasked = usual

    def set_regime(self, regime: int) -> None:
        """Have a prefix, too, rotated anew: what is computed next does not depend on what was before."""
        super().set_regime(regime)
        self._drop_prefix()

    def has_prefix(self, ids: Ids) -> bool:
        """Whether this is the prefix kept last."""
        return ids == self._prefix_ids

    @torch.inference_mode()
    def keep_prefix(self, ids: Ids) -> int:
        """Have the prefix's keys and values at hand; returns how many tokens were forwarded for it.

        What it has in common with the prefix kept last is taken from there.
        """
        if self.has_prefix(ids):
            return 0
        depth = min(num_common(ids, self._prefix_ids), len(ids) - 1)
        held, kept = self._prefix, Prefix()
        self._drop_prefix()  # whatever happens below
        if not ids:
            return 0
        tree = TokenTree((_NO_PART,), ids, depth, 0, ids[depth:], _NO_TRIE, notebook=False)
        batch = send(self._pack([tree], Prefix()), self.device)
        with without_cudnn_attention(self.device), self.rotary.at(self.regime):
            self._forward(batch, held, kept, lambda _: None)
        self._prefix, self._prefix_ids = kept, ids
        return len(ids) - depth

    def _drop_prefix(self) -> None:
        self._prefix, self._prefix_ids = Prefix(), ()

    def lay_out(self, trees: Sequence[TokenTree]) -> PackedBatch:
        """A batch after the prefix that is kept now."""
        return self._pack(trees, self._prefix)

    def _pack(self, trees: Sequence[TokenTree], prefix: Prefix) -> PackedBatch:
        return pack(trees, prefix, self.unmasked if Shortcut.NO_MASKS in self.shortcuts else None)

    def _read(self, batch: PackedBatch, use: Callable[[Tensor], None]) -> None:
        self._forward(batch, batch.prefix, None, use)

    def _forward(self, batch: PackedBatch, prefix: Prefix, kept: Prefix | None, use: Callable[[Tensor], None]) -> None:
        """Hand a batch's logits to `use`, and its keys and values to `kept`."""
        ids, positions, reads = batch.ids, batch.positions, batch.reads
        row = Row(batch.layouts, prefix, kept, windows=self.windows, kernels=self.kernels)
        with _tree_attention(self._model), attention.forwarding(row), ExitStack() as stack:
            if self._layers and Shortcut.LAST_LAYER in self.shortcuts and kept is None:
                stack.enter_context(_only_at(reads, batch.num_tokens, self._layers[-1], row))
                reads = torch.arange(len(reads), device=self.device)  # the others are gone when the head is reached
            if len(reads) > self.max_reads and Shortcut.BODY_ONCE in self.shortcuts:
                stack.enter_context(forwarded_once(self._bodies))
            for some in torch.split(reads, self.max_reads):
                row.keys_and_values = None  # else of the layers as they were done for the last of them
                output = self._model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=some)
                logits: Tensor = output.logits[0]
                if len(logits) != len(some):
                    raise NotImplementedError("logits at chosen places")
                use(logits)


@contextmanager
def _only_at(reads: Tensor, num_tokens: int, layer: nn.Module, row: Row) -> Iterator[None]:
    """Let `layer` make the keys and values of all tokens, and the rest of its work at the places `reads` alone."""

    def select(given: Any) -> Any:
        if isinstance(given, tuple):
            return tuple(map(select, given))
        if isinstance(given, Tensor) and given.dim() > 1 and given.shape[1] == num_tokens:
            return given.index_select(1, reads)
        return given

    def keep_and_select(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        row.keeps_keys = True
        with suppress(KeysKept):
            module.forward(*args, **kwargs)
        row.keeps_keys = False
        return select(args), {name: select(given) for name, given in kwargs.items()}

    handle = layer.register_forward_pre_hook(keep_and_select, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model's attention for a forward and back, so that others may use the model in between."""
    if not model._can_set_attn_implementation():
        raise NotImplementedError("its attention cannot be replaced")
    usual = model.config._attn_implementation
    model.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


class RowsForward(Forward[LabelRow, PaddedBatch]):
    """Forwards padded rows, one for each sequence."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def num_fitting(self, sequences: Iterable[LabelRow], max_tokens: int) -> int:
        return padded.num_fitting(sequences, max_tokens, self.max_reads)

    def lay_out(self, rows: Sequence[LabelRow]) -> PaddedBatch:
        return pad(rows)

    def _read(self, batch: PaddedBatch, use: Callable[[Tensor], None]) -> None:
        rows, places = batch.reads.unbind(1)
        kept = {"logits_to_keep": batch.kept} if self._keeps_logits else {}
        places = places if self._keeps_logits else batch.kept[places]
        logits: Tensor = self._model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **kept).logits
        use(logits[rows, places])
