"""Tiny models for the tests of finding and loading, each in a folder with a byte-level tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pipeline.errors import InputError
from pipeline.reading.model import load_model, load_tokenizer, resolve_model
from pipeline.scoring.scorer import Scorer
from tests.hub_server import save_tiny_gemma
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly

VOCABULARY = 260
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def save_tokenizer(folder: Path) -> Path:
    """The byte-level tokenizer alone; 260 ids."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = save_tiny_gemma(folder / "whole")
    for file in whole.iterdir():
        if "token" in file.name:
            shutil.copy(file, folder)
    shutil.rmtree(whole)
    return folder


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    """Any model with that tokenizer, its weights large enough to tell right from wrong."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
    model.save_pretrained(save_tokenizer(folder))
    return folder


def save_llama(folder: Path, **options: Any) -> Path:
    return save_model(LlamaForCausalLM(LlamaConfig(**{**SIZES, **options})), folder)


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object], name: str = "model.safetensors") -> None:
    """Change the tensors of a file."""
    tensors = load_file(folder / name)
    edit(tensors)
    save_file(tensors, folder / name, {"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes them away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def load_whole(path: Path) -> PreTrainedModel:
    """All of a model, as a run does it."""
    ref = resolve_model(path, device="cpu")
    load_tokenizer(ref)
    return load_model(ref)


def refuse(path: Path, reason: str) -> None:
    """Loading it is an error of one line that says why."""
    with pytest.raises(InputError, match=reason) as caught:
        load_whole(path)
    assert "\n" not in str(caught.value)


def score_both(scored: PreTrainedModel, oracle: Any, path: str = "tree") -> float:
    """The largest difference of scores by the fast way from one plain forward of `oracle` for each label."""
    items = make_items(12)
    scorer = Scorer(scored, batch_tokens=90)
    assert scorer.path == path, scorer.path_reason
    slow = score_slowly(oracle, items)["logprob"]
    found = torch.empty_like(slow)
    for batch in scorer.score(items):
        found[batch.indices] = batch.logprob.to(slow.dtype)
    return float((found - slow).abs().max())
