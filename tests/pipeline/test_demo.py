"""The demonstration model: small, a real Gemma, and clearly better than chance on items that it has not seen."""

import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from data import make_demo
from pipeline import bundled
from pipeline.prompts import AG_NEWS, BUILT_IN, Prompt


@cache
def load_demo(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()


def test_the_model_is_small_and_safe() -> None:
    """At most 2 MB in all; weights are safetensors in float32, and nothing in the folder can run code."""
    files = list(bundled.demo_model_path().iterdir())
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    with safe_open(bundled.demo_model_path() / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F32"}  # noqa: SIM118 (no mapping)


def test_the_model_is_a_gemma_with_the_parameters_that_the_note_tells() -> None:
    """It loads as any Gemma does, with Gemma's special tokens and room for 1,024 tokens."""
    tokenizer, model = load_demo(bundled.demo_model_path())
    assert isinstance(model, GemmaForCausalLM)
    assert model.config.max_position_embeddings == 1024
    assert tokenizer.convert_tokens_to_ids(list(make_demo.SPECIAL)) == [0, 1, 2, 3]
    assert [getattr(model.config, f"{name}_token_id") for name in ("pad", "eos", "bos")] == [0, 1, 2]
    assert len(tokenizer) == model.config.vocab_size
    assert f"{model.num_parameters() / 1e6:.1f} million parameters" in bundled.DEMO_NOTE


@given(st.text(alphabet=st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    """Bytes stand in for what the vocabulary lacks: no <unk>, BOS once in front, and the same text comes back.

    Gemma's sign for a space is left out: like Gemma's, this tokenizer reads it as one.
    """
    tokenizer, _ = load_demo(bundled.demo_model_path())
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert not {0, 1, 2, 3} & set(ids[1:])
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text


def test_label_words_are_short() -> None:
    """One token for a plain label, few for Sci/Tech, so that both cases occur in the default run."""
    tokenizer, _ = load_demo(bundled.demo_model_path())
    words = [label.words for label in BUILT_IN["answer"].labels]
    num_tokens = [len(tokenizer(word, add_special_tokens=False).input_ids) for word in words]
    assert num_tokens[:3] == [1, 1, 1]
    assert 2 <= num_tokens[3] <= 3


@torch.no_grad()
def predict_slowly(folder: Path, prompt: Prompt, texts: list[str]) -> list[int]:
    """The label of the highest summed log-likelihood: plain padded batches, one forward pass for each label."""
    tokenizer, model = load_demo(folder)
    predicted = []
    for start in range(0, len(texts), 32):
        filled = [prompt.template.replace("{text}", text) for text in texts[start : start + 32]]
        sums = []
        for label in prompt.labels:
            words = tokenizer(label.words, add_special_tokens=False).input_ids
            rows = [torch.tensor(tokenizer(text).input_ids + words) for text in filled]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (batch, tokens)
            logprobs = model(input_ids=ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
            sums.append(
                torch.stack(
                    [
                        line[len(row) - len(words) - 1 : len(row) - 1].sum()
                        for line, row in zip(logprobs, rows, strict=True)
                    ]
                )
            )
        predicted += torch.stack(sums, dim=1).argmax(dim=1).tolist()  # (batch, labels)
    return predicted


@pytest.mark.parametrize("name", ["answer", "topic"])
def test_held_out_items_are_classified_clearly_above_chance(name: str) -> None:
    """The lower end of the Wilson interval stands far above the 25 % of guessing."""
    rows = [json.loads(line) for line in bundled.sample_path("test").read_text(encoding="utf-8").splitlines()]
    predicted = predict_slowly(bundled.demo_model_path(), BUILT_IN[name], [row["text"] for row in rows])
    share = sum(row["label"] == label for row, label in zip(rows, predicted, strict=True)) / len(rows)
    z2 = 1.96**2 / len(rows)
    low = (share + z2 / 2 - math.sqrt(z2 * (share * (1 - share) + z2 / 4))) / (1 + z2)
    assert low > 0.40


def test_the_build_gives_the_same_loadable_model_twice(tmp_path: Path) -> None:
    """Two steps from scratch, twice: byte for byte the same files, and they score a prompt."""
    torch.set_num_threads(1)
    for folder in ("a", "b"):
        make_demo.build_demo(tmp_path / folder, num_steps=2)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert predict_slowly(tmp_path / "a", BUILT_IN["answer"], ["A ship came in."])[0] in range(len(AG_NEWS))


def test_the_build_never_opens_the_held_out_items(tmp_path: Path) -> None:
    """With every opened file on record, the training split and the phrases are there and the test split is not."""
    script = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from pathlib import Path\n"
        "from data.make_demo import build_demo\n"
        "build_demo(Path(sys.argv[1]), num_steps=1)\n"
        "names = {Path(name).name for name in opened}\n"
        "assert {'train.jsonl', 'phrases.toml'} <= names, names\n"
        "assert 'test.jsonl' not in names\n"
    )
    root = Path(make_demo.__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model")],
        check=True,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
