"""float16 where a device has no bfloat16, and float32 where a model's numbers do not fit into it.

The device is this machine's CPU, of which only that is pretended: what is computed is computed.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import half
from pipeline.config import load_config
from pipeline.errors import RunError
from pipeline.one_text import classify, load
from pipeline.reading import devices
from pipeline.reading.model import load_model
from pipeline.shard import make_scorer
from pipeline.target import find_model
from tests.pipeline.reading.test_quantised import write_fp8
from tests.pipeline.reading.tiny import edit_json, save_llama


@pytest.fixture(autouse=True)
def _no_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "suited_dtype", lambda device: "float16")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def large_numbers(folder: Path) -> Path:
    """A model whose activations are beyond 65,504, the largest number of float16; its weights are not."""
    save_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "mlp" in name:
            tensors[name] = tensors[name] * 100
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_model_that_fits_is_scored_in_float16(tmp_path: Path) -> None:
    """It says so; its scores are those of float32 but for rounding."""
    folder = save_llama(tmp_path / "model")
    loaded = load(str(folder))
    assert (loaded.ref.dtype, loaded.model.dtype) == ("float16", torch.float16)
    assert loaded.ref.dtype_note == "scored in float16, which suits cpu here"
    words = {"labels": (" good", " bad"), "template": "{text}\nMood:"}
    near = classify(loaded, "Well done!", **words)["sum"]
    exact = classify(load(str(folder), dtype="float32"), "Well done!", **words)["sum"]
    assert 0 < (near - exact).abs().max() < 0.05


def test_a_model_that_overflows_is_scored_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody had asked for it, so its scores are stored as those; and it is found out once."""
    folder = large_numbers(tmp_path / "model")
    asked = find_model(load_config(None, None, {"model": str(folder), "dtype": "float32"}))
    config = load_config(None, None, {"model": str(folder)})
    found = find_model(config)
    assert replace(found, dtype_note=None) == asked
    assert found.dtype_note == "scored in float32, as in float16, which suits cpu here, its numbers overflow"
    assert make_scorer(load_model(found), found).path == "tree"
    monkeypatch.setattr(half, "load_model", None)
    assert find_model(config) == found


def test_who_asks_for_float16_gets_it_or_an_error(tmp_path: Path) -> None:
    """Never another dtype than the one that was named."""
    folder = large_numbers(tmp_path / "model")
    ref = find_model(load_config(None, None, {"model": str(folder), "dtype": "float16"}))
    assert (ref.dtype, ref.dtype_note) == ("float16", None)
    with pytest.raises(RunError, match=r"no.* a finite number for a probe text \(float16\); try --dtype float32"):
        make_scorer(load_model(ref), ref)


def test_another_model_of_the_same_name_is_looked_at_anew(tmp_path: Path) -> None:
    """What is kept is kept for these weights."""
    folder = save_llama(tmp_path / "model")
    config = load_config(None, None, {"model": str(folder)})
    assert find_model(config).dtype == "float16"
    large_numbers(folder)
    assert find_model(config).dtype == "float32"


def test_a_model_in_few_bits_keeps_the_dtype_of_its_configuration(tmp_path: Path) -> None:
    """It is not the device's choice, so nothing is tried out, and what is said of it stays."""
    folder, _ = write_fp8(tmp_path / "fp8", save_llama(tmp_path / "plain"))
    edit_json(folder / "config.json", dtype="float16")
    found = find_model(load_config(None, None, {"model": str(folder)}))
    assert (found.dtype, found.quantised) == ("float16", "fp8")
    assert found.dtype_note == "its weights are quantised (fp8), and it computes in float16"


def test_a_model_in_slices_is_not_tried_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device may have no room for it."""
    monkeypatch.setattr(half, "load_model", None)
    folder = save_llama(tmp_path / "model")
    found = find_model(load_config(None, None, {"model": str(folder), "tensor_parallel": 2}))
    assert (found.dtype, found.dtype_note) == ("float16", None)
