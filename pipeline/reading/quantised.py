"""Checkpoints whose weights are kept in few bits, as their configuration says how.

Invariant: transformers loads them, with the package of the method; without it the model is refused before a weight is
fetched. The dtype that such a model is told to have is the one that it computes in, and any other is an error.
"""

import copy
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.devices import DTYPES
from pipeline.reading.packages import is_installed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# The packages that transformers needs for a method: the module, and what pip calls it where that is something else.
PACKAGES: dict[str, dict[str, str]] = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "fp8": {},
    "mxfp4": {},
    "torchao": {"torchao": "torchao"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "auto-round": {"auto_round": "auto-round"},
}


def find_method(config: "PreTrainedConfig", name: str) -> str | None:
    """How the weights are quantised; None where they are not.

    Raises InputError for a method that is not known here, or whose package is missing.
    """
    said = _said(config)
    if said is None:
        return None
    method = str(
        said.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in said or "load_in_8bit" in said else "")
    )
    method = method.removesuffix("_4bit").removesuffix("_8bit")
    if method not in PACKAGES:
        raise InputError(
            f"{name}: its weights are quantised by '{method}', and those of {', '.join(PACKAGES)} can be loaded; use "
            "the model as it was before, or another form of it"
        )
    if missing := [package for module, package in PACKAGES[method].items() if not is_installed(module)]:
        raise InputError(
            f"{name}: its weights are quantised by {method}, which needs a package that is not installed: pip install "
            f"{' '.join(missing)}"
        )
    return method


def _said(config: "PreTrainedConfig") -> dict[str, Any] | None:
    """What the configuration, or that of its text model, says of it."""
    for part in (config, config.get_text_config(decoder=True)):
        said = getattr(part, "quantization_config", None)
        if said is not None:
            return dict(said if isinstance(said, dict) else said.to_dict())
    return None


def own_dtype(config: "PreTrainedConfig") -> str | None:
    """The dtype that the configuration names; None where it is none of ours."""
    name = str(getattr(config.get_text_config(decoder=True), "dtype", None)).removeprefix("torch.")
    return name if name in DTYPES and name != "auto" else None


def ready_to_load(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """The configuration to load with: weights of compressed-tensors are widened while they are loaded.

    Otherwise that is done in the first forward, and anew in that of each copy.
    """
    said = _said(config)
    if said is None or said.get("quant_method") != "compressed-tensors":
        return config
    changed = copy.deepcopy(config)
    for part in (changed, changed.get_text_config(decoder=True)):
        if getattr(part, "quantization_config", None) is not None:
            part.quantization_config = {**said, "run_compressed": False}
    return changed


def settle(model: "PreTrainedModel") -> None:
    """Have 8-bit layers of bitsandbytes take their scales from their weights, which copies of the model share.

    The first forward would do that, and leave none for the copies.
    """
    for module in model.modules():
        if hasattr(module, "init_8bit_state") and getattr(module.weight, "CB", None) is not None:
            module.init_8bit_state()  # type: ignore[operator]


def check_dtype(model: "PreTrainedModel", dtype: str, where: str) -> None:
    """Raise InputError where the loaded model computes in another dtype than was asked for."""
    own = str(model.dtype).removeprefix("torch.")
    if own != dtype:
        raise InputError(f"{where}: its quantised weights compute in {own}, not in {dtype}; use --dtype {own} or auto")
