"""The model class that lm-evaluation-harness is given: the answers of its own class, to its own questions."""

import json
import logging
import logging.handlers
import os
import queue
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bundled import demo_model_path
from pipeline.errors import InputError, RunError
from tests.conftest import ROOT

pytest.importorskip("accelerate")
huggingface = pytest.importorskip("lm_eval.models.huggingface")

from lm_eval.api.instance import Instance  # noqa: E402  # after the skip
from lm_eval.api.model import CachingLM  # noqa: E402

from pipeline.harness.lm import LabelscoreLM  # noqa: E402

MODEL = str(demo_model_path())
SENTENCES = [
    json.loads(line)["text"] for line in (ROOT / "data/sample/test.jsonl").read_text(encoding="utf-8").splitlines()[:24]
]
LONG = " ".join(SENTENCES) * 2  # more than the model takes


@cache
def ours(**arguments: Any) -> LabelscoreLM:
    return LabelscoreLM(pretrained=MODEL, device="cpu", **arguments)


@cache
def theirs(**arguments: Any) -> Any:
    return huggingface.HFLM(pretrained=MODEL, device="cpu", batch_size=4, **arguments)


def request(context: str, continuation: str, doc: int = 0, task: str = "task") -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, (task, doc, 1))


def mixed() -> list[Instance]:
    """Choices, contexts that differ, no context, what is too long, words that the model would choose, duplicates."""
    found = []
    for doc, text in enumerate(SENTENCES):
        found += [request(f"{text}\nTopic:", word, doc) for word in (" World", " Sports", " Business", " Sci/Tech")]
        found += [request(f"{text[:20]}{name} ", text[20:90], doc, "gaps") for name in ("this", "that")]
        found += [request("", sentence, doc, "pairs") for sentence in (text[:60], text[:30] + text[60:90])]
    found += [request(LONG, text[:50]) for text in SENTENCES[:3]]
    best = [ours().tokenizer.decode(best_ids(text)) for text in SENTENCES[:6]]
    found += [request(text, word) for text, word in zip(SENTENCES, best, strict=False)]
    return found + found[:30]


def best_ids(text: str) -> list[int]:
    ids = torch.tensor([ours().tok_encode(text)])
    return [int(ours().model(ids).logits[0, -1].argmax())]


@pytest.mark.parametrize(
    "arguments", [{}, {"add_bos_token": False}, {"max_length": 60}, {"prefix_token_id": 5}], ids=str
)
def test_answers_are_those_of_the_harness_own_class(arguments: dict[str, Any]) -> None:
    """Log-likelihoods to 1e-4 and which would be generated, in the order of the requests."""
    requests = mixed()
    found = ours(**arguments).loglikelihood(requests, disable_tqdm=True)
    wanted = theirs(**arguments).loglikelihood(requests, disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-4, rel=2e-6)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert {type(each) for answer in found for each in answer} == {float, bool}
    if not arguments:
        assert any(greedy for _, greedy in found)


def test_the_order_and_the_size_of_a_call_change_nothing_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backwards, and in slices of a few contexts."""
    requests = mixed()
    whole = [score for score, _ in ours().loglikelihood(requests, disable_tqdm=True)]
    back = [score for score, _ in ours().loglikelihood(requests[::-1], disable_tqdm=True)]
    assert back[::-1] == pytest.approx(whole, abs=1e-4, rel=2e-6)
    monkeypatch.setattr("pipeline.harness.lm._SLICE", 5)
    assert [score for score, _ in ours().loglikelihood(requests, disable_tqdm=True)] == pytest.approx(whole, abs=1e-4)
    assert ours().loglikelihood([], disable_tqdm=True) == []


def test_a_pair_that_stands_twice_is_scored_once() -> None:
    """And answers are the same bytes."""
    requests = [request("Topic:", word, doc) for doc in range(3) for word in (" World", " Sports", " World")]
    lm = LabelscoreLM(pretrained=MODEL, device="cpu")
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert lm._scorer.counts.items == 1
    assert len(set(found)) == 2
    assert found[::3] == found[2::3]


def test_whole_texts_are_scored_as_the_harness_does() -> None:
    """In windows of the model's length that do not overlap."""
    texts = [SENTENCES[0], LONG, "", "a"]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0, ("task", 0, 1)) for text in texts]
    found = ours().loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(theirs().loglikelihood_rolling(requests, disable_tqdm=True), abs=1e-4, rel=2e-6)


def test_text_is_generated_by_the_harness_own_class() -> None:
    """Over the same weights and tokenizer."""
    how = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, dict(how)), 0, ("task", 0, 1)) for text in SENTENCES[:5]]
    assert ours().generate_until(requests, disable_tqdm=True) == theirs().generate_until(requests, disable_tqdm=True)


def test_fp8_is_scored_and_told() -> None:
    """Near what float32 gives; text is generated by the same layers."""
    lm = LabelscoreLM(pretrained=MODEL, device="cpu", dtype="fp8")
    requests = [request(SENTENCES[0], word) for word in (" World", " Sports")]
    found, exact = (each.loglikelihood(requests, disable_tqdm=True) for each in (lm, ours()))
    assert 0 < max(abs(a - b) for (a, _), (b, _) in zip(found, exact, strict=True)) < 0.5
    usual = ours().get_model_info()
    assert lm.get_model_info() == usual | {"model_dtype": "fp8"}
    how = {"until": ["."], "max_gen_toks": 4, "do_sample": False}
    assert lm.generate_until([Instance("generate_until", {}, (SENTENCES[0], how), 0, ("task", 0, 1))], True)[0]


