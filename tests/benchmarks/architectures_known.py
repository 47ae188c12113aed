"""What the names of settings do not tell about shrinking a family, and which families are no decoders by themselves.

Invariant: settings only; each family's departure from the rules of `architectures_shrink.py` stands on a line.
"""

from typing import Any

# Bidirectional unless told otherwise; their causal LM class is the one that is told.
_STANDALONE = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert reformer roberta "
    "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod"
)
STANDALONE = frozenset(_STANDALONE.split())
# With a sliding window only where a checkpoint says so.
_WINDOWED = "minimax ministral3 mixtral phi3 phi4_multimodal phimoe starcoder2"
WINDOWED = frozenset(_WINDOWED.split())
_BOTH_KINDS = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 16}
# model type -> settings
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA_2, "num_hidden_layers": 3, "attn_layer_indices": [1]},
    "blenderbot": {"encoder_layers": 3},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        **_BOTH_KINDS,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dory": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64},
    "dots3_note_text": {
        f"swa_{size}": 4 if "heads" in size else 16
        for size in ("num_attention_heads", "num_key_value_heads", "kv_lora_rank", "q_lora_rank")
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "dots1": {
        **_BOTH_KINDS,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    },
    "falcon_h1": {**_MAMBA_2, "mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 2,
    },
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        **_MAMBA_2,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {**_BOTH_KINDS, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "mellum": _BOTH_KINDS,
    "minimax_m3_vl_text": {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "minimax_m3_sparse", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "qwen4_exp_text": {
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "eos_token_id": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 512,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 100,
        "split_ngram_parts": 1,
        "make_ngram_vocab_size_divisible_by": 8,
    },
    "reformer": {"axial_pos_embds": False},
    "xlm": {"causal": True},
    "xlstm": {"qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "zamba2": {"mamba_d_state": 8, "n_mamba_heads": 8},
}
