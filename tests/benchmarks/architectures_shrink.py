"""Tiny configurations of any causal language model of transformers, made from its own defaults.

Invariant: only sizes, counts and token ids are changed, by their names; which kinds of layers a model has, and in which
order, stays as its defaults say. What the names do not tell stands in `architectures_known.py`, family by family.
"""

from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tests.benchmarks.architectures_known import OVERRIDES, STANDALONE, WINDOWED

VOCABULARY = 113
MAX_LAYERS = 5
_HIDDEN, _HEADS, _KEY_HEADS, _HEAD_SIZE = 64, 4, 2, 16
_POSITIONS = 512
_SIZES = (
    (
        _HIDDEN,
        "hidden_size d_model n_embd emb_dim embedding_size embedding_dim lru_width word_embed_proj_dim "
        "input_embedding_size output_embedding_size ple_embed_dim",
    ),
    (
        _HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
        "attention_heads num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads "
        "linear_num_value_heads linear_num_heads num_query_groups",
    ),
    (
        _KEY_HEADS,
        "num_key_value_heads num_kv_heads kv_n_heads swa_num_key_value_heads linear_num_key_heads index_n_heads",
    ),
    (
        _HEAD_SIZE,
        "head_dim dim_head v_head_dim qk_head_dim index_head_dim linear_key_head_dim linear_value_head_dim "
        "linear_head_dim swa_head_dim d_head mamba_d_head mamba_head_dim kv_channels attention_head_size "
        "kv_lora_rank q_lora_rank o_lora_rank laurel_rank global_head_dim loop_gate_rank hc_lowrank",
    ),
    (
        8,
        "qk_nope_head_dim qk_rope_head_dim mamba_n_heads mamba_num_heads mamba_d_state state_size ssm_state_size "
        "rotary_dim time_step_rank mamba_dt_rank n_mamba_heads adapter_rank hidden_size_per_layer_input "
        "gated_norm_rank",
    ),
    (
        48,
        "intermediate_size moe_intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim feed_forward_size dim_ff dff "
        "shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size d_inner n_inner "
        "moe_shared_expert_intermediate_size intermediate_size_mlp dense_intermediate_size expert_ffn_hidden_size "
        "ffn_hidden_size router_hidden_size",
    ),
    (128, "mamba_d_ssm"),
    (16, "chunk_size mamba_chunk_size"),
    (4, "num_experts n_routed_experts num_local_experts moe_num_experts zero_expert_num"),
    (3, "encoder_layers decoder_layers n_layer n_layers num_layers num_encoder_layers num_decoder_layers"),
    (
        2,
        "num_experts_per_tok num_experts_per_token moe_k moe_topk n_group num_expert_group n_groups mamba_n_groups "
        "o_groups",
    ),
    (1, "topk_group first_k_dense_replace max_window_layers"),
    (
        _POSITIONS,
        "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions model_max_length context_length "
        "max_sequence_length seq_length",
    ),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
)
SMALL = {name: size for size, names in _SIZES for name in names.split()}
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "local_attention", "sliding_window_size")
# Beyond these many tokens (or so many of some blocks) a model attends, or places tokens, in another way.
LIMITS = {
    "index_topk": 16,
    "indexer_budget": 16,
    "index_block_size": 8,
    "index_topk_blocks": 2,
    "keep_window_size": 16,
    "attention_chunk_size": 32,
    "block_size": 4,
    "rel_extent": 32,
    "floor_scale": 32,
    "log_scaling_n_floor": 32,
    "original_max_position_embeddings": 64,
}
_UNSAID = ("num_key_value_heads", "head_dim", "intermediate_size")
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LAST_ID = VOCABULARY - 1  # for all other special tokens: no item has it


@dataclass(frozen=True, slots=True)
class Variant:
    """What is asked of a configuration beside being small."""

    window: int = 9
    limited: bool = False  # by what stands in LIMITS
    rope: str | None = None  # "dynamic" or "longrope", with a limit of 64 positions


