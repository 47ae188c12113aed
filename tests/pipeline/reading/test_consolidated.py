"""Weights under Meta's and Mistral's names, and other names that repositories have."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from pipeline.reading.model import count_parameters, load_model, resolve_model
from tests.hub_server import HubServer, connect, folder_files
from tests.pipeline.reading.tiny import SIZES, edit_json, load_whole, refuse, save_llama, save_model

# Written out here once more, by hand: transformers' names and theirs.
NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    save_llama(folder / "llama")
    save_model(MistralForCausalLM(MistralConfig(**SIZES, head_dim=16)), folder / "mistral")
    return folder


@pytest.fixture
def llama(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept / "llama", tmp_path / "llama"))


def their_rows(values: Tensor, num_heads: int) -> Tensor:
    """Row 2i of a head is our row i, row 2i + 1 the one half a head behind: pairs stand together there."""
    rows = []
    for head in values.split(len(values) // num_heads):
        half = len(head) // 2
        for i in range(half):
            rows += [head[i], head[half + i]]
    return torch.stack(rows)


def as_they_write(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, values in tensors.items():
        if key in NAMES:
            found[NAMES[key]] = values
            continue
        layer, part = key.removeprefix("model.").removesuffix(".weight").split(".", 2)[1:]
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
        found[f"layers.{layer}.{PARTS[part]}.weight"] = values if heads is None else their_rows(values, heads)
    return found


@pytest.mark.parametrize("num_files", [1, 2])
@pytest.mark.parametrize("names", ["ours", "theirs"])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_consolidated_weights_are_the_model_to_the_last_bit(
    kept: Path, tmp_path: Path, kind: str, names: str, num_files: int
) -> None:
    """Under either names, in one file or several; the rows of queries and keys are put in our order."""
    path = Path(shutil.copytree(kept / kind, tmp_path / kind))
    expected = load_file(path / "model.safetensors")
    tensors = expected if names == "ours" else as_they_write(expected) | {"rope.freqs": torch.ones(4)}
    (path / "model.safetensors").unlink()
    for i in range(num_files):
        name = "consolidated.safetensors" if num_files == 1 else f"consolidated-0000{i + 1}-of-00002.safetensors"
        save_file({key: tensors[key].contiguous() for key in list(tensors)[i::num_files]}, path / name)
    ref = resolve_model(path, device="cpu")
    found = load_model(ref).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(values, found[key]) for key, values in expected.items())
    assert count_parameters(ref) == sum(values.numel() for values in tensors.values())
    half = load_model(resolve_model(path, device="cpu", dtype="bfloat16"))
    assert half.dtype == torch.bfloat16


def test_a_consolidated_file_that_does_not_fit_is_refused(llama: Path) -> None:
    """Names of neither, weights that are missing, an architecture with other layers."""
    tensors = as_they_write(load_file(llama / "model.safetensors"))
    (llama / "model.safetensors").unlink()
    file = llama / "consolidated.safetensors"
    save_file(tensors | {"layers.0.attention.q_norm.weight": torch.ones(8)}, file)
    refuse(llama, "consolidated.safetensors has layers.0.attention.q_norm.weight, which is not known here")
    save_file({key: values for key, values in tensors.items() if key != "norm.weight"}, file)
    refuse(llama, "1 weights are missing or of another shape .model.norm.weight")
    save_file(tensors, file)
    edit_json(llama / "config.json", model_type="qwen3", architectures=["Qwen3ForCausalLM"], head_dim=8)
    refuse(llama, "Mistral's or Meta's own names, which are known here for llama, mistral, ministral and not for qwen3")


def test_the_usual_files_count_where_both_are_there(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral's repositories have both: one of them is hashed, loaded, and fetched from the hub."""
    before = resolve_model(llama, device="cpu")
    (llama / "consolidated.safetensors").write_bytes(b"other")
    assert resolve_model(llama, device="cpu").weights == before.weights
    load_whole(llama)
    files = folder_files(llama)
    with HubServer() as hub:
        connect(monkeypatch, hub, tmp_path / "cache")
        hub.put("model", "some/model", files)
        ref = resolve_model("some/model", device="cpu")
        load_model(ref)
        assert not (ref.path / "consolidated.safetensors").exists()
        files["consolidated.safetensors"] = files.pop("model.safetensors")
        hub.put("model", "some/model", files)
        load_model(resolve_model("some/model", device="cpu"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.fp16.safetensors", "only a variant of its weights is there .model.fp16.safetensors"),
        ("model.fp16-00001-of-00002.safetensors", "only a variant of its weights is there"),
        ("model-00001-of-00002.fp16.safetensors", "only a variant of its weights is there"),
        ("pytorch_model.safetensors", "pytorch_model.safetensors is no name under which weights are looked for"),
        ("model.gguf", "model.gguf cannot be read as GGUF"),
        ("consolidated.00.pth", "its weights are pickle files"),
    ],
)
def test_weights_under_other_names_are_told_truthfully(llama: Path, name: str, reason: str) -> None:
    """There are weights, and why they are not taken."""
    (llama / "model.safetensors").rename(llama / name)
    refuse(llama, reason)


def test_an_index_is_followed_and_what_it_names_must_be_there(llama: Path) -> None:
    """Pieces that it does not name are left from another save."""
    model = load_whole(llama)
    (llama / "model.safetensors").unlink()
    model.save_pretrained(llama, max_shard_size="20KB")
    num_parameters = count_parameters(resolve_model(llama, device="cpu"))
    save_file({"old": torch.ones(3)}, llama / "model-00001-of-00099.safetensors")
    assert count_parameters(resolve_model(llama, device="cpu")) == num_parameters
    load_whole(llama)
    min(llama.glob("model-00002-*")).unlink()
    refuse(llama, "model.safetensors.index.json names model-00002-of-.* which is not there")
    (llama / "model.safetensors.index.json").write_text("{}")
    refuse(llama, "model.safetensors.index.json cannot be read")
