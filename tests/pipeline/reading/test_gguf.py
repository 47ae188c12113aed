"""GGUF: the same model as its safetensors, all of it, or one line.

Rule: what a header says of a model is in its configuration, and what a file holds is in its weights; whatever
transformers' reader passes over is written in or refused by name.
"""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from pipeline.errors import InputError
from pipeline.reading import gguf_file
from pipeline.reading.model import count_parameters, find_local, load_model, load_tokenizer, resolve_model
from pipeline.scoring.fp8 import to_fp8
from pipeline.shard import load_to_score
from tests.hub_server import HubServer, connect
from tests.pipeline.reading.gguf_files import random_values, with_merges, write_gguf
from tests.pipeline.reading.tiny import SIZES as BYTES
from tests.pipeline.reading.tiny import refuse, save_tokenizer

SIZES = BYTES | {"vocab_size": 264}
WIDE = SIZES | {"head_dim": 16}
GEMMA = WIDE | {"query_pre_attn_scalar": 16, "num_hidden_layers": 6, "sliding_window": 8}
LFM2 = SIZES | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}


def tiny(kind: Any, config: Any, **options: Any) -> PreTrainedModel:
    """A random model, its weights large enough to tell right from wrong, norms and biases, too."""
    torch.manual_seed(0)
    model: PreTrainedModel = kind(config(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def llama(**options: Any) -> PreTrainedModel:
    return tiny(LlamaForCausalLM, LlamaConfig, **(SIZES | options))


FAMILIES = {
    "llama": ("llama", llama),
    "llama with tied embeddings": ("llama", lambda: llama(tie_word_embeddings=True)),
    "qwen2": ("qwen2", lambda: tiny(Qwen2ForCausalLM, Qwen2Config, **SIZES)),
    "qwen3": ("qwen3", lambda: tiny(Qwen3ForCausalLM, Qwen3Config, **WIDE)),
    "gemma2": ("gemma2", lambda: tiny(Gemma2ForCausalLM, Gemma2Config, **GEMMA)),
    "gemma3": ("gemma3", lambda: tiny(Gemma3ForCausalLM, Gemma3TextConfig, **GEMMA)),
    "phi3": ("phi3", lambda: tiny(Phi3ForCausalLM, Phi3Config, **SIZES)),
    "gpt2": ("gpt2", lambda: tiny(GPT2LMHeadModel, GPT2Config, vocab_size=264, n_embd=32, n_layer=2, n_head=4)),
    "stablelm": ("stablelm", lambda: tiny(StableLmForCausalLM, StableLmConfig, **SIZES, rope_theta=777.0)),
    "lfm2": ("lfm2", lambda: tiny(Lfm2ForCausalLM, Lfm2Config, **LFM2)),
    "starcoder2": ("starcoder2", lambda: tiny(Starcoder2ForCausalLM, Starcoder2Config, **SIZES)),
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return with_merges(save_tokenizer(tmp_path / "tokenizer") / "tokenizer.json")


@pytest.fixture
def file(tmp_path: Path, tokenizer: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", llama(), tokenizer, "llama")


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(10, 60)[None] * 3 % 250  # longer than any window
    with torch.inference_mode():
        return model(ids).logits


def load(path: Path, dtype: str = "float32") -> PreTrainedModel:
    return load_model(resolve_model(path, device="cpu", dtype=dtype))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_is_the_model_that_it_was_made_of(name: str, tmp_path: Path, tokenizer: Path) -> None:
    """To the bit where its tensors are float32; its configuration comes out of the header alone."""
    architecture, make = FAMILIES[name]
    model = make()
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, architecture)
    assert torch.equal(logits(load(file)), logits(model))


def test_a_gguf_is_turned_to_fp8(file: Path) -> None:
    """From the numbers that it has in bfloat16, whatever its blocks are."""
    found, expected = load_to_score(resolve_model(file, device="cpu", dtype="fp8")), load(file, "bfloat16")
    assert not torch.equal(logits(found), logits(expected))
    assert to_fp8(expected, "tiny") == 10
    assert torch.equal(logits(found), logits(expected))


@pytest.mark.parametrize(
    ("architecture", "make", "header"),
    [
        (
            "llama",
            lambda: llama(rope_parameters=LINEAR),
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        ),
        (
            "gemma3",
            lambda: tiny(
                Gemma3ForCausalLM,
                Gemma3TextConfig,
                **GEMMA,
                rope_parameters={"full_attention": LINEAR, "sliding_attention": LOCAL},
            ),
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        ),
        (
            "phi3",
            lambda: tiny(
                Phi3ForCausalLM,
                Phi3Config,
                **(SIZES | {"hidden_size": 64}),
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            ),
            {},
        ),
        (
            "phi3",
            lambda: tiny(Phi3ForCausalLM, Phi3Config, **SIZES, sliding_window=7),
            {"attention.sliding_window": 7},
        ),
        ("gemma2", lambda: tiny(Gemma2ForCausalLM, Gemma2Config, **GEMMA, attn_logit_softcapping=5.0), {}),
        ("qwen3", lambda: tiny(Qwen3ForCausalLM, Qwen3Config, **SIZES, head_dim=8), {}),
    ],
    ids=[
        "linear scaling",
        "that of full attention",
        "a part of a head rotated",
        "window",
        "soft cap",
        "head size",
    ],
)
def test_what_transformers_passes_over_is_written_in(
    architecture: str, make: Any, header: dict[str, Any], tmp_path: Path, tokenizer: Path
) -> None:
    """Its reader leaves these at the defaults of the configuration's class."""
    model = make()
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, architecture, header=header)
    assert torch.equal(logits(load(file)), logits(model))


def test_llama_3s_scaling_is_found_in_the_factors(tmp_path: Path, tokenizer: Path) -> None:
    """A file has what each frequency is divided by; other factors than the known ones are refused."""
    model = llama(hidden_size=256, rope_parameters=LLAMA_3)
    plain = 500_000.0 ** (-torch.arange(0, 64, 2).float() / 64)
    factors = plain / model.model.rotary_emb.inv_freq
    assert factors.max() > 31
    header = {"rope.freq_base": 500_000.0}
    parts = {"header": header, "tensors": {"rope_freqs.weight": factors}}
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, "llama", **parts)
    torch.testing.assert_close(logits(load(file)), logits(model), rtol=0, atol=1e-6)
    parts["tensors"] = {"rope_freqs.weight": factors * 1.1}
    refuse(write_gguf(tmp_path / "other.gguf", model, tokenizer, "llama", **parts), "scales the rotation in a way")
    parts["tensors"] = {"rope_freqs.weight": factors[:-1]}
    refuse(write_gguf(tmp_path / "short.gguf", model, tokenizer, "llama", **parts), "its header cannot be used")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, r"llama.rope.scaling.factor = 4.0"),
        ({"rope.scaling.type": "longrope"}, r"llama.rope.scaling.type = longrope"),
        ({"rope.dimension_count": 4}, "8 weights are missing or of another shape"),
        ({"attention.key_length": 16}, "llama.rope.dimension_count = 8, which transformers passes over"),
        ({"expert_count": 4}, "llama.expert_count = 4, which transformers passes over"),
        ({"logit_scale": 0.5}, "llama.logit_scale = 0.5"),
        ({"attention.causal": False}, "llama.attention.causal = False"),
    ],
)
def test_a_header_with_more_than_transformers_reads_is_refused(
    header: dict[str, Any], reason: str, tmp_path: Path, tokenizer: Path
) -> None:
    """It would be another model."""
    refuse(write_gguf(tmp_path / "tiny.gguf", llama(), tokenizer, "llama", header=header), reason)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"context_length": None}, "its header does not say llama.context_length"),
        ({"attention.head_count": None}, "its header does not say llama.attention.head_count"),
        ({"attention.layer_norm_rms_epsilon": None}, "its header does not say llama.attention.layer_norm_rms_epsilon"),
        ({"rope.freq_base": "many"}, "its header cannot be used .could not convert string to float"),
        ({"rope.freq_base": [1e4, 1e6]}, "its header cannot be used"),
        ({"attention.head_count": [4, 4]}, "does not read a GGUF of the architecture llama"),
    ],
)
def test_a_header_that_lacks_what_makes_the_model_is_refused(
    header: dict[str, Any], reason: str, tmp_path: Path, tokenizer: Path
) -> None:
    """transformers takes the default of the model's class, such as 32 heads, and their shapes can fit."""
    model = llama(num_key_value_heads=4)
    without = {"attention.head_count_kv": None, "rope.dimension_count": None}  # which then follow from the heads
    refuse(write_gguf(tmp_path / "tiny.gguf", model, tokenizer, "llama", header=without | header), reason)


