"""The configuration that a GGUF's header describes.

transformers reads most of it and passes over the rest without a word: rotary scaling, a head's size, the size of what
is rotated. Here each value that the header has for the model is looked for in the configuration and written into it.

Invariant: a value that has no place in the configuration is refused by its name: it would be another model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.gguf_file import SAFETENSORS, metadata, read_alone, read_header
from pipeline.reading.gguf_rotation import (
    ROPE_FACTORS,
    has_rotation,
    head_dim,
    is_equal,
    write_llama3,
    write_rotation,
)
from pipeline.reading.quiet import quiet

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedConfig

# What a key of the header is called in a configuration; the first name that a configuration has counts.
_NAMES = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "vocab_size": ("vocab_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
}
# Those that a configuration takes as they are; sizes that transformers has read otherwise would move what was derived.
_WRITTEN = ("head_dim", "rms_norm_eps", "layer_norm_eps", "attn_logit_softcapping", "final_logit_softcapping")
# What a configuration means by leaving it out.
_IMPLIED: dict[str, Callable[[Any], int]] = {
    "head_dim": head_dim,
    "n_inner": lambda config: 4 * config.hidden_size,
}
# Without one of these transformers takes the default of the model's class, which is another model's.
_NEEDED = (
    ("context_length",),
    ("block_count",),
    ("attention.head_count",),
    ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
)
# What says nothing of how tokens become logits, or nothing but what is so anyway.
_MEANS_NOTHING = {
    "attention.causal": (True,),
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.original_context_length": None,
    "rope.scaling.attn_factor": (1.0,),
    "tensor_data_layout": ("Meta AI original pth",),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
}
# The largest Gemma 2 and 3, whose attention is scaled by hidden size over heads; nothing in the header says so.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}


@quiet()
def read_config(file: Path, where: str) -> "PreTrainedConfig":
    """The configuration that the header describes. Raises InputError for what transformers does not read."""
    from transformers import AutoConfig

    header = read_header(file, where)
    said = metadata(header)
    architecture = str(said.get("general.architecture"))
    try:
        with read_alone(file) as place:
            config: PreTrainedConfig = AutoConfig.from_pretrained(**place)
    except Exception as error:
        raise InputError(
            f"{where}: transformers does not read a GGUF of the architecture {architecture} ({one_line(error)}); "
            f"{SAFETENSORS}"
        ) from None
    of_model = {key.removeprefix(f"{architecture}."): said[key] for key in said if key.startswith(f"{architecture}.")}
    if _reads_all(architecture):
        if of_model.get("rope.scaling.type", "none") != "none":  # but for this one
            raise _left_out(where, f"{architecture}.rope.scaling.type", of_model["rope.scaling.type"])
        return config
    if lacking := [keys[0] for keys in _NEEDED if not any(key in of_model for key in keys)]:
        raise InputError(f"{where}: its header does not say {architecture}.{lacking[0]}; get the file again")
    try:
        _complete(config, architecture, of_model, header, where)
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:  # whatever its values are
        raise InputError(f"{where}: its header cannot be used ({one_line(error)}); {SAFETENSORS}") from None
    return config


def _complete(config: Any, architecture: str, of_model: Mapping[str, Any], header: "GGUFReader", where: str) -> None:
    """Write in what transformers passes over; refuse what cannot be written."""
    factors = next((tensor.data for tensor in header.tensors if tensor.name == ROPE_FACTORS), None)
    if factors is not None:
        write_llama3(config, factors, where)
    _write_scale(config, architecture, of_model)
    write_rotation(config, of_model)
    for key, value in sorted(of_model.items()):  # rotation after the head's size
        if not _is_in(config, key, value):
            raise _left_out(where, f"{architecture}.{key}", value)
    if getattr(config, "sliding_window", None) and "attention.sliding_window" not in of_model:
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raise InputError(f"{where}: its header does not say {architecture}.attention.sliding_window; {SAFETENSORS}")
        config.sliding_window = None  # a default of the class, and so is the next
    if (getattr(config, "pad_token_id", None) or 0) >= config.vocab_size:
        config.pad_token_id = None


def _left_out(where: str, key: str, value: object) -> InputError:
    return InputError(
        f"{where}: its header says {key} = {value}, which transformers passes over, so that it would be another model; "
        f"{SAFETENSORS}"
    )


def _reads_all(architecture: str) -> bool:
    """Whether transformers has a function for it that takes every value of the header, as it has for newer ones."""
    try:
        from transformers.integrations import gguf
    except ImportError:
        return False
    return architecture in getattr(gguf, "GGUF_CONFIG_ARCHS", ())


def _is_in(config: Any, key: str, value: object) -> bool:
    """Whether the configuration has this value; it is written into it where it takes it."""
    if key in _MEANS_NOTHING:
        meaningless = _MEANS_NOTHING[key]
        return meaningless is None or value in meaningless
    if key.startswith("rope."):
        return has_rotation(config, key, value)
    name = next((name for name in _NAMES.get(key, ()) if hasattr(config, name) or name in _IMPLIED), None)
    if name is None:
        return False
    found = getattr(config, name, None)
    if is_equal(_IMPLIED[name](config) if found is None and name in _IMPLIED else found, value):
        return True
    takes_it = name in _WRITTEN and hasattr(config, name)
    if name == "sliding_window":  # of no layer, or of all
        takes_it = getattr(config, "layer_types", None) is None
    if takes_it:
        setattr(config, name, value or None)
    return takes_it


def _write_scale(config: Any, architecture: str, said: Mapping[str, Any]) -> None:
    """What queries are scaled by, in Gemma 2 and 3, which follows from the model's size."""
    if architecture in _SCALED_BY_WIDTH and hasattr(config, "query_pre_attn_scalar"):
        by_width = said.get("block_count") == _SCALED_BY_WIDTH[architecture]
        width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = width if by_width else config.head_dim
