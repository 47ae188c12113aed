"""A real pretrained model, from its file to a finished run: SmolLM2-135M-Instruct in four bits.

All tests of the model's weights are here, so that one process holds it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.chat import find_chat
from pipeline.one_text import Loaded, generate, load
from pipeline.prompts import BUILT_IN, Prompt, make_prompt
from pipeline.reading.chat_template import ChatTemplate
from pipeline.reading.model import load_model, load_tokenizer, resolve_model
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from pipeline.shard import make_scorer
from pipeline.smollm2 import SMOLLM2
from tests.conftest import ROOT
from tests.pipeline.chat_templates import conversation
from tests.pipeline.scoring.oracle import score_slowly
from tests.real_model import real_file, save_as_safetensors

pytestmark = pytest.mark.real
SAMPLE = [json.loads(line)["text"] for line in (ROOT / "data/sample/test.jsonl").read_text("utf-8").splitlines()]
ARTICLES = SAMPLE[:4]  # one of each class
# Nats for each token of a label, between two orders of adding up in float32: torch's log_softmax alone takes 1e-5.
EXACT = 3e-5
# What the model says, and it is sense where a model of this size has any; each word is its first choice by far.
KNOWN = {
    "The capital of France is": " Paris.",
    "Shakespeare wrote the play Romeo and": " Juliet.",
    "The opposite of hot is": " cold.",
    "One, two, three, four,": " five, six, seven, eight",
}


@pytest.fixture(scope="module")
def real() -> Loaded:
    """The model as `--model smollm2` loads it, in float32 on a CPU."""
    pytest.importorskip("gguf")
    real_file()
    return load(SMOLLM2, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights and tokenizer as safetensors."""
    pytest.importorskip("gguf")
    return save_as_safetensors(tmp_path_factory.mktemp("safetensors") / "model")


def encode(real: Loaded, prompt: Prompt, texts: Sequence[str] = ARTICLES) -> list[TokenSequences]:
    return Encoder(real.tokenizer, prompt, context_tokens=real.ref.context_tokens).encode(texts)


def logprobs(scorer: Scorer, items: Sequence[TokenSequences]) -> Tensor:
    """(items, labels) float32."""
    found = torch.full((len(items), len(items[0].branches)), torch.nan)
    for batch in scorer.score(items):
        found[batch.indices] = batch.logprob
    return found


def check_close(found: Tensor, wanted: Tensor, items: Sequence[TokenSequences]) -> None:
    """Scores (items, labels) that differ by no more than float32 does over so many tokens."""
    num_tokens = torch.tensor([item.num_label_tokens for item in items])
    assert ((found.double() - wanted.double()).abs() / num_tokens).max() < EXACT


# --- the weights ----------------------------------------------------------------------------------------------------

PLACES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def name_of(tensor: str) -> str:
    """What transformers calls a tensor of the file."""
    if tensor.startswith("blk."):
        _, layer, place, _ = tensor.split(".")
        return f"model.layers.{layer}.{PLACES[place]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[tensor]


def dequantise(kind: str, data: Any) -> NDArray[np.float32]:
    """A tensor's values as the format defines them: blocks of 32, each with a scale d (and a least value m) in half.

    Q8_0: d, 32 signed bytes q; x = d q. Q4_1: d, m, 16 bytes whose lower halves are the first 16 q and upper halves the
    others; x = d q + m.
    """
    if kind == "F32":
        return np.asarray(data, np.float32)
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(data.shape[0], -1)
    blocks = rows.reshape(len(rows), -1, {"Q8_0": 34, "Q4_1": 20}[kind])
    d = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        values = d * blocks[..., 2:].view(np.int8).astype(np.float32)
    else:
        m, q = blocks[..., 2:4].copy().view(np.float16).astype(np.float32), blocks[..., 4:]
        values = d * np.concatenate([q & 15, q >> 4], axis=-1).astype(np.float32) + m
    return values.reshape(len(rows), -1)


def unpermute(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Queries and keys lie in the file with both halves of a head's rotated places side by side."""
    return weight.reshape(num_heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def test_every_weight_is_what_the_file_says(real: Loaded) -> None:
    """To the bit, by the format's own formulas; none is left out."""
    gguf = pytest.importorskip("gguf")
    state, heads = real.model.state_dict(), {"attn_q": 9, "attn_k": 3}
    seen = set()
    for tensor in gguf.GGUFReader(real_file()).tensors:
        values = dequantise(tensor.tensor_type.name, tensor.data)
        if num_heads := next((num for place, num in heads.items() if f".{place}." in tensor.name), None):
            values = unpermute(values, num_heads)
        found = state[name_of(tensor.name)]
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), values), tensor.name
        seen.add(name_of(tensor.name))
    assert state.keys() - seen == {"lm_head.weight"}
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()


def test_the_same_weights_as_safetensors_give_the_same_scores(real: Loaded, folder: Path) -> None:
    """To the bit, and so do their configuration and tokenizer, which transformers wrote and read again."""
    ref = resolve_model(folder, device="cpu")
    assert (ref.dtype, ref.context_tokens) == (real.ref.dtype, real.ref.context_tokens)
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    state, other = real.model.state_dict(), model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    scorers = make_scorer(real.model, real.ref), make_scorer(model, ref)
    for prompt in BUILT_IN.values():
        assert encode(Loaded(ref, model, tokenizer), prompt, SAMPLE) == encode(real, prompt, SAMPLE)
    items = encode(real, BUILT_IN["described"])
    assert torch.equal(*(logprobs(scorer, items) for scorer in scorers))


