"""Whether a model's numbers fit into float16, where that is what suits the device.

Invariant: a model is scored in one dtype, which is known before anything is planned.
"""

import gc
from dataclasses import replace
from importlib.metadata import version

from pipeline.errors import NotFinite
from pipeline.reading.devices import kind_of
from pipeline.reading.loading import load_model
from pipeline.reading.model_ref import ModelRef
from pipeline.storing.cache import cached_text
from pipeline.storing.files import hash_bytes


def needs_fit(model: ModelRef) -> bool:
    """Whether "auto" came to float16 by the device: weights in few bits have the dtype that config.json names."""
    return model.dtype == "float16" and not model.quantised


def fit_float16(model: ModelRef) -> ModelRef:
    """A model for which "auto" found float16: as it is, or in float32 where float16 overflows on the check's probe.

    Found out by loading it, and kept in the user's cache. Raises what loading and the self-check raise.
    """
    identity = (model.weights, model.adapter and model.adapter.digest, model.fix, kind_of(model.device))
    versions = version("torch"), version("transformers")
    name = f"dtype-{hash_bytes(repr((identity, versions)).encode())[:32]}"
    dtype = cached_text(name, lambda: "float16" if _is_finite(model) else "float32")
    if dtype == model.dtype:
        return replace(model, dtype_note=f"scored in float16, which suits {model.device} here")
    note = f"scored in float32, as in float16, which suits {model.device} here, its numbers overflow"
    return replace(model, dtype="float32", dtype_note=note)


def _is_finite(model: ModelRef) -> bool:
    from pipeline.shard import make_scorer  # with torch, which nothing else here needs

    try:
        make_scorer(load_model(model), model)
    except NotFinite:
        return False
    finally:
        gc.collect()  # so that the memory is free when the model is loaded to be used
    return True
