"""The self-check's probes: items with their scores by the slow, obvious way, one plain forward for each label.

Invariant: a probe uses nothing of the fast path; its scores come from forwards of whole sequences, each by itself and
by a copy of the model that has forwarded nothing before: some models keep state from one forward to the next.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.scoring.copies import copy_model
from pipeline.scoring.ranks import agreed
from pipeline.scoring.rotary import Rotary
from pipeline.scoring.strings import Ids, num_common
from pipeline.scoring.tokens import TokenSequences

# Windows up to here are probed with items longer than them; wider ones must be what the configuration says.
_MAX_PROBED_WINDOW = 64
# So many places at most are looked at for what comes later.
_MAX_LOOKS = 32
# Labels of one to four tokens; two are beginnings of others, three share their first token.
_LABELS = ((0,), (0, 1), (0, 2, 3), (4, 5, 6, 7), (8,))


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Items, their log-likelihoods (items, labels) float64, and how far rounding may move these.

    changed: (places,) how far the log-probabilities at `places`, in what all items begin with, are apart. In a causal
    model they are the same, whatever comes later.
    """

    items: list[TokenSequences]
    logprob: Tensor
    tolerance: float
    places: range
    changed: Tensor

    @property
    def causal_tokens(self) -> int | None:
        """Up to how many tokens nothing depended on what comes later; None where nothing did at all."""
        found = (self.changed > self.tolerance).nonzero()
        return self.places[int(found[0])] if len(found) else None

    def few(self) -> "Probe":
        """Two labels of each item at most; of the made-up ones those of several tokens."""
        if self.logprob.shape[1] <= 2:
            return self
        return self._of(slice(2, 4))

    @property
    def longest_label(self) -> int:
        """The place of the label of the most tokens."""
        return max(range(self.logprob.shape[1]), key=self.items[0].num_label_tokens.__getitem__)

    def only(self, label: int) -> "Probe":
        """One label alone."""
        return self._of(slice(label, label + 1))

    def _of(self, kept: slice) -> "Probe":
        items = [replace(i, branches=i.branches[kept], num_label_tokens=i.num_label_tokens[kept]) for i in self.items]
        return replace(self, items=items, logprob=self.logprob[:, kept])

    @property
    def num_tokens(self) -> int:
        """Of the longest sequence."""
        return max(map(sequence_size, self.items))


def sequence_size(item: TokenSequences) -> int:
    """The tokens of an item's longest sequence, all of its label's among them."""
    return len(item.prompt_ids) + max(map(len, item.branches))


