"""What kind of model a configuration describes, and how much of a text it takes.

Invariant: what transformers would load as a causal language model though it attends both ways, or with a random head,
is refused; a flag of the configuration counts only where it means something for its model type.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.gguf_config import read_config
from pipeline.reading.gguf_file import is_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# torch and transformers are imported where they are used: a rerun that has nothing to score should not wait for them.

UNLIMITED_CONTEXT = 1 << 30  # state-space and ALiBi models name no limit
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
CHOOSE = "choose a decoder-only model such as google/gemma-2b"
# Model types that can be encoders beside those that have a masked head: elsewhere `is_decoder: false` says nothing
# (GPTNeoXConfig inherits it).
_ALSO_ENCODERS = ("bert-generation", "trocr")
# What makes attention go both ways, by the configuration's key and value.
_BOTH_WAYS = {"is_causal": (False,), "causal": (False,), "attn_type": ("bi",), "use_bidirectional_attention": (True,)}


def load_config(path: Path, name: str, trust_remote_code: bool) -> "PreTrainedConfig":
    """The configuration of a causal language model, from config.json in its folder or a GGUF's header.

    Raises InputError for one that is broken or of another model.
    """
    from transformers import AutoConfig

    if is_gguf(path):
        described = read_config(path, name)
        _check_causal(described, name, trust_remote_code)
        return described
    try:
        known = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError("it is not a JSON object")
        if "auto_map" in known and not trust_remote_code and "model_type" not in known:
            raise ValueError("it needs code of its own")
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        if "trust_remote_code" in str(error) or "code of its own" in str(error):
            raise InputError(
                f"{name}: this model runs code of its own; if you trust it, set trust_remote_code = true"
            ) from None
        raise InputError(f"{name}: config.json cannot be used ({one_line(error)})") from None
    if known.get("transformers_weights"):
        raise InputError(
            f"{name}: config.json names a file of weights of its own (transformers_weights), which is not followed; "
            "take the key out, and name the file model.safetensors"
        )
    _check_causal(config, name, trust_remote_code)
    return config


def context_tokens(config: "PreTrainedConfig") -> int:
    """How many tokens the model takes, UNLIMITED_CONTEXT where it names no limit."""
    text = config.get_text_config()
    found = (getattr(text, key, None) for key in CONTEXT_KEYS)
    return next((value for value in found if isinstance(value, int) and value > 0), UNLIMITED_CONTEXT)


def has_soft_cap(config: "PreTrainedConfig") -> bool:
    """Whether attention caps its logits (Gemma 2)."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def has_long_rotation(config: "PreTrainedConfig") -> bool:
    """Whether texts beyond some length are rotated by other factors (longrope, as Phi-3 has it)."""
    said = getattr(config.get_text_config(decoder=True), "rope_parameters", None)
    kinds = [said, *said.values()] if isinstance(said, dict) else []  # a model may have some for each type of layer
    return any(isinstance(each, dict) and each.get("rope_type") == "longrope" for each in kinds)


def auto_class(config: "PreTrainedConfig") -> Any:
    """The class of transformers that loads such a model: multimodal ones are loaded whole where they must be."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    is_multimodal = config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and _is_multimodal(config)
    return transformers.AutoModelForMultimodalLM if is_multimodal else transformers.AutoModelForCausalLM


def is_composite(config: "PreTrainedConfig") -> bool:
    """Whether the configuration holds that of a text model among others."""
    return config.get_text_config(decoder=True) is not config


# What is refused


def _check_causal(config: "PreTrainedConfig", name: str, trust_remote_code: bool) -> None:
    """Refuse what transformers would load as a causal LM with a random head or bidirectional attention."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if (
        config.model_type not in CAUSAL
        and trust_remote_code
        and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    ):
        return
    architectures = getattr(config, "architectures", None) or []
    what = ", ".join(architectures) or config.model_type
    if _is_encoder(config):
        raise InputError(
            f"{name}: {what} is not a causal language model (it does not predict the next token); {CHOOSE}"
        )
    if config.model_type not in CAUSAL and not _is_multimodal(config):
        if is_composite(config):
            raise InputError(f"{name}: {what} is a multimodal model that gives text no scores of its own; {CHOOSE}")
        if any(each.endswith("ForCausalLM") for each in architectures):  # Emu3's text part, and Mllama's
            raise InputError(
                f"{name}: {what} is a causal language model, but none that transformers loads by its configuration "
                f"(model_type {config.model_type}); give the whole model that it is a part of, or {CHOOSE}"
            )
        raise InputError(
            f"{name}: {what} is not a causal language model (it does not predict the next token); {CHOOSE}"
        )
    if architectures and not _with_head().intersection(architectures):
        raise InputError(
            f"{name}: {what} is not a causal language model (it does not predict the next token); {CHOOSE}"
        )
    text = config.get_text_config(decoder=True)
    for key, values in _BOTH_WAYS.items():
        if any(getattr(each, key, None) in values for each in (config, text)):
            raise InputError(
                f"{name}: {what} attends both ways (its configuration says {key}), so it sees what it "
                f"should predict; {CHOOSE}"
            )


def _is_encoder(config: "PreTrainedConfig") -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    can_encode = config.model_type in MASKED or config.model_type in _ALSO_ENCODERS
    is_no_decoder = can_encode and getattr(config, "is_decoder", True) is False
    return is_no_decoder or bool(getattr(config, "is_encoder_decoder", False))


def _is_multimodal(config: "PreTrainedConfig") -> bool:
    """Whether transformers has a class for it that reads text with images or sounds and predicts text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as MULTIMODAL

    return config.model_type in MULTIMODAL and is_composite(config)


def _with_head() -> set[str]:
    """The names of all classes that have a head for the next token."""
    from transformers.models.auto import modeling_auto

    listed = (
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values(),
    )
    return {name for value in listed for name in ([value] if isinstance(value, str) else value)}
