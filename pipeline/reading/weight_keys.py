"""Whether a checkpoint and the model made of it have the same tensors: what is left over on either side is an error.

Invariant: a tensor of the files that the model does not use is one of the harmless kinds listed here, each with its
reason and, where it could matter after all, a look at its shape or values.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.architecture import is_composite
from pipeline.reading.formats import one_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_FLOAT8_OR_INTEGER = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "I32", "F4", "I16", "U16", "U32")

_LAYER = re.compile(r"(^|.*\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a safetensors header has it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> "Tensor":
        """Its values."""
        from safetensors import safe_open

        with safe_open(self.file, "pt") as file:
            tensor: Tensor = file.get_tensor(self.key)
            return tensor


def list_tensors(path: Path, files: Iterable[str], where: str) -> dict[str, Stored]:
    """What the headers of safetensors files say. Raises InputError for a file that cannot be read."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    for name in files:
        try:
            with safe_open(path / name, "np") as file:
                for key in file.keys():  # noqa: SIM118  # no dict
                    part = file.get_slice(key)
                    found[key] = Stored(path / name, key, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{where}: {name} cannot be read ({one_line(error)}); get the file again") from None
    return found


# The harmless kinds


def _always(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    return True


def _is_mask(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    """A square of True and False, or one number for what is masked; a bias has one axis."""
    return tensor.shape in ((), (1,)) or (len(tensor.shape) == 4 and tensor.shape[-1] == tensor.shape[-2])


def _is_counted(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    return tensor.dtype.startswith(("I", "U"))


def _is_as_computed(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    """Frequencies that the model computes itself, the same up to how precisely they were stored."""
    import torch

    if not tensor.dtype:
        return False
    computed = [buffer for name, buffer in model.named_buffers() if re.search(r"(^|[._])inv_freq$", name)]
    values = tensor.read().float()
    return any(
        values.shape == buffer.shape and torch.allclose(values, buffer.cpu().float(), rtol=0.02, atol=1e-6)
        for buffer in computed
    )


def _is_draft_layer(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    """A layer behind the last one that predicts several tokens at once: it has parts that no other layer has."""
    found = _LAYER.search(tensor.key)
    if found is None or int(found[2]) < _num_layers(model):
        return False
    parts = re.compile(re.escape(found[0]) + r"(eh_proj|enorm|hnorm|shared_head)\.")
    return any(parts.match(key) for key in stored)


def _num_layers(model: "PreTrainedModel") -> int:
    num = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    return num if isinstance(num, int) else 1 << 30


def _is_beside_text(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    """Only where the text part of a composite model was loaded: the configuration on disk says of the rest."""
    return not is_composite(model.config)


@dataclass(frozen=True, slots=True)
class Harmless:
    """A kind of tensor that does not change what a model says, where the check holds too."""

    pattern: str
    reason: str
    check: Callable[[Stored, Mapping[str, Stored], "PreTrainedModel"], bool] = _always


_OUTSIDE = r"^((?!layers\.|layer\.|h\.|blocks?\.)\w+\.)*"  # of layers: what is in those of the text is on its way
_SEES = r"vision|visual|image|img|audio|speech|video|multi_modal|multimodal|mm_|connector"
HARMLESS = (
    Harmless(r"(^|[._])inv_freq$", "rotary frequencies, which the model computes itself", _is_as_computed),
    Harmless(r"(attn|attention)\.(masked_)?bias$", "a causal mask that old checkpoints stored", _is_mask),
    Harmless(r"(^|\.)position_ids$", "0, 1, 2, ..., which old checkpoints stored", _is_counted),
    Harmless(r"(^|\.)mtp[._]", "layers that draft several tokens at once, not on the way to the next one"),
    Harmless(r"(^|\.)layers\.\d+\.", "the same as a layer behind the last", _is_draft_layer),
    Harmless(r"\.(k|v|kv|q)_scale$|\.output_scale$", "the range of a key-value cache in 8 bits, which is not used"),
    Harmless(r"(^|\.)v_head\.", "a value head of reinforcement learning, beside the way to the next token"),
    Harmless(rf"{_OUTSIDE}({_SEES})\w*\.", "the part that sees or hears, of which text has no use", _is_beside_text),
)


# The checks


def check_keys(
    model: "PreTrainedModel",
    info: Mapping[str, Any],
    stored: Mapping[str, Stored],
    where: str,
    *,
    is_quantised: bool = False,
) -> None:
    """Compare the tensors on disk with those of the loaded model; `info` is what transformers says of loading it.

    Raises InputError where the model lacks a tensor of the files, the files one of the model's, or shapes differ.
    """
    wrong = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if wrong:
        raise InputError(
            f"{where}: {len(wrong)} weights are missing or of another shape ({', '.join(wrong[:3])}), "
            "so its scores would be random; get a complete model"
        )
    unused = sorted(key for key in {*info["unexpected_keys"], *_passed_over(model, stored)})
    # A key that transformers has renamed is in no header: then its name alone must tell.
    kept = {key: stored.get(key) or Stored(Path(), key, (-1,), "") for key in unused}
    left = [key for key, tensor in kept.items() if not _is_harmless(tensor, stored, model)]
    if left:
        raise InputError(
            f"{where}: {len(left)} weights of its files have no place in a {type(model).__name__} "
            f"({', '.join(left[:3])}), so its scores would be wrong; check model_type and sizes in config.json"
        )
    _check_tied(model, where)
    if not is_quantised:
        _check_scaled(stored, where)


def _passed_over(model: "PreTrainedModel", stored: Mapping[str, Stored]) -> list[str]:
    """The tensors that transformers leaves out unasked, by patterns of the model's class."""
    patterns = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()), r"inv_freq$", r"position_ids$"]
    passed = re.compile("|".join(f"({pattern})" for pattern in patterns))
    found = (key for key in stored.keys() - model.state_dict().keys() if passed.search(key))
    # In a layer that the model has, what a pattern for whole layers matches was loaded under another name.
    return [
        key for key in found if not _is_of_its_layers(key, model) or re.search(r"(inv_freq|bias|position_ids)$", key)
    ]


def _is_of_its_layers(key: str, model: "PreTrainedModel") -> bool:
    layer = _LAYER.search(key)
    return layer is not None and int(layer[2]) < _num_layers(model)


def _is_harmless(tensor: Stored, stored: Mapping[str, Stored], model: "PreTrainedModel") -> bool:
    return any(re.search(kind.pattern, tensor.key) and kind.check(tensor, stored, model) for kind in HARMLESS)


def _check_tied(model: "PreTrainedModel", where: str) -> None:
    """Refuse two readings: a head that the configuration ties to the embeddings, and one of its own in the files."""
    expand = getattr(model, "get_expanded_tied_weights_keys", None)
    kept = getattr(model, "all_tied_weights_keys", None)
    if expand is None or kept is None:
        return
    if untied := sorted(expand(all_submodels=True).keys() - kept.keys()):
        raise InputError(
            f"{where}: config.json ties {untied[0]} to the embeddings (tie_word_embeddings), and the files have other "
            "values for it; set tie_word_embeddings to false if they are right, else take them out"
        )


def _check_scaled(stored: Mapping[str, Stored], where: str) -> None:
    """Weights of 8 bits and fewer mean nothing without their scales."""
    bare = [t for t in stored.values() if t.dtype in _FLOAT8_OR_INTEGER and len(t.shape) == 2]
    if bare:
        raise InputError(
            f"{where}: {len(bare)} weights are quantised ({bare[0].key}: {bare[0].dtype}), and config.json has no "
            "quantization_config that says how; get the whole model"
        )
