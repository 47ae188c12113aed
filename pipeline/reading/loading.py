"""Loading a model that was found: its weights whole and its own, with its adapter, in the dtype asked for.

Invariant: what is loaded is what was hashed; a tensor that is missing, left over or of another shape is an error.
"""

import inspect
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.reading.adapter import apply_adapter
from pipeline.reading.architecture import CHOOSE, auto_class, has_soft_cap
from pipeline.reading.formats import one_line
from pipeline.reading.gguf_file import is_gguf
from pipeline.reading.gguf_weights import count_values, load_gguf
from pipeline.reading.model_files import INDEX, is_consolidated, list_files, loaded_files
from pipeline.reading.model_ref import ModelRef
from pipeline.reading.quantised import check_dtype, ready_to_load, settle
from pipeline.reading.quiet import quiet
from pipeline.reading.weight_keys import Stored, check_keys, list_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def count_parameters(ref: ModelRef) -> int | None:
    """The number of stored weights, from the headers of the files; None where these hold several to a number.

    Raises InputError for broken files.
    """
    if ref.quantised:
        return None
    if is_gguf(ref.path):
        return count_values(ref)
    stored = list_tensors(ref.path, loaded_files(ref.path, ref.name), ref.name)
    return sum(math.prod(tensor.shape) for tensor in stored.values())


@quiet()
def load_model(ref: ModelRef) -> "PreTrainedModel":
    """The model, in eval mode, on its device, in its dtype.

    Raises InputError for weights that are broken, incomplete or more than the model has, and for an adapter that does
    not fit; RunError where memory runs out.
    """
    import torch

    try:
        model, info, stored = _load(ref)
        check_keys(model, info, stored, ref.name, is_quantised=ref.quantised is not None)
        if ref.quantised:
            check_dtype(model, ref.dtype, ref.name)
            settle(model)
        if is_gguf(ref.path):
            model = model.to(ref.device)  # type: ignore[arg-type]  # its stubs know no names of devices
        model = model.eval()  # type: ignore[no-untyped-call]
        if ref.adapter is not None:
            model = apply_adapter(model, ref.adapter, ref.name)
    except (torch.OutOfMemoryError, MemoryError):
        raise RunError(f"{ref.name}: not enough memory on {ref.device} to load it in {ref.dtype}") from None
    except LabelscoreError:
        raise
    except Exception as error:
        raise InputError(f"{ref.name}: the model in {ref.path} cannot be loaded ({one_line(error)})") from None
    _refuse_more_than_text(model, ref.name)
    keep_soft_cap(model)
    return model


def _refuse_more_than_text(model: "PreTrainedModel", where: str) -> None:
    """A multimodal model may want an image with every text."""
    needed = [
        name
        for name, parameter in list(inspect.signature(type(model).forward).parameters.items())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if wanted := [name for name in needed if name != "input_ids"]:
        raise InputError(f"{where}: a {type(model).__name__} takes no text alone (it wants {wanted[0]}); {CHOOSE}")


def _load(ref: ModelRef) -> "tuple[PreTrainedModel, dict[str, Any], dict[str, Stored]]":
    """The model without its adapter, what transformers says of loading it, and what the files hold."""
    import torch
    from transformers import AutoConfig

    if is_gguf(ref.path):
        return *load_gguf(ref), {}
    files = loaded_files(ref.path, ref.name)
    config = AutoConfig.from_pretrained(ref.path, local_files_only=True, trust_remote_code=ref.trust_remote_code)
    options = {
        "dtype": getattr(torch, ref.weights_dtype),
        "device_map": {"": ref.device},  # tensor by tensor: beside them the host holds no whole model
        "ignore_mismatched_sizes": True,  # so that they are named in one line
        "output_loading_info": True,
    }
    if is_consolidated(files):
        from pipeline.reading.consolidated import read_tensors

        stored = list_tensors(ref.path, files, ref.name)
        tensors = read_tensors(stored, config, ref.name)
        model, info = _model_class(config).from_pretrained(None, config=config, state_dict=tensors, **options)
        return model, info, {key: tensor for key, tensor in stored.items() if key in tensors}
    with _alone(ref.path, files) as path:
        model, info = auto_class(config).from_pretrained(
            path,
            config=ready_to_load(config),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=ref.trust_remote_code,
            **options,
        )
    return model, info, list_tensors(ref.path, files, ref.name)


def _model_class(config: Any) -> Any:
    return auto_class(config)._model_mapping[type(config)]


@contextmanager
def _alone(path: Path, files: Sequence[str]) -> Iterator[Path]:
    """The model's folder, or one of links to its files alone where transformers would load others of it unasked.

    It applies an adapter that lies beside (where peft is there), and prefers the pieces of a distributed checkpoint.
    """
    names = list_files(path)
    if not any(name == "adapter_config.json" or name.startswith("shard-") for name in names):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / path.resolve().name
        view.mkdir()
        taken = {*files, INDEX, "config.json", "generation_config.json"}
        for name in names:
            if name in taken or name.endswith(".py"):
                (view / name).symlink_to((path / name).resolve())
        yield view


def keep_soft_cap(model: "PreTrainedModel") -> None:
    """Have attention with a soft cap (Gemma 2) done as written: transformers 5.17 takes a kernel that leaves it out."""
    if has_soft_cap(model.config):
        model.set_attn_implementation("eager")
