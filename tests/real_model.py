"""The real pretrained model for tests: SmolLM2-135M-Instruct, as a GGUF in four bits; nothing of it is kept here.

It is found as `--model smollm2` finds it; tests that read it are skipped where the package is not there.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.reading.model import ModelRef, load_tokenizer, resolve_model
from pipeline.smollm2 import find_smollm2


@cache
def real_file() -> Path:
    """The model's .gguf; the test is skipped where it cannot be had."""
    try:
        return find_smollm2()
    except InputError as error:
        pytest.skip(str(error))


@cache
def real_ref() -> ModelRef:
    """The model as a run finds it, in float32 on a CPU."""
    pytest.importorskip("gguf")
    return resolve_model(real_file(), device="cpu", dtype="float32")


@cache
def real_model_tokenizer() -> PreTrainedTokenizerBase:
    """Its tokenizer as a run loads it."""
    return load_tokenizer(real_ref())


def save_as_safetensors(folder: Path) -> Path:
    """The same weights in float32, read from the .gguf and written by transformers alone, with the run's tokenizer."""
    file = real_file()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are plain floats by now, and transformers refuses to save what still calls itself quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    real_model_tokenizer().save_pretrained(folder)
    return folder