def make_probe(model: PreTrainedModel, items: list[TokenSequences], dtype: torch.dtype | None = None) -> Probe:
    """Score items, all with as many labels, one label at a time; `dtype`: what is computed in, if not the model's.

    Of `model` itself nothing is forwarded.
    """
    common = [num_common(items[0].prompt_ids, item.prompt_ids) for item in items]
    most = max(common[1:], default=0)
    places = range(0, most, -(-most // _MAX_LOOKS) or 1)
    scores: list[list[float]] = []
    first, changed = torch.empty(0), torch.zeros(len(places), dtype=torch.float64)
    largest = 0.0
    for item, num_shared in zip(items, common, strict=True):
        scores.append([])
        shared = [place for place in places if place < num_shared]
        for branch, num_tokens in zip(item.branches, item.num_label_tokens, strict=True):
            ids = item.prompt_ids + branch
            logits = _plain_logits(model, ids, [*shared, *range(len(ids) - num_tokens - 1, len(ids) - 1)])
            logprobs = logits.log_softmax(dim=-1)
            before, own = logprobs[: len(shared)], logprobs[len(shared) :]
            scores[-1].append(float(own.gather(1, torch.tensor(ids[-num_tokens:])[:, None]).sum()))
            largest = max(largest, float(logits.abs().max()))
            if not len(first):
                first = before
            apart = (before - first[: len(before)]).abs().amax(dim=1)
            changed[: len(apart)] = changed[: len(apart)].maximum(apart)
    tolerance = _tolerance(dtype or _precision(model), largest)
    return Probe(items, torch.tensor(scores, dtype=torch.float64), tolerance, places, changed)


def fresh(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that has forwarded what the model has; the model itself where its code cannot be copied."""
    try:
        return copy_model(model)
    except Exception:  # whatever a model's own code has in it
        return model


@torch.inference_mode()
def _plain_logits(model: PreTrainedModel, ids: Ids, places: Sequence[int]) -> Tensor:
    """(places, vocabulary) float64 on the CPU: the logits at some places of one sequence, forwarded by itself."""
    model = fresh(model)
    kept: dict[str, Tensor] = {}
    found: Tensor = torch.tensor(list(places), device=model.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept["logits_to_keep"], found = found, torch.arange(len(found), device=model.device)
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    rotary, regime = Rotary(model), 0
    if isinstance(limit, int) and len(ids) == limit + 1:  # of a request as long as this the last token is only scored
        ids, regime = ids[:-1], rotary.regime(len(ids))
    with rotary.at(regime):
        output = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, **kept)
    return agreed(output.logits[0, found]).cpu().double()  # some devices have no float64


def is_packed(model: PreTrainedModel) -> bool:
    """Whether its layers keep their weights in few bits, as a quantiser of transformers has made them."""
    return getattr(model, "hf_quantizer", None) is not None


def _precision(model: PreTrainedModel) -> torch.dtype:
    """The dtype whose rounding is that of the model: layers with weights of 8 bits round what comes in to 8, too."""
    is_8_bit = any(parameter.element_size() == 1 and parameter.is_signed() for parameter in model.parameters())
    return torch.bfloat16 if is_8_bit else model.dtype


def _tolerance(dtype: torch.dtype, largest_logit: float) -> float:
    """How far rounding may move a log-likelihood: relative to the logits it is the difference of."""
    if dtype == torch.float32:
        return 5e-5 * (1 + largest_logit)
    return 4 * torch.finfo(dtype).eps * (1 + largest_logit)


# --- what is probed -------------------------------------------------------------------------------------------------


def made_up_items(config: PretrainedConfig) -> list[TokenSequences]:
    """Two items that share two tokens, with prompts of 5 and 9 tokens of their own and what goes beyond a window."""
    window = getattr(config, "sliding_window", None) or 0
    extra = window if window <= _MAX_PROBED_WINDOW else 0
    ids = _pick_tokens(config, 40 + extra)
    labels = tuple(tuple(ids[place] for place in label) for label in _LABELS)
    sizes = tuple(map(len, labels))
    return [
        TokenSequences(ids[8:15], labels, sizes, False),
        TokenSequences(ids[8:10] + ids[20 : 29 + extra], labels, sizes, False),
    ]


def _pick_tokens(config: PretrainedConfig, num_tokens: int) -> Ids:
    """Ordinary tokens, spread over the first half of the vocabulary, where a model has learnt what they are."""
    special: set[int | None] = set()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        named = getattr(config, name, None)
        special.update(named if isinstance(named, list) else [named])  # chat models end on any of several
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(max(2, config.vocab_size // 2), (4 * num_tokens,), generator=generator).tolist()
    return tuple(token for token in draws if token not in special)[:num_tokens]


def longest_items(items: Sequence[TokenSequences], regime: Callable[[int], int]) -> list[TokenSequences]:
    """The longest sequence of some items, and two that depart from it: in its last quarter, and before its half.

    They are shorter, if that is no other regime of the rotary embeddings: sparse attention draws its blocks, or breaks
    the ties of a top-k over the whole sequence, by the length.
    """
    item = max(items, key=sequence_size)
    branch, num_tokens = max(zip(item.branches, item.num_label_tokens, strict=True), key=lambda pair: len(pair[0]))
    ids = item.prompt_ids + branch
    prompt, label = ids[:-num_tokens], ids[-num_tokens:]
    found = [prompt]
    for num_kept in (len(prompt) - len(prompt) // 8, len(prompt) // 2):
        tail = max(1, min(max(2, num_kept // 4), num_kept - 1))
        if 0 < tail < num_kept:
            other = prompt[: num_kept - tail] + prompt[-tail:][::-1]
            is_alike = regime(len(other) + num_tokens) == regime(len(ids))
            found.append(other if is_alike else other[:-tail] + prompt[len(other) - tail :][::-1])
    return [TokenSequences(each, (label,), (num_tokens,), False) for each in found]


# --- what moves scores in any batch ---------------------------------------------------------------------------------


@torch.inference_mode()
def rebatched_difference(model: PreTrainedModel, probe: Probe) -> float:
    """How far the probe's scores move when its sequences are padded and forwarded together, as any batched loop does.

    Several ways of putting them together: which of a mixture's experts a token goes to may turn on any.
    """
    sequences = [
        (item.prompt_ids + branch, num_tokens)
        for item in probe.items
        for branch, num_tokens in zip(item.branches, item.num_label_tokens, strict=True)
    ]
    expected = probe.logprob.flatten()
    largest = 0.0
    for step in (1, 2, 3):
        for first in range(step):
            if places := list(range(first, len(sequences), step)):
                found = _score_together(model, [sequences[place] for place in places])
                largest = max(largest, float((found - expected[places]).abs().max()))
    return largest


def _score_together(model: PreTrainedModel, sequences: Sequence[tuple[Ids, int]]) -> Tensor:
    """(sequences,) float64: the log-likelihoods of the last tokens of sequences padded on the right."""
    width = max(len(ids) for ids, _ in sequences)
    ids = torch.tensor([given + (0,) * (width - len(given)) for given, _ in sequences], device=model.device)
    sizes = torch.tensor([len(given) for given, _ in sequences], device=model.device)
    mask = (torch.arange(width, device=model.device) < sizes[:, None]).long()
    logits = agreed(fresh(model)(input_ids=ids, attention_mask=mask, use_cache=False).logits.contiguous())
    scores = []
    for row, (given, num_tokens) in zip(logits, sequences, strict=True):
        places = slice(len(given) - num_tokens - 1, len(given) - 1)
        label = torch.tensor(given[-num_tokens:])[:, None]
        scores.append(row[places].cpu().double().log_softmax(dim=-1).gather(1, label).sum())
    return torch.stack(scores)
