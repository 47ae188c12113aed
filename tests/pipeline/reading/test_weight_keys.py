"""Tensors on disk and in the model: nothing left over on either side but what is known to be harmless."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.pipeline.reading.tiny import SIZES, edit_json, edit_weights, load_whole, refuse, save_llama, save_model

Edit = Callable[[dict[str, Tensor]], object]


def same_logits(path: Path, edit: Edit) -> None:
    """The model loads with the tensors added, and is the one without them."""
    ids = torch.arange(3, 20)[None]
    before = load_whole(path)(input_ids=ids).logits
    edit_weights(path, edit)
    assert torch.equal(load_whole(path)(input_ids=ids).logits, before)


# What would make a wrong figure


def test_biases_that_the_model_has_no_place_for_are_an_error(tmp_path: Path) -> None:
    """Qwen 2 weights under a Llama configuration lost their biases and were off by 2.6 nats without a word."""
    path = save_model(Qwen2ForCausalLM(Qwen2Config(**SIZES)), tmp_path / "qwen")
    edit_json(path / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    refuse(path, r"6 weights of its files have no place in a LlamaForCausalLM .model.layers.0.self_attn.k_proj.bias")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model.layers.0.self_attn.bias", torch.ones(32)),
        ("model.layers.0.mlp.gate_proj.bias", torch.ones(48)),
        ("model.layers.0.self_attn.q_norm.weight", torch.ones(8)),
        ("model.layers.2.input_layernorm.weight", torch.ones(32)),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.tensor([1.0, 0.5, 0.25, 0.125])),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(2)),
        ("model.layers.0.mlp.gate_proj.weight_scale", torch.ones(1)),
        ("model.embed_positions.weight", torch.ones(4, 32)),
        ("model.layers.0.image_gate.weight", torch.ones(1, 32)),
        ("lm_head.bias", torch.ones(260)),
    ],
)
def test_a_tensor_that_is_left_over_is_an_error(llama: Path, key: str, values: Tensor) -> None:
    """Also in places where old checkpoints have harmless ones, which look otherwise."""
    edit_weights(llama, lambda tensors: tensors.update({key: values}))
    refuse(llama, f"1 weights of its files have no place in a LlamaForCausalLM .{key}")


def test_fewer_layers_than_the_files_have_are_an_error(llama: Path) -> None:
    """Half a model scores something, too."""
    edit_json(llama / "config.json", num_hidden_layers=1)
    refuse(llama, "9 weights of its files have no place")


def test_a_head_that_the_configuration_ties_away_is_an_error(llama: Path) -> None:
    """Two readings: what the configuration says, and what the files have."""
    edit_json(llama / "config.json", tie_word_embeddings=True)
    refuse(llama, r"config.json ties lm_head.weight to the embeddings .* and the files have other values")


def test_weights_of_8_bits_without_their_scales_are_an_error(llama: Path) -> None:
    """transformers would take the bare numbers for weights."""
    edit_weights(
        llama,
        lambda tensors: tensors.update(
            {key: (value * 100).to(torch.float8_e4m3fn) for key, value in tensors.items() if "_proj" in key}
        ),
    )
    refuse(llama, "14 weights are quantised .*F8_E4M3., and config.json has no quantization_config")


# What is harmless


def test_a_head_that_equals_the_tied_embeddings_is_harmless(tmp_path: Path) -> None:
    """Old checkpoints wrote both."""
    path = save_llama(tmp_path / "tied", tie_word_embeddings=True)
    same_logits(path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))


def frequencies(size: int) -> Tensor:
    return 10000.0 ** -(torch.arange(0, size, 2) / size)


def draft(layer: int) -> dict[str, Tensor]:
    return {
        f"model.layers.{layer}.{name}": torch.ones(32)
        for name in ("eh_proj.weight", "enorm.weight", "input_layernorm.weight")
    }


@pytest.mark.parametrize(
    "more",
    [
        {"model.layers.1.self_attn.rotary_emb.inv_freq": frequencies(8)},
        {"model.layers.1.self_attn.rotary_emb.inv_freq": frequencies(8).half()},
        {"mtp.layers.0.self_attn.q_proj.weight": torch.ones(32, 32)},
        draft(2),
        {"model.layers.0.self_attn.k_scale": torch.ones(1), "model.layers.0.self_attn.v_scale": torch.ones(1)},
        {"model.vision_tower.patch.weight": torch.ones(3, 3), "model.mm_projector.0.weight": torch.ones(3, 3)},
        {"model.vision_tower.encoder.layers.0.q_proj.weight": torch.ones(3, 3), "visual.blocks.0.x": torch.ones(3)},
        {"v_head.summary.weight": torch.ones(1, 32)},
    ],
)
def test_what_does_not_touch_the_next_token_is_harmless(llama: Path, more: dict[str, Tensor]) -> None:
    """Each kind is listed with its reason."""
    same_logits(llama, lambda tensors: tensors.update(more))


def test_a_whole_layer_behind_the_last_is_no_draft_because_another_is(llama: Path) -> None:
    """A layer is a draft layer by parts of its own."""
    edit_weights(llama, lambda t: t.update(draft(3) | {"model.layers.2.input_layernorm.weight": torch.ones(32)}))
    refuse(llama, r"1 weights of its files have no place in a LlamaForCausalLM .model.layers.2")


SMALL: dict[str, Any] = {"vocab_size": 260, "pad_token_id": 0}


def test_old_causal_masks_are_harmless_and_a_bias_in_their_place_is_not(tmp_path: Path) -> None:
    """transformers passes over them by name, which a bias may have, too."""
    mask, number = torch.ones(1, 1, 64, 64).tril(), torch.tensor(-1e4)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=64, **SMALL))
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, **SMALL)
    )
    for name, model, prefix in (("gpt2", gpt2, "transformer.h.0.attn"), ("neox", neox, "gpt_neox.layers.0.attention")):
        path = save_model(model, tmp_path / name)
        same_logits(path, lambda t, at=prefix: t.update({f"{at}.bias": mask, f"{at}.masked_bias": number}))  # type: ignore[misc]
        edit_weights(path, lambda t, at=prefix: t.update({f"{at}.bias": torch.ones(8)}))  # type: ignore[misc]
        refuse(path, "1 weights of its files have no place")


# What is loaded is what was hashed


def test_pieces_of_a_distributed_checkpoint_are_not_loaded_instead(llama: Path) -> None:
    """transformers prefers them to model.safetensors, which is what the identity is of."""
    expected = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    save_file({"model.norm.weight": torch.zeros(32)}, llama / "shard-00001-model-00001-of-00001.safetensors")
    found = load_whole(llama).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_a_configuration_that_names_other_weights_is_refused(llama: Path) -> None:
    """transformers would load them in the place of those that were hashed."""
    shutil.copy(llama / "model.safetensors", llama / "other.safetensors")
    edit_json(llama / "config.json", transformers_weights="other.safetensors")
    refuse(llama, "config.json names a file of weights of its own .transformers_weights")
