"""The weights of a GGUF, through transformers' own reader: every one in its place, as plain numbers of a dtype.

Invariant: each tensor of the file is in the model. The reader says nothing of those that it leaves out; that shows in
the number of values, as none of the model's own is missing or of another shape.
"""

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.gguf_config import read_config
from pipeline.reading.gguf_file import SAFETENSORS, metadata, read_alone, read_header
from pipeline.reading.gguf_rotation import ROPE_FACTORS
from pipeline.reading.model_ref import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = re.compile(r"^blk\.(\d+)\.")


def load_gguf(ref: ModelRef) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """The model, dequantised into the dtype of `ref`, and what transformers says of loading it.

    Raises InputError where transformers leaves out a tensor of the file.
    """
    import torch
    import transformers

    config = read_config(ref.path, ref.name)
    options: dict[str, Any] = {
        "dtype": getattr(torch, ref.weights_dtype),
        "ignore_mismatched_sizes": True,  # the caller names them in one line
        "output_loading_info": True,
    }
    if kind := getattr(transformers, "GgufConfig", None):  # newer versions can keep the blocks, and score otherwise
        options["quantization_config"] = kind(dequantize=True)
    with read_alone(ref.path) as place:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(**place, config=config, **options)
    model, info = loaded
    # Plain numbers by now: copies of the model must not take it for one in blocks.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if not info["missing_keys"] and not info["mismatched_keys"]:
        _check_all_used(model, ref)
    return model, info


def count_values(ref: ModelRef) -> int:
    """The number of weights, from the header."""
    return sum(_num_values(tensor) for tensor in read_header(ref.path, ref.name).tensors)


def _check_all_used(model: "PreTrainedModel", ref: ModelRef) -> None:
    header = read_header(ref.path, ref.name)
    num_layers = next((value for key, value in metadata(header).items() if key.endswith(".block_count")), 0)
    tensors = list(_of_layers(header.tensors, model, num_layers))
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state = model.state_dict()
    in_file, in_model = (
        sum(map(_num_values, tensors)),
        sum(tensor.numel() for key, tensor in state.items() if key not in tied),
    )
    if in_file != in_model:
        raise InputError(
            f"{ref.name}: its file has {in_file:,} weights and a {type(model).__name__} {in_model:,}: transformers "
            f"leaves some out{_named(tensors, model, ref)}, so its scores would be wrong; {SAFETENSORS}"
        )


def _of_layers(tensors: Iterable[Any], model: "PreTrainedModel", num_layers: int) -> Iterable[Any]:
    """Without the factors of rotation, which are in the configuration, and layers that draft.

    Those lie behind the last one of the model, and the header counts them among its `num_layers`.
    """
    drafts = range(model.config.get_text_config().num_hidden_layers, num_layers)
    for tensor in tensors:
        layer = _LAYER.match(tensor.name)
        if tensor.name != ROPE_FACTORS and (layer is None or int(layer[1]) not in drafts):
            yield tensor


def _num_values(tensor: Any) -> int:
    return math.prod(int(size) for size in tensor.shape)


def _named(tensors: Iterable[Any], model: "PreTrainedModel", ref: ModelRef) -> str:
    """The first of those that transformers has no name for, for a person to look at."""
    from transformers import modeling_gguf_pytorch_utils as untyped

    reader: Any = untyped

    try:
        with read_alone(ref.path):
            known = reader.get_gguf_hf_weights_map(model, reader.TensorProcessor())
    except Exception:  # an architecture with a table of another kind
        return ""
    left = [tensor.name for tensor in tensors if tensor.name not in known]
    return f" ({', '.join(left[:3])})" if left else ""
