"""The self-check's probe: two items with their scores by the slow, obvious way, one forward for each label.

Invariant: the probe uses nothing of the fast path; its scores come from plain forwards of whole sequences.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences

# Windows up to here are probed with items longer than them; wider ones must be what the configuration says.
_MAX_PROBED_WINDOW = 64
# Labels of one to four tokens; two are beginnings of others, three share their first token.
_LABELS = ((0,), (0, 1), (0, 2, 3), (4, 5, 6, 7), (8,))


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Items, their log-likelihoods (items, labels) and how far rounding may move these."""

    items: list[TokenSequences]
    logprob: Tensor
    tolerance: float
    layer_windows: dict[int, int | None]

    def check_windows(self, windows: dict[int, int | None]) -> str | None:
        """What is wrong with the sliding windows that the layers asked for; None if they are the configured ones."""
        if windows != self.layer_windows:
            return "the model's layers attend in other ways than over everything or a known sliding window"
        return None


def make_probe(model: PreTrainedModel) -> Probe:
    """Score two made-up items one label at a time."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or 0
    extra = window if window <= _MAX_PROBED_WINDOW else 0
    ids = _pick_tokens(config, 40 + extra)
    labels = tuple(tuple(ids[place] for place in label) for label in _LABELS)
    sizes = tuple(map(len, labels))
    # Two tokens shared, then prompts of 5 and 9 tokens of their own and what goes beyond a window.
    items = [
        TokenSequences(ids[8:15], labels, sizes, False),
        TokenSequences(ids[8:10] + ids[20 : 29 + extra], labels, sizes, False),
    ]
    scores = [[_score_slowly(model, item.prompt_ids, label) for label in labels] for item in items]
    logprob = torch.tensor([[score for score, _ in row] for row in scores])
    largest = max(largest for row in scores for _, largest in row)
    return Probe(items, logprob, _tolerance(model.dtype, largest), _layer_windows(config))


def _pick_tokens(config: PretrainedConfig, num_tokens: int) -> Ids:
    """Ordinary tokens, spread over the first half of the vocabulary, where a model has learnt what they are."""
    special: set[int | None] = set()
    for named in (config.pad_token_id, config.bos_token_id, config.eos_token_id):
        special.update(named if isinstance(named, list) else [named])  # chat models end on any of several
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(max(2, config.vocab_size // 2), (4 * num_tokens,), generator=generator).tolist()
    return tuple(token for token in draws if token not in special)[:num_tokens]


@torch.inference_mode()
def _score_slowly(model: PreTrainedModel, prompt: Ids, label: Ids) -> tuple[float, float]:
    """(logprob, largest logit) of one label from one plain forward."""
    ids = torch.tensor([prompt + label], device=model.device)
    logits = (
        model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double().cpu()
    )  # (tokens, vocabulary)
    logprobs = logits.log_softmax(dim=-1)
    return sum(float(row[token]) for row, token in zip(logprobs, label, strict=True)), float(logits.abs().max())


def _tolerance(dtype: torch.dtype, largest_logit: float) -> float:
    """How far rounding may move a log-likelihood: relative to the logits it is the difference of."""
    if dtype == torch.float32:
        return 5e-5 * (1 + largest_logit)
    return 4 * torch.finfo(dtype).eps * (1 + largest_logit)


def _layer_windows(config: PretrainedConfig) -> dict[int, int | None]:
    """Each layer's sliding window by the configuration; -1 for attention of another kind."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    known = {"full_attention": None, "sliding_attention": window}
    return {layer: known.get(kind, -1) for layer, kind in enumerate(kinds)}
