"""The GPU benchmark from texts to Parquet parts, and how far bfloat16 and FP8 are from float32.

Invariant: texts are scored by the product's own `ShardScorer`; needs pyarrow and fsspec besides what the rest needs.
"""

import copy
import importlib.util
import json
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.prompts import BUILT_IN
from pipeline.scoring.fp8 import to_fp8
from pipeline.scoring.tokens import Encoder
from tests.benchmarks.gpu_variants import Setting, Variant, check_compiled, installed, prepare, ready, score_all
from tests.benchmarks.gpu_work import make_items, random_model

if importlib.util.find_spec("httpx2") is None:  # no client of the hub here, and nothing to be fetched from it
    sys.modules["pipeline.reading.hub"] = hub = types.ModuleType("pipeline.reading.hub")
    hub.fetch = hub.find_repo = None  # type: ignore[attr-defined]

from pipeline import shard as shard_module
from pipeline.reading.model import ModelRef
from pipeline.shard import ShardScorer
from pipeline.sharding import ScoringSpec, cut_shards
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt, make_fingerprint
from pipeline.storing.parts import PartWriter

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
CONTEXT_TOKENS = 2048
NUM_TEXTS, SHARD_SIZE = 40_000, 8_000


def real_texts(setting: Setting) -> tuple[list[str], list[int]]:
    """Texts and the numbers of their classes."""
    if setting.texts is not None:
        table = pq.read_table(setting.texts)
        return table["text"].to_pylist(), table["label"].to_pylist()
    lines = (SAMPLE / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    names = [label.name for label in BUILT_IN["answer"].labels]
    labels = [row["label"] if isinstance(row["label"], int) else names.index(row["label"]) for row in rows]
    return [row["text"] for row in rows], labels


def write_pending(folder: Path, texts: list[str], num_texts: int) -> Path:
    """A file of texts to score; those beyond the known ones are told apart by a number."""
    rows = [text if i < len(texts) else f"{text} {i}" for i in range(num_texts) for text in [texts[i % len(texts)]]]
    path = folder / "pending.parquet"
    hashes = [f"{i:064x}" for i in range(num_texts)]
    pq.write_table(pa.table({"text_hash": hashes, "text": rows}), path, row_group_size=4_000)
    return path


def shards(variant: Variant, setting: Setting) -> dict[str, Any]:
    """Texts a second from a file of texts to parts on disk; loading apart."""
    num_texts, shard_size = (48, 16) if setting.is_toy else (NUM_TEXTS, SHARD_SIZE)
    tokenizer = setting.tokenizer or SAMPLE / "model"
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    shape = setting.shape("Gemma-2B")
    shape = replace(shape, vocabulary=max(shape.vocabulary, vocabulary))
    model = random_model(shape, setting.device, setting.dtype)
    prepare(model, variant)
    prompt = BUILT_IN["detailed"]
    dtype = str(setting.dtype).removeprefix("torch.")
    ref = ModelRef("random", tokenizer, "none", "none", "none", setting.device, dtype, CONTEXT_TOKENS, False)
    fingerprint = make_fingerprint(prompt, weights="none", tokenizer="none", dtype=dtype, max_text_tokens=None)
    with tempfile.TemporaryDirectory() as folder, patch.object(shard_module, "load_model", lambda _: model):
        pending = write_pending(Path(folder), real_texts(setting)[0], num_texts)
        out = Output(Path(folder) / "out")
        writer = PartWriter(out, StoredPrompt(prompt, fingerprint), "random", "none", 1)
        compiles = variant.fused == "layers"
        spec = ScoringSpec(ref, (writer,), None, False, variant.tokens, compiles=compiles)
        todo = cut_shards(prompt.name, pending, shard_size)
        started = time.perf_counter()
        with installed(variant):
            scorer = ShardScorer(spec, todo[0])
            check_compiled(scorer._scorer, variant)
            warm = make_items(setting.workload("detailed"), shape.vocabulary, 24 if setting.is_toy else 2_000)
            score_all(scorer._scorer, warm)
            loaded = time.perf_counter()
            ends: list[float] = []
            tokens = 0
            for number, shard in enumerate(todo):
                if number + 1 < len(todo):
                    scorer.encode_ahead(todo[number + 1])
                result = scorer.score(shard, lambda _: None, lambda: False)
                tokens += result.counts.forwarded_tokens
                ends.append(time.perf_counter() - loaded)
            scorer.close()
            seconds = time.perf_counter() - loaded
        num_rows = sum(pq.read_metadata(path).num_rows for path in out.root.rglob("*.parquet"))
    later = (num_texts - shard_size) / (ends[-1] - ends[0])
    return {"texts": num_texts, "rows": num_rows, "load_seconds": loaded - started, "seconds": seconds} | {
        "items_per_second": num_texts / seconds,
        "items_per_second_after_first_shard": later,
        "tokens_per_item": tokens / num_texts,
        "shard_ends": ends,
    }


def encoding(setting: Setting) -> dict[str, Any]:
    """Microseconds a text of encoding alone, in one thread."""
    texts = real_texts(setting)[0][:4_000]
    tokenizer = AutoTokenizer.from_pretrained(setting.tokenizer or SAMPLE / "model")
    encoder = Encoder(tokenizer, BUILT_IN["detailed"], context_tokens=CONTEXT_TOKENS)
    encoder.encode(texts[:100])
    started = time.perf_counter()
    items = encoder.encode(texts)
    seconds = time.perf_counter() - started
    lengths = [len(item.prompt_ids) for item in items]
    return {"microseconds_an_item": seconds / len(texts) * 1e6, "prompt_tokens": float(np.mean(lengths))}


def accuracy(setting: Setting) -> dict[str, Any]:
    """Differences from float32, in nats and in predictions, of Gemma-2B's shape at random and of a trained model."""
    shape = setting.shape("Gemma-2B")
    items = make_items(setting.workload("detailed"), shape.vocabulary, 24 if setting.is_toy else 1_000, seed=7)
    model = random_model(shape, setting.device, torch.float32)
    found = {"random": differences(model, items, None)}
    del model
    texts, labels = (each[: 100 if setting.is_toy else None] for each in real_texts(setting))
    folder = setting.trained or SAMPLE / "model"
    trained = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(setting.device).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(folder), BUILT_IN["answer"], context_tokens=CONTEXT_TOKENS)
    found["trained"] = differences(trained, encoder.encode(texts), torch.tensor(labels))
    return found


def differences(model: Any, items: Any, labels: torch.Tensor | None) -> dict[str, Any]:
    """Of the same weights in bfloat16 and in FP8, scored by the scorer, against float32."""
    found: dict[str, Any] = {}
    exact = None
    for name, variant in {
        "float32": Variant(),
        "bfloat16": Variant(),
        "FP8": Variant(linears="fp8"),
    }.items():
        other = copy.deepcopy(model)
        if name != "float32":
            other = other.to(torch.bfloat16)
        if name == "FP8":
            to_fp8(other, name)
        with ready(other, variant) as scoring:
            scores = score_all(scoring, items).double()
            figures: dict[str, Any] = {"path": scoring.path, "items": len(items)}
        if labels is not None:
            figures["accuracy"] = (scores.argmax(1) == labels).double().mean().item()
        if exact is None:
            exact = scores
        else:
            gaps = (scores - exact).abs()
            figures |= {"max_difference": gaps.max().item(), "mean_difference": gaps.mean().item()}
            figures["same_predictions"] = (scores.argmax(1) == exact.argmax(1)).double().mean().item()
        found[name] = figures
        del other
    return found
