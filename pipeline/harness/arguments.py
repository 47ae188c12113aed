"""What the harness' `model_args` say of the model, under the names that they have for its class `hf`.

Invariant: an argument means what it means there, or is refused by name.
"""

import logging
import os

from pipeline.errors import InputError
from pipeline.half import fit_float16, needs_fit
from pipeline.reading.architecture import load_config
from pipeline.reading.model import ModelRef, resolve_model

NAME = "labelscore"
LOGGER = f"lm_eval.{NAME}"  # shown as the harness shows its own lines
_KNOWN = (
    "pretrained", "revision", "dtype", "trust_remote_code", "max_length", "add_bos_token", "prefix_token_id",
    "batch_tokens",
)  # fmt: skip


def check_arguments(pretrained: str | None, numbers: dict[str, object], unknown: dict[str, object]) -> None:
    """Raises InputError for what this class does not know, for no model, and where several processes were started.

    `numbers` are those that must be whole and 1 or more, or left out.
    """
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise InputError(f"model_args {name}={value}: give a whole number of 1 or more, or leave it out")
    if unknown:
        raise InputError(f"--model {NAME} has no model_args {', '.join(unknown)}; it knows {', '.join(_KNOWN)}")
    if not pretrained:
        raise InputError(f"--model {NAME} needs a model: --model_args pretrained=ID or pretrained=DIR")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise InputError(f"--model {NAME} is one process; start it without torchrun or accelerate launch")


def find_model(name: str, revision: str, dtype: str, device: str | None, trust_remote_code: bool) -> ModelRef:
    """The model; "auto" is the dtype that its configuration names, as the harness has it, where that can be had."""
    device = {None: "auto", "cuda:0": "auto"}.get(device, device) or "auto"  # the command line says cuda:0 unasked
    own = None if revision == "main" else revision
    ref = resolve_model(
        name, revision=own, device=device, dtype=str(dtype).removeprefix("torch."), trust_remote_code=trust_remote_code
    )
    if dtype != "auto":
        return ref
    config = load_config(ref.path, ref.name, trust_remote_code)
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    if stored not in ("float32", "bfloat16", "float16"):
        if stored != "None":
            logging.getLogger(LOGGER).warning("%s is stored in %s and scored in %s", ref.name, stored, ref.dtype)
        return fit_float16(ref) if needs_fit(ref) else ref
    return resolve_model(name, revision=own, device=device, dtype=stored, trust_remote_code=trust_remote_code)
