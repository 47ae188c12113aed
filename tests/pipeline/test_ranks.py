"""Models in slices: two processes with a half each score as one with the whole."""

import os
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pipeline import ranks
from pipeline.errors import InputError, RunError
from pipeline.rank import ORPHANED
from pipeline.ranks import LOOPBACK
from pipeline.reading.model import load_model, resolve_model
from pipeline.reading.sharded import TYPES, check_slices
from pipeline.scoring.memory import attempt
from pipeline.scoring.scorer import Scorer
from pipeline.sharding import ScoringSpec, Shard
from tests.conftest import ROOT
from tests.pipeline.reading.tiny import edit_json, save_llama, save_tokenizer
from tests.pipeline.sliced import WAYS, look

NUM_RANKS = 2
_SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_ONE_KEY_HEAD = {**_SIZES, "num_key_value_heads": 1}
_BIASES = {"attention_bias": True, "mlp_bias": True}
CONFIGS: dict[str, PretrainedConfig] = {
    "gemma": GemmaConfig(**_ONE_KEY_HEAD),  # the shape of Gemma 2B
    "gemma2": Gemma2Config(**_SIZES, sliding_window=9, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3_text": Gemma3TextConfig(
        **_ONE_KEY_HEAD,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "llama": LlamaConfig(**_SIZES),
    "llama, tied, with biases": LlamaConfig(
        **{**_SIZES, "num_key_value_heads": 4}, **_BIASES, tie_word_embeddings=True
    ),
    "mistral": MistralConfig(**_SIZES, sliding_window=7),
    "qwen2": Qwen2Config(**_SIZES),
    "qwen3": Qwen3Config(**_SIZES),
}
CASES = [*((name, "float32") for name in CONFIGS), ("llama", "bfloat16"), ("gemma", "bfloat16")]


def save(name: str, folder: Path) -> Path:
    """A random model whose scores differ by whole nats, and whose vectors are no zeros or ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(save_tokenizer(folder))
    return folder


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[dict[str, Any], list[Any]]]:
    """What the whole of each model gives in this process, and both halves in two others."""
    place = tmp_path_factory.mktemp("ranks")
    models = {case: f"{place / case[0]}:{case[1]}" for case in CASES}
    for name in CONFIGS:
        save(name, place / name)
    (meeting := place / "meeting").mkdir()
    command, given = [sys.executable, "-m", "tests.pipeline.sliced"], [str(NUM_RANKS), str(meeting), *models.values()]
    ranks = [
        subprocess.Popen([*command, str(rank), *given], env=os.environ | LOOPBACK, cwd=ROOT)
        for rank in range(NUM_RANKS)
    ]
    whole = {}
    for name, dtype in CASES:
        model = load_model(resolve_model(place / name, device="cpu", dtype=dtype))
        held = {key: parameter.numel() for key, parameter in model.named_parameters()}
        whole[name, dtype] = look(Scorer(model)) | {"held": held}
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    halves = [torch.load(meeting / f"{rank}.pt") for rank in range(NUM_RANKS)]
    assert attempt(torch.empty, 2**55) is None
    for half in halves:  # where another rank would be left behind
        assert half["out of memory"].startswith("out of memory with a slice of the model; use more of them")
    return {case: (whole[case], [half[models[case]] for half in halves]) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_slices_score_as_the_whole_model(
    case: tuple[str, str], looks: dict[tuple[str, str], tuple[dict[str, Any], list[Any]]]
) -> None:
    """Both ways, and to the bit the same on both ranks; few bits are checked in float32, too, as in a whole model."""
    whole, halves = looks[case]
    bound = 2e-5 if case[1] == "float32" else 0.1
    for way in WAYS:
        for half in halves:
            assert (half["scores"][way] - whole["scores"][way]).abs().max() <= bound
        assert halves[0]["scores"][way].equal(halves[1]["scores"][way])
    assert whole["scores"]["tree"].std() > 1  # so that the bound means something
    for half in halves:
        assert [half[key] for key in ("path", "remark")] == ["tree", None]
        assert half["in_float32"] == whole["in_float32"] == (case[1] == "bfloat16")


@pytest.mark.parametrize("case", CASES[: len(CONFIGS)], ids=" ".join)
def test_a_rank_holds_no_more_than_its_slice(
    case: tuple[str, str], looks: dict[tuple[str, str], tuple[dict[str, Any], list[Any]]]
) -> None:
    """Half of every matrix; whole are vectors, and the keys and values that all heads share."""
    whole, halves = looks[case]
    shares_keys = CONFIGS[case[0]].num_key_value_heads == 1
    for name, size in whole["held"].items():
        is_whole = "norm" in name or name.endswith(("o_proj.bias", "down_proj.bias"))
        is_whole |= shares_keys and name.endswith(("k_proj.weight", "v_proj.weight"))
        # transformers 5.18 leaves embeddings whole that have a head of their own beside them.
        is_either = name == "model.embed_tokens.weight" and "lm_head.weight" in whole["held"]
        expected = {size} if is_whole else {size, size // 2} if is_either else {size // 2}
        assert {half["held"][name] for half in halves} <= expected, name


def test_every_type_that_is_taken_is_compared() -> None:
    """What is not compared here is refused."""
    assert {config.model_type for config in CONFIGS.values()} == set(TYPES)


@pytest.mark.parametrize(
    ("changes", "num_ranks", "words"),
    [
        ({}, 3, "4 attention heads with 2 key-value heads cannot be cut into 3 slices"),
        ({}, 4, "4 attention heads with 2 key-value heads cannot be cut into 4 slices"),
        ({"num_key_value_heads": 1, "vocab_size": 301}, 2, "its vocab_size 301 cannot be cut into 2 slices"),
        ({"model_type": "stablelm"}, 2, "models of the type stablelm are not loaded in slices"),
        ({"quantization_config": {"quant_method": "fp8"}}, 2, "quantised weights are not loaded in slices"),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path: Path, changes: dict[str, Any], num_ranks: int, words: str) -> None:
    """In one line, before a weight is read."""
    ref = resolve_model(save_llama(tmp_path / "model"), device="cpu")
    check_slices(ref, 2)
    for device in ("cuda:1", "mps", "xpu"):
        with pytest.raises(InputError, match=f"device {device}: slices are on the first 2 GPUs of CUDA, or on CPUs"):
            check_slices(replace(ref, device=device), 2)
    with pytest.raises(InputError, match="--dtype fp8 is for models on one device; leave it or --tensor-parallel out"):
        check_slices(replace(ref, dtype="fp8"), 2)
    edit_json(ref.path / "config.json", **changes)
    with pytest.raises(InputError, match=words):
        check_slices(ref, num_ranks)


def test_a_rank_ends_with_the_process_that_started_it() -> None:
    """Its pipe closes when that one is gone, however it went."""
    ours, theirs = Pipe()
    with theirs:
        command = [sys.executable, "-m", "pipeline.rank", str(theirs.fileno())]
        rank = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    ours.close()
    assert rank.wait(60) == ORPHANED


STAND_IN = """
import sys, time
from multiprocessing.connection import Connection
from pipeline.errors import RunError
from pipeline.ranks import Answer, Failure, Score
pipe = Connection(int(sys.argv[1]))
rank = pipe.recv().rank
pipe.send(Answer(None))
while not isinstance(pipe.recv(), Score):
    pass
if rank == 0:
    pipe.send(Failure(RunError("the disk is full"), is_alone=True))
time.sleep(600)
"""


def test_a_group_ends_where_one_rank_waits_for_another_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes one tells that it failed, and the other one never answers: nothing waits for it."""

    def start(rank: int, spec: ScoringSpec) -> tuple["subprocess.Popen[bytes]", Any]:
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-c", STAND_IN, str(theirs.fileno())]
            return subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT), ours

    monkeypatch.setattr(ranks, "_start", start)
    ref = resolve_model(save_llama(tmp_path / "model"), device="cpu")
    group = ranks.GroupScorer(ScoringSpec(ref, (), None, False, None, 2))
    processes = [process for process, _ in group._ranks]
    shard = Shard("answer 1/1", "answer", tmp_path / "none.parquet", 0, 1)
    with pytest.raises(RunError, match="the disk is full"):
        group.score(shard, lambda num: None, lambda: False)
    group.drain()
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(ranks.RankDied, match="ended when one of them failed"):
        group.score(shard, lambda num: None, lambda: False)
    group.close()
