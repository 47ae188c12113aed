"""Finding and loading models: what is loaded is exactly what was named, and what is no causal model is refused."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
)

from pipeline.errors import InputError
from pipeline.reading.model import UNLIMITED_CONTEXT, count_parameters, load_model, load_tokenizer, resolve_model
from tests.hub_server import save_tiny_gemma
from tests.pipeline.reading.tiny import edit_json, load_whole, refuse


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_gemma(tmp_path_factory.mktemp("models") / "tiny-gemma")


@pytest.fixture
def gemma(original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "tiny-gemma"))


# What a model is


def test_a_directory_is_named_and_pinned_by_its_contents(gemma: Path, tmp_path: Path) -> None:
    """The path does not matter, the weights, the configuration and the tokenizer do."""
    ref = resolve_model(gemma, device="cpu")
    assert (ref.name, ref.device, ref.dtype, ref.context_tokens) == ("tiny-gemma", "cpu", "float32", 256)
    assert ref.revision == f"sha256:{ref.weights[:16]}"
    moved = resolve_model(shutil.copytree(gemma, tmp_path / "elsewhere"), device="cpu")
    assert (moved.weights, moved.tokenizer) == (ref.weights, ref.tokenizer)
    other = resolve_model(save_tiny_gemma(tmp_path / "other", seed=1), device="cpu")
    assert other.weights != ref.weights
    assert other.tokenizer == ref.tokenizer


def test_files_that_do_not_change_scores_do_not_change_the_identity(gemma: Path) -> None:
    """A README or a pickle beside the weights is nothing to the model; a chat template belongs to the tokenizer."""
    ref = resolve_model(gemma, device="cpu")
    (gemma / "README.md").write_text("hello")
    (gemma / "training_args.bin").write_bytes(b"x")
    assert resolve_model(gemma, device="cpu") == ref
    (gemma / "chat_template.jinja").write_text("{{ messages }}")
    changed = resolve_model(gemma, device="cpu")
    assert changed.weights == ref.weights
    assert changed.tokenizer != ref.tokenizer
    edit_json(gemma / "config.json", rms_norm_eps=1e-3)
    assert resolve_model(gemma, device="cpu").weights != ref.weights


def test_loading_gives_the_weights_in_eval_mode_and_the_dtype_asked_for(gemma: Path) -> None:
    """Every tensor as saved; nothing is left to chance."""
    ref = resolve_model(gemma, device="cpu")
    model = load_model(ref)
    assert (model.training, model.dtype, model.device.type) == (False, torch.float32, "cpu")
    assert load_tokenizer(ref)("a").input_ids
    expected = AutoModelForCausalLM.from_pretrained(gemma).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    half = load_model(resolve_model(gemma, device="cpu", dtype="bfloat16"))
    assert half.dtype == torch.bfloat16


def test_sharded_weights_are_one_model(gemma: Path) -> None:
    """An index and many files, as large models come."""
    model = AutoModelForCausalLM.from_pretrained(gemma)
    (gemma / "model.safetensors").unlink()
    model.save_pretrained(gemma, max_shard_size="10KB")
    assert len(list(gemma.glob("*.safetensors"))) > 1
    ref = resolve_model(gemma, device="cpu")
    loaded = load_model(ref)
    assert count_parameters(ref) == loaded.num_parameters()
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in loaded.state_dict().items())
    shard = min(gemma.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert resolve_model(gemma, device="cpu").weights != ref.weights
    (gemma / "model.safetensors.index.json").unlink()
    with pytest.raises(
        InputError, match=r"is a piece of its weights, and model\.safetensors\.index\.json, .* is missing"
    ):
        resolve_model(gemma, device="cpu")


def test_the_context_is_read_from_whatever_the_architecture_calls_it(gemma: Path) -> None:
    """n_positions for GPT-2; state-space models have no limit."""
    small = {"vocab_size": 300, "n_embd": 8, "n_layer": 1, "n_head": 1}
    for config, expected in (
        (GPT2Config(n_positions=77, architectures=["GPT2LMHeadModel"], **small), 77),
        (
            MambaConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, architectures=["MambaForCausalLM"]),
            UNLIMITED_CONTEXT,
        ),
    ):
        config.save_pretrained(gemma)
        assert resolve_model(gemma, device="cpu").context_tokens == expected


# What is refused


def test_a_path_that_is_no_model_is_told(gemma: Path, tmp_path: Path) -> None:
    """Missing, a file, empty, without weights, without a tokenizer."""
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "missing", "no such file or directory; give a directory with a config.json")
    refuse(gemma / "config.json", "is a file, and no GGUF")
    refuse(tmp_path / "empty", "no config.json")
    tokenizers = [f for f in gemma.iterdir() if "token" in f.name]
    kept = {f: f.read_bytes() for f in [*tokenizers, gemma / "model.safetensors"]}
    for file in tokenizers:
        file.unlink()
    refuse(gemma, "no tokenizer files")
    for file, data in kept.items():
        file.write_bytes(data)
    (gemma / "model.safetensors").unlink()
    refuse(gemma, "no model.safetensors")
    with pytest.raises(InputError, match="a path has no revisions"):
        resolve_model(gemma, revision="main")


class Boom:
    """Unpickling this leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_loaded(gemma: Path, tmp_path: Path) -> None:
    """Not as the only weights, and not beside safetensors."""
    mark = tmp_path / "mark"
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl"):
        (gemma / name).write_bytes(pickle.dumps(Boom(mark)))
    load_whole(gemma)
    (gemma / "model.safetensors").unlink()
    refuse(gemma, "pickle files, which can run code and are never loaded; convert them to safetensors")
    assert not mark.exists()


