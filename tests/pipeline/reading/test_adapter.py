"""Adapters: applied whole and part of a model's identity, or refused; never passed over."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from flows.scoring_actor import find_here
from pipeline.checks import check_run
from pipeline.config import load_config
from pipeline.errors import InputError, RunError
from pipeline.prompts import BUILT_IN
from pipeline.reading.model import load_model, load_tokenizer, resolve_model
from pipeline.scoring.fp8 import Fp8Linear
from pipeline.shard import load_to_score, make_scorer
from pipeline.storing.fingerprint import make_fingerprint
from tests.hub_server import HubServer, connect, folder_files
from tests.pipeline.reading.tiny import (
    edit_json,
    edit_weights,
    load_whole,
    refuse,
    save_llama,
    save_tokenizer,
    score_both,
)

peft = pytest.importorskip("peft")
TARGETS = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4),
    "DoRA": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4, use_dora=True),
    "LoRA with a head of its own": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=TARGETS, r=4, modules_to_save=["lm_head"]
    ),
    "LoHa": lambda: peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4),
    "IA3": lambda: peft.IA3Config(task_type="CAUSAL_LM", target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "VeRA": lambda: peft.VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4),
    "layer norms": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
    "tokens": lambda: peft.TrainableTokensConfig(
        task_type="CAUSAL_LM", target_modules=["embed_tokens"], token_indices=[5, 9, 30]
    ),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter of it beside."""
    folder = tmp_path_factory.mktemp("kept")
    save_adapter(save_llama(folder / "base"), folder / "adapter")
    return folder


@pytest.fixture
def both(kept: Path, tmp_path: Path) -> Path:
    """A folder with both, which a test may damage; the adapter names its base by a relative path."""
    folder = Path(shutil.copytree(kept, tmp_path / "both"))
    edit_json(folder / "adapter" / "adapter_config.json", base_model_name_or_path="../base")
    return folder


def save_adapter(base: Path, folder: Path, config: Any = None) -> Path:
    """An adapter with random weights that move scores."""
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config or KINDS["LoRA"]())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return folder


def plain(base: Path, adapter: Path) -> Any:
    """The oracle: PEFT's own model."""
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()


def digest_of(path: Path) -> str:
    ref = resolve_model(path, device="cpu")
    known = {"weights": ref.weights, "tokenizer": ref.tokenizer, "dtype": ref.dtype, "max_text_tokens": None}
    return make_fingerprint(BUILT_IN["answer"], **known, adapter=ref.adapter.digest if ref.adapter else None).digest  # type: ignore[arg-type]


# Applied


@pytest.fixture
def two_lanes() -> Iterator[None]:
    """With two threads there are two lanes, each with a copy of the modules over the same weights."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_with_an_adapter_are_those_of_peft(kind: str, kept: Path, tmp_path: Path, two_lanes: None) -> None:
    """On the tree, in two lanes, for each kind of adapter; and they are not the base's."""
    adapter = save_adapter(kept / "base", tmp_path / "adapter", KINDS[kind]())
    model = load_whole(adapter)
    assert score_both(model, plain(kept / "base", adapter)) < 2e-4
    assert score_both(model, AutoModelForCausalLM.from_pretrained(kept / "base")) > 1e-2


def test_an_adapter_stays_as_it_is_over_a_base_in_fp8(kept: Path, tmp_path: Path) -> None:
    """Its scores are near those of PEFT; a kind that reads its base's weights is one line."""
    adapter, with_weights = (save_adapter(kept / "base", tmp_path / kind, KINDS[kind]()) for kind in ("LoRA", "DoRA"))
    ref = resolve_model(adapter, device="cpu", dtype="fp8")
    model = load_to_score(ref)
    assert any(isinstance(module, Fp8Linear) for module in model.modules())
    apart = score_both(model, plain(kept / "base", adapter))
    assert 1e-3 < apart < score_both(model, AutoModelForCausalLM.from_pretrained(kept / "base")) / 3
    other = resolve_model(with_weights, device="cpu", dtype="fp8")
    with pytest.raises(RunError, match=r"forward fails .* has no attribute 'weight'.*; use another dtype"):
        make_scorer(load_to_score(other), other)


