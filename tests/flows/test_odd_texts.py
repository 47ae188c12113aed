"""Texts that mean something to a tokenizer, a template, a terminal or a page are scored as the plain text they are."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from pipeline.bundled import demo_model_path
from tests.flows.conftest import Command

TEXTS = {
    "null byte": "before\x00after",
    "blank around": " \t news \n",
    "right to left": "أخبار اليوم: ارتفعت الأسواق",
    "mixed directions": "abc \u202e\u05e9\u05dc\u05d5\u05dd\u202c def",
    "emoji": "👩‍👩‍👧‍👦 wins 🏆🏆🏆",
    "one emoji": "🏆",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚",
    "no character": "\uffff\ufffe\U0010ffff",
    "byte order mark": "\ufeffnews",
    "line separators": "a\r\nb\u2028c\u2029d\x85e",
    "template's slot": "what {text} means",
    "other braces": "{0} {} {{text}} %s ${text} {label}",
    "template again": "Article: {text}\nTopic: World",
    "first token": "<bos>",
    "first token inside": "news<bos>news",
    "end token": "<eos> <pad> <unk>",
    "chat markup": "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "other chat markup": "<|im_start|>system [INST] </s>",
    "byte token": "<0x0A>",
    "terminal": "\x1b[31mred\x1b]0;title\x07",
    "page": '<script>alert("x")</script> & | `code` **bold**',
    "spaces only inside": "a" + " " * 500 + "b",
    "one character": "a",
    "a megabyte": "news of the day " * 65_536,
    "a word of 100,000 letters": "x" * 100_000,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON lines file of the odd texts."""
    path = tmp_path_factory.mktemp("odd") / "odd.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS.values()))
    return path


def score_slowly(text: str) -> list[float]:
    """Log-likelihoods of the default prompt's labels: one forward for each, by a tokenizer that knows no special token.

    Bytes and pieces alone: what spells a special token cannot become one, because there is none.
    """
    folder = demo_model_path()
    known = json.loads((folder / "tokenizer.json").read_text())
    bos = next(token["id"] for token in known["added_tokens"] if token["content"] == "<bos>")
    tokenizer = Tokenizer.from_str(json.dumps({**known, "added_tokens": [], "post_processor": None}))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    prompt = f"Article: {text}\nTopic:"
    for label in (" World", " Sports", " Business", " Sci/Tech"):
        before, whole = (tokenizer.encode(words, add_special_tokens=False).ids for words in (prompt, prompt + label))
        shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        ids = [bos, *whole]
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(float(logprobs[i - 1, ids[i]]) for i in range(shared + 1, len(ids))))
    return scores


def test_they_are_kept_and_scored_as_plain_text(labelscore: Command, texts: Path, tmp_path: Path) -> None:
    """Each comes back letter by letter, and its scores are those of a tokenizer without any special token."""
    done = labelscore("run", "--dataset", str(texts), "--out", str(tmp_path / "out"))
    assert done.code == 0, done
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert items["text"].to_list() == list(TEXTS.values())
    scores = pl.read_parquet(tmp_path / "out" / "scores" / "scores.parquet")
    assert scores["logprob"].is_finite().all()
    assert scores.filter(pl.col("truncated"))["item_id"].unique().to_list() == [
        position for position, name in enumerate(TEXTS) if "a megabyte" in name or "100,000" in name
    ]
    for position, (name, text) in enumerate(TEXTS.items()):
        ours = scores.filter(item_id=position)
        if not ours["truncated"].any():
            assert ours["logprob"].to_list() == pytest.approx(score_slowly(text), abs=1e-4), name


def test_they_are_shown_as_plain_text(labelscore: Command, texts: Path, tmp_path: Path) -> None:
    """Neither the terminal's output nor the report carries their markup or their control characters."""
    out = tmp_path / "out"
    done = labelscore("run", "--dataset", str(texts), "--out", str(out))
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    page, markdown = ((out / "report" / name).read_text() for name in ("report.html", "report.md"))
    for written in (page, markdown):
        assert "\x1b" not in written
        assert "\x00" not in written
        assert '<script>alert("x")' not in written
