"""The two ways through a model: a flat row with a tree's attention, or padded rows with the model's own.

Invariant: a forward here leaves the model as it was; both ways return the logits at the places asked for in float32,
made by the model's own head, whatever it does after its last matrix product.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.scoring import attention
from pipeline.scoring.attention import Group, KeysKept, Prefix, Row
from pipeline.scoring.label_rows import LabelRow, pad
from pipeline.scoring.plan import Flat
from pipeline.scoring.strings import Ids
from pipeline.scoring.trie import make_trie

_NO_LABELS = make_trie(((0,),), (1,), False)


class TreeForward:
    """Forwards flat rows; keeps the keys and values of the last shared prefix.

    last_layer: the layer that is done only for the places that are read, as nothing else of it is needed after its keys
    and values; None where all of it is to be done.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.last_layer = _find_last_layer(model)
        self.prefix = Prefix()
        self._prefix_ids: Ids = ()
        self.windows: dict[int, int | None] = {}  # the sliding window that each layer asked for

    @property
    def device(self) -> torch.device:
        return self._model.device

    def twin(self) -> "TreeForward":
        """Another forward with the same weights, for a thread of its own: a model keeps some of its state in itself."""
        weights = {id(tensor): tensor for tensor in (*self._model.parameters(), *self._model.buffers())}
        twin = TreeForward(copy.deepcopy(self._model, weights))
        twin.windows = self.windows
        if self.last_layer is None:
            twin.last_layer = None
        return twin

    @torch.inference_mode()
    def keep_prefix(self, ids: Ids) -> bool:
        """Compute the prefix's keys and values unless they are there; returns whether tokens were forwarded."""
        if ids == self._prefix_ids:
            return False
        self._prefix_ids, self.prefix = (), Prefix()
        if not ids:
            return False
        device = self._model.device
        group = Group(0, 0, torch.tensor([len(ids)], device=device), _NO_LABELS)
        row = Row([group], self.prefix, is_prefix=True)
        last = torch.tensor([len(ids) - 1], device=device)
        self._forward(torch.tensor([ids], device=device), torch.arange(len(ids), device=device)[None], last, row)
        self._prefix_ids = ids
        return True

    @torch.inference_mode()
    def logits(self, flat: Flat, prefix: Prefix) -> Tensor:
        """(reads, vocabulary) float32, of items after this prefix."""
        return self._forward(flat.ids, flat.positions, flat.reads, Row(flat.groups, prefix)).float()

    def _forward(self, ids: Tensor, positions: Tensor, reads: Tensor, row: Row) -> Tensor:
        row.windows = self.windows
        kept: Tensor | int = reads
        with _tree_attention(self._model), ExitStack() as stack:
            if self.last_layer is not None and not row.is_prefix:
                stack.enter_context(_only_at(reads, ids.shape[1], self.last_layer, row))
                kept = 0  # all that are left
            output = self._model(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=kept, labelscore_row=row
            )
        logits: Tensor = output.logits[0]
        if len(logits) != len(reads):
            raise NotImplementedError("logits at chosen places")
        return logits


def _find_last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last of the layers that a token goes through one after the other; None where they are not in a list."""
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    return stacks[0][-1] if len(stacks) == 1 else None


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
    if not getattr(model, "_supports_attention_backend", False):
        raise NotImplementedError("its attention cannot be replaced")
    usual = model.config._attn_implementation
    model.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


class RowsForward:
    """Forwards padded rows, one for each sequence."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        # Padding is masked and comes last, so any token will do.
        self._padding = 0

    @torch.inference_mode()
    def logits(self, rows: Sequence[LabelRow], reads: Sequence[tuple[int, int]]) -> Tensor:
        """(reads, vocabulary) float32; each read is (row, place in it)."""
        ids, mask = pad(rows, self._padding)
        device = self._model.device
        # Rows end with their labels, so the places that are read lie close together.
        places = sorted({place for _, place in reads})
        kept = {"logits_to_keep": torch.tensor(places, device=device)} if self._keeps_logits else {}
        output = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **kept)
        column = {place: i for i, place in enumerate(places)} if self._keeps_logits else {p: p for p in places}
        at_row = torch.tensor([row for row, _ in reads], device=device)
        at_place = torch.tensor([column[place] for _, place in reads], device=device)
        logits: Tensor = output.logits
        return logits[at_row, at_place].float()