def test_an_adapter_beside_full_weights_is_applied_and_hashed(both: Path) -> None:
    """transformers applies it where peft is installed, and passes over it elsewhere: the same folder, two scores."""
    base = both / "base"
    before, digest = resolve_model(base, device="cpu"), digest_of(base)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(both / "adapter" / name, base)
    ref = resolve_model(base, device="cpu")
    assert (ref.weights, ref.adapter is None) == (before.weights, False)
    assert digest_of(base) != digest
    clean = shutil.copytree(base, both / "clean", ignore=shutil.ignore_patterns("adapter*"))
    oracle = plain(clean, both / "adapter")
    assert score_both(load_model(ref), oracle) < 2e-4


# Identity


def test_an_adapter_is_known_by_its_weights_and_not_by_where_its_base_lies(both: Path, tmp_path: Path) -> None:
    """Base, adapter and what the adapter's configuration says of its weights; not paths."""
    adapter, digest = both / "adapter", digest_of(both / "adapter")
    assert digest != digest_of(both / "base")
    moved = Path(shutil.copytree(both, tmp_path / "moved"))
    edit_json(moved / "adapter" / "adapter_config.json", base_model_name_or_path=str(moved / "base"), revision="v2")
    assert digest_of(moved / "adapter") == digest
    ref = resolve_model(adapter, device="cpu")
    assert (ref.name, ref.revision[:7], ref.path) == ("adapter", "sha256:", (both / "base").resolve())
    for damage in (
        lambda: edit_json(adapter / "adapter_config.json", lora_alpha=99),
        lambda: edit_weights(adapter, lambda t: t.update({min(t): t[min(t)] + 1}), "adapter_model.safetensors"),
        lambda: edit_weights(both / "base", lambda t: t.update({min(t): t[min(t)] + 1})),
    ):
        damage()
        assert digest_of(adapter) != digest
        digest = digest_of(adapter)


def test_the_tokenizer_is_the_adapters_own_or_the_bases(both: Path) -> None:
    """Who trained with new tokens saved a tokenizer; half of one is no tokenizer."""
    adapter, base = both / "adapter", resolve_model(both / "base", device="cpu")
    ref = resolve_model(adapter, device="cpu")
    assert (ref.tokenizer, len(load_tokenizer(ref))) == (base.tokenizer, 260)
    save_tokenizer(adapter)
    edit_json(adapter / "tokenizer_config.json", bos_token="<eos>")
    own = resolve_model(adapter, device="cpu")
    assert own.tokenizer != base.tokenizer
    assert (load_tokenizer(own).bos_token, load_tokenizer(ref).bos_token) == ("<eos>", "<bos>")
    (adapter / "tokenizer.json").unlink()
    refuse(adapter, "tokenizer_config.json belongs to a tokenizer that is not there")


# Its base