def test_gemmas_window_is_not_guessed(tmp_path: Path, tokenizer: Path) -> None:
    model = tiny(Gemma2ForCausalLM, Gemma2Config, **GEMMA)
    file = write_gguf(tmp_path / "a.gguf", model, tokenizer, "gemma2", header={"attention.sliding_window": None})
    refuse(file, "its header does not say gemma2.attention.sliding_window")


def test_the_base_of_rotation_that_a_header_leaves_out_is_not_the_classs(tmp_path: Path, tokenizer: Path) -> None:
    """It is 10,000 to llama.cpp, whatever transformers' default for such a model."""
    model = tiny(Qwen3ForCausalLM, Qwen3Config, **WIDE, rope_theta=10_000.0)
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, "qwen3", header={"rope.freq_base": None})
    assert torch.equal(logits(load(file)), logits(model))


def test_a_tensor_that_transformers_leaves_out_is_an_error(tmp_path: Path, tokenizer: Path) -> None:
    """Its reader says nothing of a bias for which a Llama has no place, and fills in what is missing."""
    bias = {"blk.0.attn_q.bias": random_values(32)}
    file = write_gguf(tmp_path / "tiny.gguf", llama(), tokenizer, "llama", tensors=bias)
    with pytest.raises(InputError, match=r"leaves some out \(blk.0.attn_q.bias\), so its scores would be wrong"):
        load(file)
    short = llama(num_hidden_layers=1)
    file = write_gguf(tmp_path / "short.gguf", short, tokenizer, "llama", header={"block_count": 2})
    with pytest.raises(InputError, match="9 weights are missing"):
        load(file)
    for num in (0, 1):
        file = write_gguf(tmp_path / "fewer.gguf", llama(), tokenizer, "llama", header={"block_count": num})
        with pytest.raises(InputError, match="leaves some out"):
            load(file)


