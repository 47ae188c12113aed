"""Tiny models of any family: loud enough that a wrong mask shows, and read from a folder as a user's are.

Invariant: what is forwarded is always a fresh copy, as some models keep state from one forward to the next.
"""

import copy
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.errors import InputError, RunError
from pipeline.reading.model import load_model, resolve_model
from tests.benchmarks.architectures_shrink import VOCABULARY, Variant, tiny_config

# Of the weights, so that scores differ by whole nats from token to token; the largest at which rounding stays small.
FACTORS = (8.0, 5.0, 2.0, 1.0)
_MAX_NOISE = 2e-6  # between float32 and float64, for each nat of the largest logit
_IDS = (3, VOCABULARY - 3)  # above are special tokens of all kinds


def make_loud(name: str, variant: Variant) -> tuple[Any, float, float]:
    """(a random model in float32, its weights' factor, nats that one token makes): loud, but not so that rounding is.

    Raises whatever its class does where it cannot be made, or does not run on plain text.
    """
    config = tiny_config(name, variant)
    texts = [draw_ids(random.Random(seed), 150) for seed in range(2)]
    for factor in FACTORS:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
        _make_louder(model, factor)
        noise, largest = _rounding(model, texts)
        if noise <= _MAX_NOISE * (1 + largest):
            break
    return model, factor, _effect(model, texts[0])


def _make_louder(model: Any, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                if float(parameter.std()) == 0.0:  # begins as zeros: that part of the model would do nothing
                    parameter.normal_(0.0, 0.02)
                parameter.mul_(factor)


@torch.inference_mode()
def _rounding(model: Any, texts: list[tuple[int, ...]]) -> tuple[float, float]:
    """(largest difference between float32 and float64 log-probabilities, largest logit)."""
    noise = largest = 0.0
    for ids in texts:
        logits = fresh(model)(input_ids=torch.tensor([ids])).logits[0].double()
        if not logits.isfinite().all():
            return float("inf"), 0.0
        largest = max(largest, float(logits.abs().max()))
        try:
            exact = copy.deepcopy(model).double()(input_ids=torch.tensor([ids])).logits[0]
        except RuntimeError:  # some code knows no float64
            continue
        noise = max(noise, float((logits.log_softmax(-1) - exact.double().log_softmax(-1)).abs().max()))
    return noise, largest


@torch.inference_mode()
def _effect(model: Any, ids: tuple[int, ...]) -> float:
    """How far the next token's log-probabilities move with the token 4 places before."""
    other = (*ids[:-4], ids[-4] % 90 + 10, *ids[-3:])
    both = [fresh(model)(input_ids=torch.tensor([each])).logits[0, -1].log_softmax(-1) for each in (ids, other)]
    return float((both[0] - both[1]).abs().max())


def read_model(made: Any, folder: Path, dtype: str) -> tuple[Any, str, list[str]]:
    """(the model as it is read from a folder, why reading refuses it, what is to be said)."""
    notes: list[str] = []
    fallback = made.to(getattr(torch, dtype))
    try:
        made.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
    except Exception as error:
        return fallback, "", [f"cannot be saved: {one_line(error)}"]
    try:
        model = load_model(resolve_model(folder, device="cpu", dtype=dtype))
    except (InputError, RunError) as error:
        return fallback, one_line(error).replace(str(folder), "DIR").replace(folder.name, "DIR"), notes
    ids = torch.tensor([draw_ids(random.Random(3), 40)])
    with torch.inference_mode():
        difference = float((_logits(model, ids) - _logits(fallback, ids)).abs().max())
    if dtype == "float32" and difference > 1e-4:  # in bfloat16 reading keeps some parts in float32
        notes.append(f"read otherwise than saved, by {difference:.3g} in its logits")
    return model, "", notes


def fresh(model: Any) -> Any:
    """A copy that shares the weights, and nothing that a forward may write."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = fresh(model)(input_ids=ids).logits
    return logits.float().log_softmax(-1)


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"t{i}": i for i in range(3, VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>"
    )


def draw_ids(draw: random.Random, num: int) -> tuple[int, ...]:
    """Ordinary tokens."""
    return tuple(draw.randrange(*_IDS) for _ in range(num))


def one_line(error: Exception) -> str:
    """An error's kind and what it says, cut."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
