"""Weights under the names that Meta and Mistral give them (consolidated.safetensors), as transformers has them.

Invariant: a tensor is renamed and, where rotary positions are told otherwise, its rows put in another order; no value
changes.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.weight_keys import Stored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

_TYPES = ("llama", "mistral", "ministral")  # whose layers are those of the names below, and nothing more
_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_KEY = re.compile(r"(layers\.\d+\.)?(.+)\.(weight|bias)")


def read_tensors(stored: Mapping[str, Stored], config: "PreTrainedConfig", where: str) -> "dict[str, Tensor]":
    """All tensors under transformers' names. Raises InputError for names that are neither's."""
    if "tok_embeddings.weight" not in stored:
        return {key: tensor.read() for key, tensor in stored.items()}
    if config.model_type not in _TYPES:
        raise InputError(
            f"{where}: consolidated.safetensors has Mistral's or Meta's own names, which are known here for "
            f"{', '.join(_TYPES)} and not for {config.model_type}; get the weights as model.safetensors"
        )
    found: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if key == "rope.freqs":  # computed from the configuration
            continue
        match = _KEY.fullmatch(key)
        name = _NAMES.get(match[2]) if match else None
        if match is None or name is None:
            raise InputError(f"{where}: {tensor.file.name} has {key}, which is not known here; get model.safetensors")
        layer = f"model.{match[1]}" if match[1] else ""
        num_heads = {"attention.wq": config.num_attention_heads, "attention.wk": _num_key_heads(config)}.get(match[2])
        values = tensor.read()
        found[f"{layer}{name}.{match[3]}"] = values if num_heads is None else _reorder(values, num_heads)
    return found


def _num_key_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _reorder(values: "Tensor", num_heads: int) -> "Tensor":
    """Rows of a query or key projection: there each pair that is turned stands together, here its halves apart."""
    rest = values.shape[1:]
    pairs = values.reshape(num_heads, len(values) // num_heads // 2, 2, *rest)  # (heads, pairs, 2, ...)
    return pairs.transpose(1, 2).reshape(values.shape).contiguous()