def test_an_architecture_that_transformers_does_not_read_is_one_line(tmp_path: Path, tokenizer: Path) -> None:
    model = llama()
    refuse(
        write_gguf(tmp_path / "tiny.gguf", None, tokenizer, "rwkv7"),
        "transformers does not read a GGUF of the architecture rwkv7",
    )
    file = write_gguf(tmp_path / "pre.gguf", model, tokenizer, "llama", pre="default")
    with pytest.raises(InputError, match=r"cuts texts into words as 'default' does"):
        load_tokenizer(resolve_model(file, device="cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_are_dequantised_into_the_dtype_of_the_run(dtype: str, tmp_path: Path, tokenizer: Path) -> None:
    """And are plain numbers then: a copy of the model is one, too."""
    kind = gguf.GGMLQuantizationType.Q8_0
    model = llama()
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, "llama", kind=kind)
    found = load(file, dtype)
    name = "model.layers.0.mlp.gate_proj.weight"
    exact = model.get_parameter(name).detach().numpy()
    rounded = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(exact, kind), kind))
    assert torch.equal(found.get_parameter(name), rounded.to(getattr(torch, dtype)))
    assert not hasattr(found.config, "quantization_config")
    assert count_parameters(resolve_model(file, device="cpu")) == sum(p.numel() for p in found.parameters())


# Which file, and whether it is whole


def test_the_identity_is_the_files_hash(file: Path, tmp_path: Path) -> None:
    """Whatever it is called, and whatever lies beside it."""
    ref = resolve_model(file, device="cpu")
    other = Path(shutil.copy(file, tmp_path / "tokenizer" / "renamed.gguf"))
    found = resolve_model(other, device="cpu")
    assert (found.weights, found.tokenizer) == (ref.weights, ref.tokenizer) == (gguf_hash(file),) * 2
    assert (ref.name, found.name) == ("tiny", "renamed")


def gguf_hash(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folder_with_one_gguf_is_that_model(file: Path, tmp_path: Path) -> None:
    """A file that sees images (mmproj) is none; of several one is to be named; beside safetensors it is passed over."""
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(file, folder / "model-Q8_0.gguf")
    shutil.copy(file, folder / "mmproj-model-f16.gguf")
    assert find_local(folder) == folder / "model-Q8_0.gguf"
    assert resolve_model(folder, device="cpu").weights == gguf_hash(file)
    shutil.copy(file, folder / "model-Q4_K_M.gguf")
    refuse(folder, r"it has 2 GGUF files.*name one, as .*folder/model-Q4_K_M.gguf")
    for name in ("model-Q8_0.gguf", "model-Q4_K_M.gguf"):
        (folder / name).unlink()
    refuse(folder, "it has no GGUF file of a model that writes; it has mmproj-model-f16.gguf")
    for number in (1, 2):
        shutil.copy(file, folder / f"model-0000{number}-of-00002.gguf")
    refuse(folder, "model-00001-of-00002.gguf is a piece of a model; join the pieces")


def test_a_folder_that_is_called_so_is_no_gguf(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "tiny.gguf")
    llama().save_pretrained(folder)
    assert torch.equal(logits(load(folder)), logits(llama()))


def test_a_file_that_is_broken_cut_short_or_a_piece_is_told(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 1000])
    refuse(file, "cannot be read as GGUF, or is not whole")
    file.write_bytes(whole[:2000])
    refuse(file, "cannot be read as GGUF, or is not whole")
    file.write_bytes(b"GGML" + whole[4:])
    refuse(file, "cannot be read as GGUF")
    piece = tmp_path / "tiny-00001-of-00002.gguf"
    piece.write_bytes(whole)
    refuse(piece, "is a piece of a model; join the pieces")
    with pytest.raises(InputError, match="a path has no revisions"):
        resolve_model(piece, revision="main")