def test_a_cache_takes_the_answers_and_gives_them_back(tmp_path: Path) -> None:
    """As it does for the harness' own class: what is there is not asked again."""
    lm = LabelscoreLM(pretrained=MODEL, device="cpu")
    requests = mixed()[:40]
    first = CachingLM(lm, str(tmp_path / "a.db")).loglikelihood(requests)
    num_scored = lm._scorer.counts.items
    assert CachingLM(lm, str(tmp_path / "a.db")).loglikelihood(requests) == first
    assert lm._scorer.counts.items == num_scored > 0


def test_the_harness_learns_the_same_of_the_model() -> None:
    """What it writes to its results, and what it makes chat prompts of."""
    assert ours().get_model_info() == theirs().get_model_info()
    for name in ("max_length", "eot_token_id", "prefix_token_id", "tokenizer_name", "rank", "world_size", "device"):
        assert getattr(ours(), name) == getattr(theirs(), name), name
    assert ours().tokenizer.pad_token_id == theirs().tokenizer.pad_token_id


@pytest.mark.parametrize(("stored", "used"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float64", "float32")])
def test_the_dtype_is_the_stored_one(tmp_path: Path, stored: str, used: str) -> None:
    """As the harness has it where none is asked for; in one that is not scored in, it is said."""
    LabelscoreLM(pretrained=MODEL, device="cpu").model.to(getattr(torch, stored)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(MODEL) / name, tmp_path)
    own = LabelscoreLM(pretrained=str(tmp_path), device="cpu")
    assert str(own.get_model_info()["model_dtype"]) == f"torch.{used}"
    if stored == used:
        other = huggingface.HFLM(pretrained=str(tmp_path), device="cpu")
        assert own.get_model_info() == other.get_model_info()
        requests = [request(SENTENCES[0], word) for word in (" World", " Sports")]
        wanted = [score for score, _ in other.loglikelihood(requests, disable_tqdm=True)]
        assert [score for score, _ in own.loglikelihood(requests, disable_tqdm=True)] == pytest.approx(wanted, abs=0.3)


def test_chat_prompts_are_the_same(tmp_path: Path) -> None:
    """With a system message that the template takes, and one that it refuses."""
    folder = tmp_path / "chat"
    shutil.copytree(MODEL, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    own, other = LabelscoreLM(str(folder), device="cpu"), huggingface.HFLM(str(folder), device="cpu")
    ask = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A topic?"}]
    answer = [*ask, {"role": "assistant", "content": "World"}]
    assert own.apply_chat_template(ask) == other.apply_chat_template(ask)
    assert own.apply_chat_template(answer, False) == other.apply_chat_template(answer, False)
    assert own.chat_template(True) == other.chat_template(True)


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pretrained": MODEL, "parallelize": True}, r"no model_args parallelize; it knows pretrained, revision,"),
        ({}, r"needs a model: --model_args pretrained="),
        ({"pretrained": "./nowhere"}, r"nowhere"),
        ({"pretrained": MODEL, "dtype": "float64"}, r"unknown dtype 'float64'"),
        ({"pretrained": MODEL, "device": "tpu"}, r"unknown device 'tpu'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], said: str) -> None:
    """Which says what is known."""
    with pytest.raises(InputError, match=said):
        LabelscoreLM(**arguments)


def test_it_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others would score the same again, or wait for each other."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        LabelscoreLM(pretrained=MODEL)


def test_a_score_that_is_no_number_names_its_words() -> None:
    """Instead of a result."""
    lm = LabelscoreLM(pretrained=MODEL, device="cpu")
    spoilt = lm.tokenizer(" Sports", add_special_tokens=False)["input_ids"][0]
    hook = lm.model.get_output_embeddings().register_forward_hook(
        lambda module, given, output: output.index_fill(-1, torch.tensor([spoilt]), float("nan"))
    )
    try:
        with pytest.raises(RunError, match=r"not a finite number for ' \w+' after"):
            lm.loglikelihood([request("Topic:", " Sports")], disable_tqdm=True)
    finally:
        hook.remove()


def test_batch_size_is_accepted_and_explained() -> None:
    """Batches are filled by tokens; the line stands there once."""
    said = queue.SimpleQueue[logging.LogRecord]()
    logger, handler = logging.getLogger("lm_eval.labelscore"), logging.handlers.QueueHandler(said)
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        LabelscoreLM(pretrained=MODEL, device="cpu", batch_size="auto", max_batch_size=8)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert "filled by tokens" in said.get_nowait().getMessage()
    assert said.empty()


def test_without_the_harness_own_class_only_generation_is_refused() -> None:
    """The class is there and scores; what generates is told in one line what to install."""
    code = f"""
import sys
sys.modules["lm_eval.models.huggingface"] = None
from lm_eval.api.instance import Instance
from pipeline.errors import InputError
from pipeline.harness.lm import LabelscoreLM
lm = LabelscoreLM(pretrained={MODEL!r}, device="cpu")
lm.loglikelihood([Instance("loglikelihood", {{}}, ("Topic:", " World"), 0)])
lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {{}}, ("Topic: World",), 0)])
try:
    lm.generate_until([Instance("generate_until", {{}}, ("Topic:", {{"until": ["."]}}), 0)])
except InputError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'lm-eval[hf]'" in done.stdout
