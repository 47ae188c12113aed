"""Why a family is not scored over trees, or is refused, read from transformers' code; what the self-check says is less.

Invariant: one reason, in a few words, for each model type named here; where none is, the error itself is shown.
"""

_ROWS = {
    "recurrent layers (state space, linear attention, short convolutions): branches would see each other": (
        "bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid inkling2_loop_text inkling2_text inkling_text "
        "jamba kimi_linear lara_mini lfm2 lfm2_moe lfm3 mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5 "
        "qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma rwkv xlstm "
        "zamba zamba2 zaya"
    ),
    "positions by the places in the row, no `position_ids`": (
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart trocr whisper"
    ),
    "positions are counted from the padding's id on": (
        "camembert data2vec-text roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod"
    ),
    "ALiBi, in attention code of its own": "bloom mpt",
    "attention code of its own, not through transformers' interface": (
        "big_bird falcon git gpt_neo gpt_neox_japanese megatron-bert openai-gpt rembert roformer xglm xlm"
    ),
    "each query attends to keys that an index picks": (
        "axk2 deepseek_v32 dots3_note dots3_note_text glm_moe_dsa hy_v4 minimax_m3_vl_text"
    ),
    "attends to compressed keys": "deepseek_v4",
    "attention with a mask that it makes from the values": "doge",
    "attention within chunks": "llama4 llama4_text",
    "the window is in the mask alone, not told to the attention (without a window: tree)": "phimoe qwen2_moe",
    "its configuration has a window that its code does not use": "moshi",
    "layers run several times or attend twice: what is kept of a prefix goes by layer": "diffllama dory hrm_text",
}
_NOT_SCORED = {
    "attention by random hashes": "reformer",
    "its random blocks are drawn by the text's length, so padding changes what it computes": "big_bird",
    "not causal: what comes later changes what was before": "cpmant prophetnet xlnet",
    "the text part of a multimodal model, for which transformers has no automatic class": "emu3 mllama",
    "not a language model by itself: it needs another model's keys": "gemma4_assistant gemma4_unified_assistant",
    "forwards codes of audio, not text": "musicgen musicgen_melody",
    "forwards bytes through patches of another model": "blt",
    "its vision tower needs timm and pillow": "gemma3n",
}
WHY_ROWS = {name: why for why, names in _ROWS.items() for name in names.split()}
WHY_NOT_SCORED = {name: why for why, names in _NOT_SCORED.items() for name in names.split()}
