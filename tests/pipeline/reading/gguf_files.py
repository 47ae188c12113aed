"""GGUF files for the tests, written with gguf's own writer as llama.cpp's converter lays models out.

What its converter does beside renaming tensors (its `convert_hf_to_gguf.py`): rows of queries and keys of Llamas with
the halves of a head interleaved, one added to the norms of Gemmas, GPT-2's matrices turned.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

NORMAL, CONTROL, DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6  # kinds of tokens
Header = Mapping[str, Any]


def write_gguf(
    file: Path,
    model: PreTrainedModel | None,
    tokenizer: Path,
    architecture: str,
    *,
    header: Header | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    pre: str = "gpt-2",
    kind: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """A model, with the tokenizer of a tokenizer.json, in one file.

    `header`: values over those of the configuration, without the architecture's name; None leaves one out. `tensors`:
    further ones, by GGUF's names. `kind`: what matrices are quantised to.
    """
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    described = {} if model is None else describe(model.config, architecture)
    for key, value in {**described, **(header or {})}.items():
        if value is not None:
            _add(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    add_tokenizer(writer, tokenizer, pre)
    for name, tensor in ({} if model is None else rename(model, architecture)).items() | (tensors or {}).items():
        values = tensor.detach().float().contiguous().numpy()
        quantised = kind is not None and values.ndim == 2 and values.shape[1] % 32 == 0
        data = gguf.quants.quantize(values, kind) if quantised and kind is not None else values
        writer.add_tensor(name, data, raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def describe(config: Any, architecture: str) -> dict[str, Any]:
    """What llama.cpp's converter writes of such a configuration."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    norm = {"gpt2": "layer_norm_epsilon", "stablelm": "layer_norm_eps", "starcoder2": "norm_epsilon"}.get(architecture)
    root = "norm_eps" if architecture == "lfm2" else "rms_norm_eps"
    said = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "attention.head_count": config.num_attention_heads,
        f"attention.layer_norm{'' if norm else '_rms'}_epsilon": getattr(config, norm or root),
    }
    if architecture == "gpt2":
        return said
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    said |= {
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        "vocab_size": config.vocab_size,
    }
    if architecture in ("qwen3", "gemma2", "gemma3"):
        said |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if architecture == "lfm2":
        heads = [config.num_key_value_heads * (kind == "full_attention") for kind in config.layer_types]
        said |= {"attention.head_count_kv": heads, "shortconv.l_cache": config.conv_L_cache}
    if architecture in ("gemma2", "gemma3"):
        del said["rope.dimension_count"], said["vocab_size"]
        said["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        said |= {cap: float(getattr(config, cap)) for cap in caps}
    return said


def rename(model: PreTrainedModel, architecture: str) -> dict[str, Tensor]:
    """The tensors by GGUF's names, laid out as there; a head that is tied is left out."""
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    lay_out = _LAYOUTS.get(architecture, lambda name, tensor, config: tensor)
    found = {}
    for key, tensor in model.state_dict().items():
        if key in (getattr(model, "all_tied_weights_keys", None) or {}):
            continue
        stem, _, suffix = key.rpartition(".")
        name = f"{names.get_name(stem)}.{suffix}"
        found[name] = lay_out(name, tensor, model.config)
    return found


def _interleave(name: str, rows: Tensor, config: Any) -> Tensor:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    num = next((num for part, num in heads.items() if f".{part}." in name), None)
    return rows if num is None else rows.unflatten(0, (num, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add_one(name: str, tensor: Tensor, config: Any) -> Tensor:
    return tensor + 1 if name.endswith("norm.weight") else tensor


def _squeeze(name: str, tensor: Tensor, config: Any) -> Tensor:
    return tensor.squeeze(1) if name.endswith("shortconv.conv.weight") else tensor


def _turn(name: str, tensor: Tensor, config: Any) -> Tensor:
    turned = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return tensor.T if name.endswith(turned) else tensor


_LAYOUTS: dict[str, Callable[[str, Tensor, Any], Tensor]] = {
    "llama": _interleave,
    "gemma2": _add_one,
    "gemma3": _add_one,
    "gpt2": _turn,
    "lfm2": _squeeze,
}


def add_tokenizer(writer: gguf.GGUFWriter, file: Path, pre: str) -> None:
    """The vocabulary of a tokenizer.json: byte-level, or of sentencepiece with scores in the order of its merges."""
    said = json.loads(file.read_text(encoding="utf-8"))
    model, added = said["model"], {token["id"]: token for token in said["added_tokens"]}
    tokens = {number: token for token, number in model["vocab"].items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    numbers = range(max(tokens) + 1)
    is_pieces = bool(model.get("byte_fallback"))
    kinds = [_kind(tokens.get(number), added.get(number), is_pieces) for number in numbers]
    writer.add_tokenizer_model("llama" if is_pieces else "gpt2")
    writer.add_tokenizer_pre(pre)
    # What a text holds is written as it is there: runs of blanks, in the vocabulary of Gemma 2 and 3.
    texts = {n: token.replace("\u2581", " ") if kinds[n] == DEFINED else token for n, token in tokens.items()}
    writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in numbers])
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not is_pieces:
        writer.add_token_merges(merges)
        return
    places: dict[str, int] = {}
    for place, merge in enumerate(merges):
        places.setdefault(merge.replace(" ", ""), place)
    writer.add_token_scores([-float(places.get(tokens.get(n, ""), len(merges) + n)) for n in numbers])


def with_merges(file: Path) -> Path:
    """The byte-level tokenizer.json with words, some of digits: 264 ids."""
    said = json.loads(file.read_text(encoding="utf-8"))
    for merged in ("Ġ t", "1 2", "Ġ Ġ", "Ġt h"):
        said["model"]["vocab"][merged.replace(" ", "")] = len(said["model"]["vocab"])
        said["model"]["merges"].append(merged.split())
    file.write_text(json.dumps(said), encoding="utf-8")
    return file


def _kind(token: str | None, added: Mapping[str, Any] | None, is_pieces: bool) -> int:
    if added is not None:
        return CONTROL if added["special"] else DEFINED
    if token is None:
        return UNUSED
    return BYTE if is_pieces and len(token) == 6 and token.startswith("<0x") else NORMAL


def random_values(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32))