def test_an_encoder_and_a_bare_backbone_are_no_causal_models(gemma: Path) -> None:
    """transformers would load both, the one with attention both ways, the other with a random head."""
    config = BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(gemma)
    refuse(gemma, "BertForMaskedLM is not a causal language model")
    edit_json(gemma / "config.json", architectures=["BertLMHeadModel"])
    refuse(gemma, "not a causal language model")
    edit_json(gemma / "config.json", model_type="gemma", architectures=["GemmaModel"])
    refuse(gemma, "GemmaModel is not a causal language model")
    edit_json(gemma / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])
    refuse(gemma, "not a causal language model")


def test_weights_that_are_broken_or_incomplete_are_told(gemma: Path) -> None:
    """A model with one random layer scores nonsense without a word: that must not happen."""
    whole, ref = (gemma / "model.safetensors").read_bytes(), resolve_model(gemma, device="cpu")
    for damaged in (b"", b"no safetensors", whole[: len(whole) // 2], whole[:50]):
        (gemma / "model.safetensors").write_bytes(damaged)
        for early in (lambda: resolve_model(gemma, device="cpu"), lambda: count_parameters(ref)):
            with pytest.raises(InputError, match=r"model\.safetensors cannot be read .*; get the file again"):
                early()
        with pytest.raises(InputError, match="cannot be loaded"):
            load_model(ref)
    (gemma / "model.safetensors").write_bytes(whole)
    edit_json(gemma / "config.json", num_hidden_layers=2)
    refuse(gemma, "9 weights are missing or of another shape")
    edit_json(gemma / "config.json", num_hidden_layers=1, intermediate_size=64)
    refuse(gemma, "3 weights are missing or of another shape")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model_type": "no-such-thing"}', '{"model_type": 5}', "\x00"]
)
def test_a_configuration_that_is_none_is_told(gemma: Path, content: str) -> None:
    """With the file that holds it."""
    (gemma / "config.json").write_text(content)
    refuse(gemma, "config.json cannot be used")


def test_a_model_with_code_of_its_own_is_refused_unless_asked_for(gemma: Path, tmp_path: Path) -> None:
    """The code does not run, and the way to allow it is named."""
    mark = tmp_path / "mark"
    (gemma / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: ...\nclass M: ...\n")
    edit_json(
        gemma / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    )
    refuse(gemma, "set trust_remote_code = true")
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_tokenizer_that_is_broken_is_told(gemma: Path, content: str) -> None:
    """Before the weights are read."""
    (gemma / "tokenizer.json").write_text(content)
    refuse(gemma, "the tokenizer in .* cannot be loaded")


def test_a_tokenizer_without_a_fast_form_is_refused(gemma: Path) -> None:
    """Character offsets, which the seam between prompt and label needs, come from fast tokenizers only."""
    (gemma / "tokenizer.json").unlink()
    (gemma / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (gemma / "merges.txt").write_text("#version\n")
    (gemma / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    refuse(gemma, "the tokenizer has no fast form")


@pytest.mark.parametrize(
    "name", ["x" * 300, "~nobody-of-this-name/model", "a\0b", "..", "a b", "https://example.org/x"]
)
def test_names_that_are_neither_paths_nor_ids_are_told(name: str) -> None:
    """Whatever somebody types."""
    with pytest.raises(InputError):
        resolve_model(name, device="cpu")


def test_unknown_devices_and_dtypes_are_refused_with_the_known_ones(gemma: Path) -> None:
    """One line each."""
    with pytest.raises(InputError, match="unknown device 'tpu'; use auto, cpu, cuda"):
        resolve_model(gemma, device="tpu")
    with pytest.raises(InputError, match="unknown dtype 'int4'; use one of auto, float32, bfloat16, float16"):
        resolve_model(gemma, device="cpu", dtype="int4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused(gemma: Path) -> None:
    """And auto is the CPU in float32."""
    with pytest.raises(InputError, match="finds no such device here, but cpu alone"):
        resolve_model(gemma, device="cuda")
    ref = resolve_model(gemma)
    assert (ref.device, ref.dtype) == ("cpu", "float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_auto_is_bfloat16_there(gemma: Path) -> None:
    """Weights are on the GPU after loading."""
    ref = resolve_model(gemma)
    assert (ref.device, ref.dtype) == ("cuda", "bfloat16")
    assert load_model(ref).device.type == "cuda"


def test_gpt2_loads_with_its_tied_head(gemma: Path) -> None:
    """Tied weights are not missing weights."""
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(gemma)
    model = load_model(resolve_model(gemma, device="cpu"))
    assert type(model).__name__ == "GPT2LMHeadModel"


def test_a_soft_cap_on_attention_is_kept(gemma: Path) -> None:
    """Gemma 2 runs as it is written: the fused kernel that transformers 5.17 would take leaves the soft cap out."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Gemma2ForCausalLM(Gemma2Config(vocab_size=300, num_key_value_heads=1, head_dim=8, **sizes)).save_pretrained(gemma)
    assert load_model(resolve_model(gemma, device="cpu")).config._attn_implementation == "eager"


def test_loading_prints_nothing(gemma: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither bars nor reports."""
    load_whole(gemma)
    assert "".join(capfd.readouterr()) == ""
