"""What kind of model it is: decoders whatever their flags say, encoders never, multimodal ones by their text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pipeline.reading.model import load_model, resolve_model
from tests.pipeline.reading.tiny import (
    SIZES,
    edit_json,
    load_whole,
    refuse,
    save_llama,
    save_model,
    save_tokenizer,
    score_both,
)

# Flags


def test_pythia_is_causal_though_its_configuration_says_no_decoder(tmp_path: Path) -> None:
    """GPTNeoXConfig inherits `is_decoder = False` and never looks at it."""
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    config = GPTNeoXConfig(**sizes)
    assert config.is_decoder is False
    path = save_model(GPTNeoXForCausalLM(config), tmp_path / "pythia")
    assert score_both(load_whole(path), AutoModelForCausalLM.from_pretrained(path)) < 2e-4


def test_a_flag_that_means_nothing_for_the_model_type_is_not_looked_at(tmp_path: Path) -> None:
    """Old versions of transformers wrote `is_decoder: false` beside every model."""
    path = save_llama(tmp_path / "llama")
    edit_json(path / "config.json", is_decoder=False)
    load_whole(path)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("bert", "BertLMHeadModel"),
        ("roberta", "RobertaForCausalLM"),
        ("xlm-roberta", "XLMRobertaForCausalLM"),
        ("electra", "ElectraForCausalLM"),
        ("bert-generation", "BertGenerationDecoder"),
        ("reformer", "ReformerModelWithLMHead"),
        ("bart", "BartForCausalLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("whisper", "WhisperForCausalLM"),
        ("xlm", "XLMWithLMHeadModel"),
        ("xlnet", "XLNetLMHeadModel"),
    ],
)
def test_encoders_stay_refused(tmp_path: Path, model_type: str, architecture: str) -> None:
    """They would load, and see what they should predict."""
    path = save_llama(tmp_path / "llama")
    (path / "config.json").write_text("{}")
    edit_json(path / "config.json", model_type=model_type, architectures=[architecture])
    refuse(path, f"{architecture} (is not a causal language model|attends both ways)")


@pytest.mark.parametrize("changes", [{"use_bidirectional_attention": True}, {"is_causal": False}])
def test_a_decoder_that_was_turned_both_ways_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Embedding models are made so out of language models."""
    path = save_llama(tmp_path / "llama")
    edit_json(path / "config.json", **changes)
    refuse(path, "attends both ways")


def test_a_configuration_without_special_tokens_is_scored(tmp_path: Path) -> None:
    """transformers' strict configurations raise for a key that they do not have, and some have no pad_token_id."""
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))
    path = save_model(model, tmp_path / "qwen3")
    loaded = load_whole(path)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        loaded.config.__dict__.pop(name, None)
    assert score_both(loaded, model.eval()) < 2e-4


# Multimodal models

TEXT = {**SIZES, "head_dim": 8, "sliding_window": 8}
LLAMA = {**SIZES, "model_type": "llama"}
MISTRAL = {**SIZES, "head_dim": 8, "model_type": "mistral"}
TURNED = {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
SIGLIP = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
SEEN = {"model_type": "siglip_vision_model", **SIGLIP, "image_size": 16, "patch_size": 4}
CLIP = {**SEEN, "model_type": "clip_vision_model"}
QWEN = {"depth": 1, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "out_hidden_size": 32}
TOKENS = dict.fromkeys(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), 259)
COMPOSITES: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "gemma 3": lambda: ("Gemma3", {"text_config": TEXT, "vision_config": SEEN, "mm_tokens_per_image": 4}),
    "gemma 4": lambda: (
        "Gemma4",
        {
            "text_config": {
                **TEXT, "vocab_size_per_layer_input": 260, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
                "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {**SIGLIP, "head_dim": 8, "num_key_value_heads": 4},
            "audio_config": None,
        },
    ),
    "mistral 3": lambda: ("Mistral3", {"text_config": MISTRAL, "vision_config": {**SIGLIP, "model_type": "pixtral"}}),
    "llava": lambda: ("Llava", {"text_config": LLAMA, "vision_config": CLIP}),
    "qwen 2 vl": lambda: ("Qwen2VL", {"text_config": TURNED, "vision_config": QWEN | {"embed_dim": 32}, **TOKENS}),
    "qwen 2.5 vl": lambda: ("Qwen2_5_VL", {"text_config": TURNED, "vision_config": QWEN, **TOKENS}),
    "qwen 3 vl": lambda: (
        "Qwen3VL",
        {
            "text_config": {**TURNED, "head_dim": 8},
            "vision_config": {**QWEN, "deepstack_visual_indexes": [0], "intermediate_size": 32},
            **TOKENS,
        },
    ),
}  # fmt: skip


def make_composite(name: str) -> PreTrainedModel:
    family, parts = COMPOSITES[name]()
    config = getattr(transformers, f"{family}Config")(**parts)
    model: PreTrainedModel = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    return model.eval()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", COMPOSITES)
def test_the_text_part_of_a_multimodal_model_is_scored_on_the_tree(name: str, tmp_path: Path) -> None:
    """The scores are those of the whole model's plain forward; sizes are those of its text part."""
    model = make_composite(name)
    path = save_model(model, tmp_path / "composite")
    ref = resolve_model(path, device="cpu")
    assert ref.context_tokens == 256
    assert score_both(load_model(ref), model) < 2e-4


def test_the_text_part_of_llama_4_is_loaded_alone(tmp_path: Path) -> None:
    """transformers has a class for it; what sees is left out, and nothing else."""
    text = {
        **SIZES, "head_dim": 8, "intermediate_size_mlp": 32, "num_local_experts": 2, "num_experts_per_tok": 1,
        "attention_chunk_size": 64, "no_rope_layers": [1, 1], "layer_types": ["full_attention", "full_attention"],
    }  # fmt: skip
    seen = {
        **SIGLIP, "image_size": 16, "patch_size": 4, "vision_output_dim": 32, "projector_input_dim": 32,
        "projector_output_dim": 32,
    }  # fmt: skip
    config = transformers.Llama4Config(text_config=text, vision_config=seen)
    model = transformers.Llama4ForConditionalGeneration(config).eval()
    path = save_model(model, tmp_path / "llama4")
    loaded = load_whole(path)
    assert type(loaded).__name__ == "Llama4ForCausalLM"
    assert score_both(loaded, model.language_model) < 2e-4


def test_a_multimodal_model_that_has_no_scores_for_text_is_told_truthfully(tmp_path: Path) -> None:
    """One that matches texts with images, one that looks both ways along the prompt, one that wants an image."""
    path = save_tokenizer(tmp_path / "model")
    save_llama(path)
    for model_type, reason in (
        ("clip", "clip is a multimodal model that gives text no scores of its own"),
        ("paligemma", "paligemma attends both ways"),
        ("blip-2", "Blip2ForConditionalGeneration takes no text alone .it wants pixel_values"),
    ):
        (path / "config.json").write_text("{}")
        edit_json(path / "config.json", model_type=model_type)
        if model_type == "blip-2":
            sizes = {**SIGLIP, "image_size": 16, "patch_size": 4}
            config = transformers.Blip2Config(
                vision_config=sizes,
                qformer_config={**SIGLIP, "encoder_hidden_size": 32},
                text_config={
                    "model_type": "opt", "vocab_size": 260, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1,
                    "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
                },
            )  # fmt: skip
            save_model(transformers.Blip2ForConditionalGeneration(config), path)
        refuse(path, reason)
