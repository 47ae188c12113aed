"""What a GGUF's header says of rotary embeddings, in a configuration of transformers.

Its reader takes the base for some architectures, and neither scaling nor the part of a head that is rotated for any.

Invariant: a rotation that cannot be written as a configuration has it is told to be missing, or refused.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.gguf_file import SAFETENSORS

if TYPE_CHECKING:
    import numpy as np

ROPE_FACTORS = "rope_freqs.weight"
# Of Llama 3.1, 3.2 and their kin: their GGUFs have the factors that come of these, by which frequencies are divided.
_LLAMA3 = tuple(
    {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    for factor in (8.0, 32.0)
)


def head_dim(config: Any) -> int:
    """The size of a head where a configuration leaves it out."""
    return int(config.hidden_size // config.num_attention_heads)


def _rotations(config: Any) -> list[dict[str, Any]]:
    """What the configuration says of rotation: once, or for each type of layer, full attention first."""
    said = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in said.values()):
        return [said[kind] for kind in sorted(said)]
    return [said]


def write_rotation(config: Any, said: Mapping[str, Any]) -> None:
    """Base, scaling and the rotated part of a head, where transformers has left them at its defaults."""
    rotation = _rotations(config)[0]
    if rotation:
        rotation["rope_theta"] = float(said.get("rope.freq_base", 10_000.0))  # which a header leaves out
    if said.get("rope.scaling.type") == "linear" and rotation.get("rope_type") == "default":
        rotation |= {"rope_type": "linear", "factor": float(said.get("rope.scaling.factor", 1.0))}
    whole = said.get("attention.key_length") or head_dim(config)
    if "partial_rotary_factor" in rotation:  # the model's class rotates parts of heads
        rotation["partial_rotary_factor"] = said.get("rope.dimension_count", whole) / whole


def has_rotation(config: Any, key: str, value: object) -> bool:
    """Whether the configuration has what a key of the header says of rotation."""
    rotations = _rotations(config)
    rotation = rotations[0]
    if key == "rope.freq_base":
        return is_equal(rotation.get("rope_theta"), value)
    if key == "rope.freq_base_swa":
        return len(rotations) > 1 and is_equal(rotations[1].get("rope_theta"), value)
    if key == "rope.dimension_count":
        whole = getattr(config, "head_dim", None) or head_dim(config)
        return is_equal(whole * rotation.get("partial_rotary_factor", 1.0), value)
    if key == "rope.scaling.type":
        return value in ("none", rotation.get("rope_type"))
    if key == "rope.scaling.factor":
        return rotation.get("rope_type") == "linear" and is_equal(rotation.get("factor"), value)
    return False


def write_llama3(config: Any, factors: "np.ndarray[Any, Any]", where: str) -> None:
    """Llama 3.1's scaling, which a header has as a tensor: what each frequency is divided by."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotation = _rotations(config)[0]
    wanted = torch.tensor(factors).float().flatten()
    if torch.all(wanted == 1):
        return
    base = rotation["rope_theta"] ** (torch.arange(0, 2 * len(wanted), 2).float() / (2 * len(wanted)))
    for scaling in _LLAMA3:
        rotation |= {**scaling, "rope_type": "llama3"}
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        if torch.allclose(1 / (base * frequencies), wanted, rtol=1e-4):
            return
    raise InputError(f"{where}: its {ROPE_FACTORS} scales the rotation in a way that is not known here; {SAFETENSORS}")


def is_equal(found: object, value: object) -> bool:
    """Numbers up to float32, in which a header has them."""
    if isinstance(found, int | float) and isinstance(value, int | float):
        return math.isclose(found, value, rel_tol=1e-6)
    return found == value
