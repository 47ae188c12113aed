"""Adapters (PEFT): small weights that change those of a base model, beside it or in a folder of their own.

Invariant: an adapter is applied whole or refused; what it changes is part of the model's identity; no pickle is read.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, has_weights, hash_file
from pipeline.reading.packages import is_installed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Those that change weights, each held against PEFT's own forward; others change the input (prompt and prefix tuning),
# choose among adapters by the text, or replace attention.
WEIGHT_CHANGES = (
    "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "LN_TUNING", "HRA", "FOURIERFT", "VBLORA",
    "RANDLORA", "SHIRA", "MISS", "C3A", "TRAINABLE_TOKENS",
)  # fmt: skip
# Where the base lies and how the adapter was used do not change a score; the base's own weights are hashed.
_NO_PART_OF_IT = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
INSTALL = "pip install 'labelscore[peft]'"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on this machine; `digest` is a sha256 over its weights and what its configuration says of them."""

    path: Path
    digest: str


def is_adapter(names: Iterable[str]) -> bool:
    """Whether files of these names are an adapter without the weights of its base."""
    known = list(names)
    return ADAPTER_CONFIG in known and not has_weights(known)


def check_adapter(path: Path, where: str, names: Iterable[str]) -> None:
    """Raise InputError for an adapter that cannot be applied; imports nothing, and reads no weights."""
    config, known = read_config(path, where), list(names)
    kind, task = str(config.get("peft_type")), config.get("task_type")
    if kind not in WEIGHT_CHANGES:
        raise InputError(
            f"{where}: its adapter is of the kind {kind}, which is not applied here (those that change weights are: "
            f"{', '.join(WEIGHT_CHANGES)}); take another adapter"
        )
    if task not in (None, "CAUSAL_LM"):
        raise InputError(f"{where}: its adapter is for {task}, not for predicting the next token (CAUSAL_LM)")
    if config.get("alora_invocation_tokens"):
        raise InputError(
            f"{where}: its adapter acts only after certain tokens (alora_invocation_tokens), which is not done here"
        )
    if ADAPTER_WEIGHTS not in known:
        if "adapter_model.bin" in known:
            raise InputError(
                f"{where}: the adapter's weights are a pickle file, which can run code and is never loaded; convert "
                f"adapter_model.bin to {ADAPTER_WEIGHTS}"
            )
        raise InputError(f"{where}: {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}; get the adapter's weights")
    if not is_installed("peft"):
        raise InputError(f"{where}: it has an adapter, which takes peft to apply; {INSTALL}")


def base_of(path: Path, where: str) -> tuple[str, str | None]:
    """The name and the revision of the adapter's base model. Raises InputError where it names none."""
    config = read_config(path, where)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: {ADAPTER_CONFIG} does not name its base model; set base_model_name_or_path in it")
    return name, revision if isinstance(revision, str) and revision else None


def make_adapter(path: Path, where: str) -> Adapter:
    """The adapter and its identity."""
    said = {key: value for key, value in read_config(path, where).items() if key not in _NO_PART_OF_IT}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    total = f"{ADAPTER_CONFIG}\0{text}\n{ADAPTER_WEIGHTS}\0{hash_file(path / ADAPTER_WEIGHTS)}\n"
    return Adapter(path, hashlib.sha256(total.encode()).hexdigest())


def read_config(path: Path, where: str) -> Mapping[str, Any]:
    """What adapter_config.json says. Raises InputError where it cannot be read."""
    try:
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {ADAPTER_CONFIG} cannot be used ({one_line(error)})") from None
    return config


# Applying it


def apply_adapter(model: "PreTrainedModel", adapter: Adapter, where: str) -> "PreTrainedModel":
    """The model with the adapter in its layers, not merged. Raises InputError where not all of it finds its place."""
    from peft import PeftConfig, PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of is checked below
            config = PeftConfig.from_pretrained(str(adapter.path))
            _check_known(config, read_config(adapter.path, where), where)
            wrapped = PeftModel.from_pretrained(model, str(adapter.path), torch_device=str(model.device))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{where}: its adapter cannot be applied to its base ({one_line(error)})") from None
    _check_keys(wrapped, adapter, where)
    applied: Any = wrapped.get_base_model()
    return cast("PreTrainedModel", applied.eval())


def _check_known(config: object, said: Mapping[str, Any], where: str) -> None:
    """PEFT passes over what a newer version has written, with a warning: then the adapter would be another one."""
    known = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    if new := [key for key, value in said.items() if key not in known and value]:
        raise InputError(
            f"{where}: {ADAPTER_CONFIG} has {', '.join(new[:3])}, which this version of peft lacks; upgrade peft"
        )


def _check_keys(wrapped: Any, adapter: Adapter, where: str) -> None:
    """Every tensor of the file must be in the model, and every one of the model's adapter in the file."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    found = load_file(adapter.path / ADAPTER_WEIGHTS)
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    beside = {key: value for key, value in wrapped.state_dict().items() if key in found.keys() - expected.keys()}
    placed = expected | beside
    missing = sorted(expected.keys() - found.keys())
    lost = sorted(
        key
        for key, value in found.items()
        if key not in placed or not torch.equal(value.to(placed[key].dtype), placed[key].to(value.device))
    )
    if missing or lost:
        what = f"lacks {missing[0]}" if missing else f"has {lost[0]}, which its base has no place for"
        raise InputError(
            f"{where}: the adapter does not fit its base: it {what} ({len(missing) + len(lost)} such tensors); "
            "check base_model_name_or_path"
        )