def tiny_config(name: str, variant: Variant) -> PretrainedConfig:
    """A small configuration of the model type `name`. Raises whatever its class does where the sizes do not fit."""
    config = _shrink(getattr(transformers, CONFIG_MAPPING_NAMES[name]), name, variant)
    if variant.rope is not None:
        _change_rope(config, variant.rope)
    return config


def _shrink(config_class: type[PretrainedConfig], name: str, variant: Variant) -> PretrainedConfig:
    default = config_class()
    values = default.to_dict()
    settings = _small_values(values, variant)
    for part in config_class.sub_configs:
        if isinstance(sub := getattr(default, part, None), PretrainedConfig):
            settings[part] = _shrink(type(sub), sub.model_type, variant)
    if name in STANDALONE:
        settings["is_decoder"] = True
    if name in WINDOWED:
        settings["sliding_window"] = variant.window
    settings |= OVERRIDES.get(name, {})
    if variant.limited:
        settings |= {key: limit for key, limit in LIMITS.items() if isinstance(settings.get(key, values.get(key)), int)}
    return config_class(**settings)


def _small_values(values: dict[str, Any], variant: Variant) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in values.items():
        if name in _IDS or name.endswith("_token_id"):
            if value is not None:
                small[name] = _IDS.get(name, _LAST_ID)
        elif value is None and name in _UNSAID:
            small[name] = SMALL[name]  # the classes disagree about what stands in for it
        elif isinstance(value, int) and not isinstance(value, bool):
            if name in WINDOWS:
                small[name] = variant.window
            elif name in SMALL:
                small[name] = SMALL[name] if name in _UNSAID or SMALL[name] == _POSITIONS else min(value, SMALL[name])
    if "use_sliding_window" in values:  # off by default where a family has checkpoints with and without
        small["use_sliding_window"] = True
        small["sliding_window"] = variant.window
    if "kv_lora_rank" in values:  # a latent for all heads: groups of them have no meaning
        small["num_key_value_heads"] = _HEADS
        if values.get("head_dim") == values.get("qk_rope_head_dim"):
            small["head_dim"] = SMALL["qk_rope_head_dim"]
    small |= _chosen_layers(values, use_window="use_sliding_window" in values)
    return small


def _chosen_layers(values: dict[str, Any], *, use_window: bool) -> dict[str, Any]:
    """The lists that say something of each layer, for the first layer of each kind, and the last one."""
    num_layers = values.get("num_hidden_layers")
    if not isinstance(num_layers, int) or isinstance(num_layers, bool):
        return {}
    lists = {k: v for k, v in values.items() if isinstance(v, (list, tuple)) and len(v) == num_layers > 2}
    if use_window:  # made anew from the setting
        lists.pop("layer_types", None)
    kinds = [str(kind) for kind in zip(*lists.values(), strict=True)] if lists else ["layer"] * num_layers
    places = sorted({kinds.index(kind) for kind in kinds} | {num_layers - 1})[-MAX_LAYERS:]
    for place in range(num_layers):
        if len(places) >= 3:
            break
        places = sorted({*places, place})
    chosen: dict[str, Any] = {name: [each[place] for place in places] for name, each in lists.items()}
    for name, size in SMALL.items():
        if name in chosen:
            chosen[name] = [size] * len(places)
    return {**chosen, "num_hidden_layers": len(places)} | ({"layer_types": None} if use_window else {})


def _change_rope(config: PretrainedConfig, kind: str) -> None:
    """Rotary positions that are others beyond 64 tokens. Raises TypeError or the like where there are none."""
    limit = LIMITS["original_max_position_embeddings"]
    rope = dict(config.rope_parameters) | {"rope_type": kind, "factor": 4.0}
    if kind == "longrope":
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(head_size * rope.get("partial_rotary_factor", 1.0)) // 2
        rope |= {"short_factor": [1.0] * size, "long_factor": [1.0 + 3 * place for place in range(size)]}
        rope |= {"short_mscale": 1.0, "long_mscale": 1.2}  # only phimoe asks for them
        rope["original_max_position_embeddings"] = config.original_max_position_embeddings = limit
    else:
        config.max_position_embeddings = limit
    config.rope_parameters = rope
