"""Tiny random models and tokenizers, made on the spot: nothing is downloaded, and no scores mean anything."""

from collections.abc import Callable
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    NemotronConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    StableLmConfig,
)

from pipeline.reading.model import keep_soft_cap

VOCABULARY = 113
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BASE = {**_SIZES, **_COMMON, "max_position_embeddings": 256}
_GROUPED = {**_BASE, "num_key_value_heads": 2, "head_dim": 8}
_ONE_KEY_HEAD = {**_GROUPED, "num_key_value_heads": 1}
_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

TREE_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma": lambda: GemmaConfig(**_ONE_KEY_HEAD),
    "gemma2": lambda: Gemma2Config(
        **_GROUPED, sliding_window=9, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, sliding_window=9, layer_types=_LAYERS),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=7),
    "gpt2": lambda: GPT2Config(**_COMMON, n_embd=32, n_layer=3, n_head=4, n_positions=256),
    "gpt_neox": lambda: GPTNeoXConfig(**_BASE),
    "opt": lambda: OPTConfig(
        **_COMMON,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
    ),
    "phi": lambda: PhiConfig(**_BASE),
    "gpt_oss": lambda: GptOssConfig(
        **_GROUPED, sliding_window=9, layer_types=_LAYERS, num_local_experts=4, num_experts_per_tok=2
    ),
    "nemotron": lambda: NemotronConfig(**_GROUPED),
    "stablelm": lambda: StableLmConfig(**_BASE, num_key_value_heads=2),
}
ROWS_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "mamba": lambda: MambaConfig(**_COMMON, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bloom": lambda: BloomConfig(**_COMMON, hidden_size=32, n_layer=2, n_head=4),
    "gpt_neo": lambda: GPTNeoConfig(
        **_COMMON,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=6,
        max_position_embeddings=256,
    ),
    "falcon": lambda: FalconConfig(**_COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
}


@cache
def tiny_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model whose scores differ by whole nats from token to token, so that a wrong mask shows."""
    # At 5 rounding alone moves Mamba's scores by 3e-4 between float32 and float64, at 2 by 7e-6.
    return loud_model(tiny_config(name), factor=2 if name == "mamba" else 5).to(dtype)


def tiny_config(name: str, **sizes: int) -> PretrainedConfig:
    """The configuration of a tiny model, with other sizes where it has them."""
    config = (TREE_CONFIGS | ROWS_CONFIGS)[name]()
    for size, value in sizes.items():
        if hasattr(config, size):
            setattr(config, size, value)
    return config


def loud_model(config: PretrainedConfig, factor: int = 5, seed: int = 0) -> PreTrainedModel:
    """A random model in float32 with weights so many times as large as usual."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name_of, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
            elif name_of.endswith("sinks"):
                parameter.normal_()
    keep_soft_cap(model)  # as it is done for what is loaded
    return model


_TEXT = [
    "The council of the city voted on Monday to rebuild the old bridge over the river.",
    "Shares of the maker of chips fell 12% after its forecast, analysts said.",
    "Classify the following news article: World, Sports, Business or Sci/Tech.\nArticle:\nTopic: Science",
    "The team won 3-2 in the last minute; its coach said that he was very happy.",
    "Researchers found water on a distant planet, the journal of science reports. naïve café: 数学",
]


def _wrap(tokenizer: Tokenizer, *, bos: bool, unk: bool = False) -> PreTrainedTokenizerFast:
    if bos:
        ids = [("<bos>", tokenizer.token_to_id("<bos>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=ids
        )
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"} | ({"unk_token": "<unk>"} if unk else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding with words split as GPT-2 does; adds no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<bos>", "<eos>", "<turn>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 3, trainer)
    return _wrap(tokenizer, bos=False)


def _spaces_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding over whole strings with blanks written as ▁, as Gemma does; adds BOS."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<bos>", "<eos>", "<unk>", "<turn>"], show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT * 3, trainer)
    tokenizer.pre_tokenizer = None  # merges may now cross words, as far as any were learnt
    return _wrap(tokenizer, bos=True, unk=True)


def _dummy_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding that puts a ▁ before every string, as Llama 2 does; adds BOS."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<bos>", "<eos>", "<unk>", "<turn>"], show_progress=False
    )
    tokenizer.train_from_iterator([word for text in _TEXT for word in text.split()] * 3, trainer)
    return _wrap(tokenizer, bos=True, unk=True)


def _unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram over ▁words; the tokens of one string need not begin those of a longer one. Adds BOS."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<pad>", "<bos>", "<eos>", "<unk>", "<turn>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 3, trainer)
    return _wrap(tokenizer, bos=True, unk=True)


TOKENIZERS = {
    "bytes": _bytes_tokenizer,
    "spaces": _spaces_tokenizer,
    "dummy": _dummy_tokenizer,
    "unigram": _unigram_tokenizer,
}


@cache
def tiny_tokenizer(name: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[name]()