def test_without_the_packages_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "is_installed", lambda name: name != "gguf")
    refuse(file, r"a GGUF file takes gguf to read; pip install 'labelscore\[gguf\]'")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def test_a_repository_with_one_gguf_is_that_model(
    hub: HubServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several, one is chosen by its name or by its kind of quantisation, and no other is fetched."""
    connect(monkeypatch, hub, tmp_path / "cache")
    whole = file.read_bytes()
    hub.put("model", "some/one", {"README.md": b"", "tiny-Q8_0.gguf": whole})
    assert resolve_model("some/one", device="cpu").weights == gguf_hash(file)
    hub.put("model", "some/two", {"tiny-Q8_0.gguf": whole, "tiny.Q4_K_M.gguf": whole + b"\0", "config.json": b"{}"})
    refuse_hub("some/two", r"it has 2 GGUF files.*name one, as some/two:tiny-Q8_0.gguf")
    refuse_hub("some/two:Q5_0", r"it has no GGUF file Q5_0; it has tiny-Q8_0.gguf, tiny.Q4_K_M.gguf")
    for choice in ("Q8_0", "tiny-Q8_0.gguf", "tiny-Q8_0"):
        ref = resolve_model(f"some/two:{choice}", device="cpu")
        assert (ref.name, ref.weights) == (f"some/two:{choice}", gguf_hash(file))
    load_tokenizer(ref)
    load_model(ref)
    assert not any("Q4_K_M" in request.path for request in hub.requests)


def test_a_file_in_a_folder_of_a_repository_is_chosen(
    hub: HubServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, as the message proposes it, or by the part; those in pieces are told to be so."""
    connect(monkeypatch, hub, tmp_path / "cache")
    pieces = [f"Q4_0/tiny-Q4_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.put("model", "some/many", dict.fromkeys([*pieces, "BF16/tiny-BF16.gguf", "mm/mmproj.gguf"], file.read_bytes()))
    refuse_hub("some/many", r"it has 3 GGUF files.*name one, as some/many:BF16/tiny-BF16.gguf")
    for choice in ("BF16/tiny-BF16.gguf", "BF16"):
        assert resolve_model(f"some/many:{choice}", device="cpu").weights == gguf_hash(file)
    refuse_hub("some/many:Q4_0", "Q4_0/tiny-Q4_0-00001-of-00002.gguf is a piece of a model; join the pieces")


def test_an_adapter_is_not_applied_to_a_gguf(
    hub: HubServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on this machine nor from the hub: it was trained over other weights than the dequantised ones."""
    connect(monkeypatch, hub, tmp_path / "cache")
    hub.put("model", "some/one", {"tiny-Q8_0.gguf": file.read_bytes()})
    for number, base in enumerate((str(file), "some/one")):
        folder = tmp_path / f"adapter{number}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"")
        config = {"base_model_name_or_path": base, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        refuse(folder, "its base .* is a .*file; an adapter is applied to safetensors")


def refuse_hub(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        resolve_model(name, device="cpu")


def test_what_lies_beside_a_gguf_is_not_read(file: Path, tmp_path: Path) -> None:
    """Another model's tokenizer_config.json would change the ids, or keep a good file from being read."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    beside = Path(shutil.copy(file, folder / "TINY.GGUF"))
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        (folder / name).write_text("{broken")
    (folder / "chat_template.jinja").write_text("another model's")
    ref = resolve_model(beside, device="cpu")
    assert load_tokenizer(ref).chat_template is None
    assert torch.equal(logits(load_model(ref)), logits(llama()))


def test_a_file_that_takes_anothers_place_is_read_anew(file: Path, tmp_path: Path, tokenizer: Path) -> None:
    """In one process, though it has the same size and was written at the same time, as far as it says."""
    load(file)
    state = file.stat()
    other = llama(rms_norm_eps=0.1)
    new = write_gguf(tmp_path / "new.gguf", other, tokenizer, "llama")
    os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert new.stat().st_size == state.st_size
    new.replace(file)
    assert torch.equal(logits(load(file)), logits(other))


def test_readers_in_two_threads_leave_the_packages_as_they_were(file: Path) -> None:
    """The second begins before the first has ended, and would put back what the first had put there."""
    before = (gguf.GGUFReader, gguf.get_tensor_name_map)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, [file] * 4))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_a_list_that_has_no_end_is_told(file: Path) -> None:
    """A header that says it has a million million words is not read until memory runs out."""
    content = file.read_bytes()
    count = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    file.write_bytes(content[:count] + (1 << 40).to_bytes(8, "little") + content[count + 8 :])
    refuse(file, "cannot be read as GGUF, or is not whole .a list of its header ends behind the file.")