def test_numbers_are_cut_as_the_model_learnt_them(real: Loaded) -> None:
    """Digit by digit, which transformers' own reading of the file leaves out: blanks before them are a word by then."""
    tokens = real.tokenizer.convert_ids_to_tokens(real.tokenizer("In  2004: 1,5")["input_ids"])
    assert tokens == ["In", "ĠĠ", "2", "0", "0", "4", ":", "Ġ", "1", ",", "5"]


# --- the scores -----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_one_forward_for_each_label(real: Loaded) -> None:
    """For each built-in prompt, over transformers' own forward."""
    scorer = make_scorer(real.model, real.ref)
    assert scorer.path == "tree", scorer.path_reason
    for prompt in BUILT_IN.values():
        items = encode(real, prompt)
        check_close(logprobs(scorer, items), score_slowly(real.model, items)["logprob"], items)


def test_scores_are_those_of_the_harness_own_class(real: Loaded, folder: Path) -> None:
    """It is given each built-in prompt's strings and the safetensors; ours cut where it cuts."""
    pytest.importorskip("accelerate")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    theirs = huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    scorer = make_scorer(real.model, real.ref)
    for prompt in BUILT_IN.values():
        asked = [(prompt.template.replace("{text}", text), words) for text in ARTICLES for words in prompt.words]
        requests = [Instance("loglikelihood", {}, pair, 0, ("task", i, 1)) for i, pair in enumerate(asked)]
        wanted = [score for score, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
        items = encode(real, replace(prompt, boundary="harness"))
        check_close(logprobs(scorer, items), torch.tensor(wanted).view(len(items), -1), items)


# --- what it says ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def say(model: PreTrainedModel, ids: list[int], num_tokens: int) -> list[int]:
    """The likeliest token, again and again, each from a forward of everything before it."""
    for _ in range(num_tokens):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-num_tokens:]


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts_go_on_as_one_expects(real: Loaded, text: str) -> None:
    """Weights, rotation or vocabulary in another order would give no words."""
    ids = real.tokenizer(KNOWN[text])["input_ids"]
    assert generate(real, text, max_new_tokens=len(ids)) == text + KNOWN[text]
    assert say(real.model, real.tokenizer(text)["input_ids"], len(ids)) == ids


def test_a_chat_is_scored_as_the_conversation_that_transformers_writes(real: Loaded) -> None:
    """Its ids and the words' are those of one string; the scores those of plain forwards; and the answer is right."""
    question = make_prompt("city", "What is the capital of {text}?", ("Paris", "London", "Rome"), ("p", "l", "r"))
    chat = find_chat(ChatTemplate(real.tokenizer, day="2024-07-26"), question)
    items = encode(real, replace(question, chat=chat), ["France", "England", "Italy"])
    for country, item in zip(("France", "England", "Italy"), items, strict=True):
        messages = conversation(f"What is the capital of {country}?")
        written = real.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for words, branch in zip(question.words, item.branches, strict=True):
            ids = real.tokenizer(str(written) + words, add_special_tokens=False)["input_ids"]
            assert [*item.prompt_ids, *branch] == ids
    found = logprobs(make_scorer(real.model, real.ref), items)
    check_close(found, score_slowly(real.model, items)["logprob"], items)
    assert found.argmax(1).tolist() == [0, 1, 2]


# --- the whole command ----------------------------------------------------------------------------------------------

NUM_ITEMS = 10
# A process inherits the peak of the one that starts it, and the one of these tests is large.
MEASURE = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "flows.cli", *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(out: Path) -> tuple[str, int]:
    """The command with this model, in a process of its own: what it said, and its largest memory in bytes."""
    arguments = ["--model", SMOLLM2, "--limit", str(NUM_ITEMS), "--prompt", "answer", "--prompt", "described"]
    command = [sys.executable, "-c", MEASURE, "run", *arguments, "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, int(done.stdout.splitlines()[-1])


def test_a_run_stores_these_scores_and_again_it_takes_no_model_into_memory(real: Loaded, tmp_path: Path) -> None:
    """What is stored is what the library scores. A rerun has nothing to score, and needs less memory by the weights."""
    out = tmp_path / "out"
    _, first = run(out)
    scores = pl.read_parquet(out / "scores/scores.parquet").sort("item_id", "label_id")
    assert scores["model"].unique().to_list() == [SMOLLM2]
    for name in ("answer", "described"):
        items = encode(real, BUILT_IN[name], SAMPLE[:NUM_ITEMS])
        found = scores.filter(pl.col("prompt") == name)["logprob"].to_torch().view(len(items), -1)
        check_close(found, logprobs(make_scorer(real.model, real.ref), items), items)
    said, again = run(out)
    assert "nothing to score" in said
    assert first - again > 0.8 * sum(tensor.nbytes for tensor in real.model.parameters())
    assert pl.read_parquet(out / "scores/scores.parquet").sort("item_id", "label_id").equals(scores)