def test_a_base_that_is_missing_or_in_two_places_or_no_base_is_told(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be read in two ways is refused."""
    config = both / "adapter" / "adapter_config.json"
    for name, reason in (
        ("/nowhere/base", "no such directory .the base of the adapter in"),
        (None, "does not name its base model"),
        (str(both / "adapter"), "is an adapter or has one"),
        ("../base/config.json", "its base ../base/config.json is a file; an adapter is applied to safetensors"),
    ):
        edit_json(config, base_model_name_or_path=name)
        refuse(both / "adapter", reason)
    edit_json(config, base_model_name_or_path="base")
    shutil.copytree(both / "base", both / "adapter" / "base")
    monkeypatch.chdir(both)
    refuse(both / "adapter", "its base base is in two places; write an absolute path")
    shutil.rmtree(both / "adapter" / "base")
    load_whole(both / "adapter")


def test_an_adapter_and_its_base_come_from_the_hub(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each from its own repository, the base at the revision that the adapter names; no file that is not needed."""
    base, adapter = both / "base", both / "adapter"
    with HubServer() as hub:
        connect(monkeypatch, hub, tmp_path / "cache")
        old = hub.put("model", "some/base", folder_files(base))
        first = shutil.copytree(base, tmp_path / "first")
        edit_weights(base, lambda t: t["model.norm.weight"].mul_(2))
        new = hub.put("model", "some/base", folder_files(base))
        edit_json(adapter / "adapter_config.json", base_model_name_or_path="some/base", revision=old)
        files = folder_files(adapter) | {"training_args.bin": b"x", "optimizer.pt": b"x"}
        commit = hub.put("model", "some/adapter", files)
        ref = resolve_model("some/adapter", device="cpu")
        assert ref.adapter is not None
        assert (ref.name, ref.revision, ref.weights) == ("some/adapter", commit, f"some/base@{old}")
        assert not [name for name in ("training_args.bin", "optimizer.pt") if (ref.adapter.path / name).exists()]
        load_tokenizer(ref)
        assert score_both(load_model(ref), plain(first, adapter)) < 2e-4
        elsewhere = replace(ref, path=tmp_path / "gone")
        assert find_here(elsewhere) == ref
        edit_json(adapter / "adapter_config.json", revision=None)
        local = resolve_model(adapter, device="cpu")
        assert local.weights == f"some/base@{new}"
        hub.put("model", "some/other", folder_files(adapter) | {"adapter_config.json": b"{}"})
        with pytest.raises(InputError, match="of the kind None"):
            resolve_model("some/other", device="cpu")
        edit_json(adapter / "adapter_config.json", base_model_name_or_path="/home/somebody/base")
        hub.put("model", "some/third", folder_files(adapter))
        with pytest.raises(InputError, match=r"no such model on the hub .the base of the adapter some/third"):
            resolve_model("some/third", device="cpu")


# What is refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of the kind PROMPT_TUNING, which is not applied"),
        ({"peft_type": "PREFIX_TUNING"}, "of the kind PREFIX_TUNING, which is not applied"),
        ({"peft_type": None}, "of the kind None"),
        ({"task_type": "SEQ_CLS"}, "for SEQ_CLS, not for predicting the next token"),
        ({"alora_invocation_tokens": [5]}, "acts only after certain tokens"),
        ({"some_new_idea": 3}, "some_new_idea, which this version of peft lacks"),
        ({"r": 8}, "cannot be applied to its base"),
        ({"target_modules": ["nothing_like_it"]}, "cannot be applied to its base"),
        ({"target_modules": ["q_proj"]}, "the adapter does not fit its base: it has .* no place for"),
        ({"target_modules": [*TARGETS, "up_proj"]}, "the adapter does not fit its base: it lacks"),
    ],
)
def test_an_adapter_that_cannot_be_applied_whole_is_refused(both: Path, changes: dict[str, Any], reason: str) -> None:
    """One that changes the input, is for another task, or does not fit; beside its base and in a folder of its own."""
    edit_json(both / "adapter" / "adapter_config.json", **changes)
    refuse(both / "adapter", reason)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(both / "adapter" / name, both / "base")
    refuse(both / "base", reason)


def test_a_pickled_adapter_and_one_without_weights_are_refused(both: Path) -> None:
    """A pickle can run code."""
    weights = both / "adapter" / "adapter_model.safetensors"
    weights.unlink()
    refuse(both / "adapter", "adapter_config.json without adapter_model.safetensors")
    (both / "adapter" / "adapter_model.bin").write_bytes(b"x")
    refuse(both / "adapter", "the adapter's weights are a pickle file")
    (both / "adapter" / "adapter_config.json").write_text("[]")
    refuse(both / "adapter", "adapter_config.json cannot be used")


def test_tensors_of_another_model_are_refused(both: Path) -> None:
    """One too many and one too few."""
    name = "adapter_model.safetensors"
    whole = load_file(both / "adapter" / name)
    edit_weights(both / "adapter", lambda t: t.pop(min(t)), name)
    refuse(both / "adapter", "it lacks base_model.model")
    more = whole | {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}
    edit_weights(both / "adapter", lambda t: t.update(more), name)
    refuse(both / "adapter", r"it has base_model.model.model.layers.9.* no place for")


class NoPeft:
    """Python as it is where peft is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "peft":
            raise ModuleNotFoundError(f"No module named {name!r}")


def test_without_peft_an_adapter_is_refused_and_never_passed_over(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and beside full weights, which would load without it; a run says so before torch is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPeft(), *sys.meta_path])
    reason = r"it has an adapter, which takes peft to apply; pip install 'labelscore\[peft\]'"
    refuse(both / "adapter", reason)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(both / "adapter" / name, both / "base")
    refuse(both / "base", reason)
    with pytest.raises(InputError, match=reason):
        check_run(load_config(None, None, {"model": str(both / "base")}))


def test_no_adapter_leaves_fingerprints_as_they_were(both: Path) -> None:
    """Weights of an adapter without a configuration are nothing to transformers, with peft or without."""
    digest = digest_of(both / "base")
    shutil.copy(both / "adapter" / "adapter_model.safetensors", both / "base")
    assert digest_of(both / "base") == digest
    assert json.loads((both / "base" / "config.json").read_text())["model_type"] == "llama"
