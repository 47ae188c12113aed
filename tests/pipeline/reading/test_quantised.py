"""Quantised checkpoints, made with the methods' own packages: scored as the weights that they stand for.

Invariant: the oracle is a plain model with these weights as numbers, which our own arithmetic or the package's gives.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from pipeline.errors import InputError
from pipeline.reading import quantised
from pipeline.reading.model import count_parameters, load_model, resolve_model
from pipeline.shard import make_scorer
from tests.pipeline.reading.tiny import save_llama, save_tokenizer
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly

SIZES = {"hidden_size": 64, "intermediate_size": 128}
ITEMS = make_items(6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("plain") / "model", **SIZES)


def largest_difference(scored: Path, weights: Mapping[str, Tensor], plain: Path, dtype: str = "float32") -> float:
    """Between the scores of a checkpoint and plain forwards of a model with these weights, in nats."""
    ref = resolve_model(scored, device="cpu", dtype=dtype)
    scorer = make_scorer(load_model(ref), ref)
    assert scorer.path == "tree", scorer.path_reason
    model = LlamaForCausalLM.from_pretrained(plain, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    expected = score_slowly(model, ITEMS)["logprob"]
    differences = [
        (batch.logprob.double() - expected[batch.indices, : batch.logprob.shape[1]]).abs()
        for batch in scorer.score(ITEMS)
    ]
    return max(float(each.nan_to_num(nan=0.0).max()) for each in differences)


def write(folder: Path, plain: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Path:
    """A checkpoint with these tensors, and a configuration that says how they are quantised."""
    save_tokenizer(folder)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": said}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def write_fp8(folder: Path, plain: Path) -> tuple[Path, dict[str, Tensor]]:
    """Eight bits with a scale for each block of 128 x 128: here one for each matrix. And what they stand for."""
    stored, meant = dict(load_file(plain / "model.safetensors")), {}
    for name in list(filter(is_linear, stored)):
        scale = stored[name].abs().max() / 448
        stored[name] = (stored[name] / scale).to(torch.float8_e4m3fn)
        stored[name.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1)
        meant[name] = stored[name].float() * scale
    said = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    return write(folder, plain, stored, said), meant


def test_fp8_is_scored_as_its_weights(tmp_path: Path, plain: Path) -> None:
    """Without a GPU that computes in eight bits they are widened; how many parameters there are is not guessed."""
    folder, meant = write_fp8(tmp_path / "fp8", plain)
    assert largest_difference(folder, meant, plain) < 1e-4
    ref = resolve_model(folder, device="cpu")
    assert (ref.quantised, ref.dtype, count_parameters(ref)) == ("fp8", "float32", None)
    assert ref.dtype_note == "its weights are quantised (fp8), and it computes in float32"
    with pytest.raises(
        InputError, match=r"fp8: its weights are quantised already \(fp8\), and --dtype fp8 rounds plain"
    ):
        resolve_model(folder, device="cpu", dtype="fp8")


@pytest.mark.parametrize("num_bits", [4, 8])
def test_compressed_tensors_are_scored_as_their_weights(tmp_path: Path, plain: Path, num_bits: int) -> None:
    """Packed whole numbers with a scale for each row, or each 32 of a row."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    how: dict[str, Any] = {"strategy": "channel"} if num_bits == 8 else {"strategy": "group", "group_size": 32}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(num_bits=num_bits, type="int", **how))
    model, meant = LlamaForCausalLM.from_pretrained(plain, dtype=torch.float32), {}
    apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"]))
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            weight, width = module.weight.data, how.get("group_size", module.weight.shape[1])
            groups = weight.view(len(weight), -1, width)
            most = 2 ** (num_bits - 1)
            scale = groups.abs().amax(dim=2) / (most - 0.5)
            module.weight_scale.data = scale.to(module.weight_scale.dtype)
            module.quantization_status = QuantizationStatus.FROZEN
            meant[f"{name}.weight"] = (
                (groups / scale[..., None]).round().clamp(-most, most - 1) * scale[..., None]
            ).view_as(weight)
    folder = save_tokenizer(tmp_path / "packed")
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    assert any(name.endswith("weight_packed") for name in load_file(folder / "model.safetensors"))
    assert len(meant) == 14
    assert largest_difference(folder, meant, plain) < 1e-4


@pytest.mark.parametrize("num_bits", [4, 8])
def test_bitsandbytes_are_scored_as_their_weights(tmp_path: Path, plain: Path, num_bits: int) -> None:
    """With four bits the package computes in bfloat16 on a CPU; with eight it rounds what comes into a layer, too."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    how = BitsAndBytesConfig(load_in_4bit=True) if num_bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    options: dict[str, Any] = {"dtype": torch.float32, "device_map": {"": "cpu"}, "quantization_config": how}
    model, meant = LlamaForCausalLM.from_pretrained(plain, **options), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "_proj" in name:
            weight: Any = module.weight
            if num_bits == 4:
                meant[f"{name}.weight"] = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            else:
                meant[f"{name}.weight"] = weight.data * weight.SCB[:, None] / 127
    folder = save_tokenizer(tmp_path / "packed")
    model.save_pretrained(folder)
    assert len(meant) == 14
    assert largest_difference(folder, meant, plain) < 0.1
    ref = resolve_model(folder, device="cpu")
    assert (ref.quantised, ref.dtype) == ("bitsandbytes", "float32")
    with pytest.raises(InputError, match="its quantised weights compute in float32, not in bfloat16; use --dtype"):
        load_model(resolve_model(folder, device="cpu", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq, which needs .* pip install optimum gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "quantised by awq, which needs .* pip install gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "pip install compressed-tensors"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install bitsandbytes"),
        ({"load_in_8bit": True}, "quantised by bitsandbytes, .* pip install bitsandbytes"),
        ({"quant_method": "spqr"}, "quantised by 'spqr', and those of bitsandbytes, gptq, awq"),
        ({"bits": 4}, "quantised by ''"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_loaded(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], words: str
) -> None:
    """One line, at once; and a method that nobody has tried is no plain model."""
    monkeypatch.setattr(quantised, "is_installed", lambda package: False)
    folder = write(tmp_path / "model", plain, load_file(plain / "model.safetensors"), said)
    with pytest.raises(InputError, match=words):
        resolve_model(folder, device="cpu")


def test_weights_of_few_bits_without_a_word_of_it_are_refused(tmp_path: Path, plain: Path) -> None:
    """Their scales would be left out."""
    folder, _ = write_fp8(tmp_path / "fp8", plain)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"no quantization_config that says how|no place in a"):
        load_model(resolve_model(folder, device="cpu"))
