"""Random runs that follow the contract: score tables, items, priors and manifest, without a model."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis import scan
from pipeline.reporting.make import make_report
from pipeline.reporting.report import Report
from pipeline.storing.files import Output
from pipeline.storing.layout import HISTORY, ITEMS_SCHEMA, PREDICTIONS, PRIORS_SCHEMA, SCORES_SCHEMA, norm_sizes
from pipeline.storing.manifest import Manifest, need_manifest, write_manifest

AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
CONTENT_FREE = ("", "N/A", "[MASK]")

ITEM_SCHEMA = {name: dtype for name, dtype in pl.Schema(ITEMS_SCHEMA).items() if name != "gold_ids"}
SCORE_SCHEMA = pl.Schema(SCORES_SCHEMA)


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_items(
    num_items: int, rng: np.random.Generator, label_names: Sequence[str] = AG_NEWS, gold: bool = True, first: int = 0
) -> pl.DataFrame:
    """Items with texts that markup, tables and terminals could stumble over."""
    texts = [
        f"Article {i} | about `things` <script>alert({i})</script>\nand *more* \x1b[31m of it {'word ' * int(n)}"
        for i, n in zip(range(first, first + num_items), rng.integers(0, 30, num_items), strict=True)
    ]
    gold_ids = rng.integers(0, len(label_names), num_items).tolist()
    return pl.DataFrame(
        {
            "item_id": range(first, first + num_items),
            "text": texts,
            "gold_id": gold_ids if gold else [None] * num_items,
            "gold": [label_names[g] for g in gold_ids] if gold else [None] * num_items,
            "text_hash": [hash_text(text) for text in texts],
        },
        schema=ITEM_SCHEMA,
    )


def repeat(items: pl.DataFrame, counts: Sequence[int]) -> pl.DataFrame:
    """Each row as often as `counts` says, the copies of a text far apart, under new ids."""
    times = np.arange(max(counts))[:, None] < np.array(counts)  # (turns, items)
    rows = np.nonzero(times)[1]
    return items[rows].with_columns(item_id=pl.int_range(len(rows), dtype=pl.Int64))


def with_several(items: pl.DataFrame, rng: np.random.Generator, share: float, num_labels: int = 4) -> pl.DataFrame:
    """The items with a last column `gold_ids`: about a `share` of them get two or three right classes, and no gold."""
    chosen = rng.random(items.height) < share
    lists = [sorted(rng.choice(num_labels, int(rng.integers(2, 4)), replace=False).tolist()) for _ in chosen]
    gold_ids = [classes if several else None for classes, several in zip(lists, chosen, strict=True)]
    one = pl.col("gold_ids").is_null()
    return items.with_columns(pl.Series("gold_ids", gold_ids, dtype=pl.List(pl.Int16))).with_columns(
        pl.when(one).then("gold_id").alias("gold_id"), pl.when(one).then("gold").alias("gold")
    )


def make_text_scores(items: pl.DataFrame, prompt: str, rng: np.random.Generator, **how: Any) -> pl.DataFrame:
    """As `make_scores`, where texts repeat: the rows of a text share its scores."""
    texts = items.unique("text_hash", maintain_order=True)
    scores = make_scores(texts, prompt, rng, **how).drop("item_id", "gold_id")
    rows = items.select("item_id", "text_hash", "gold_id")
    return rows.join(scores, on="text_hash", maintain_order="left_right").select(SCORE_SCHEMA.keys())


def make_scores(
    items: pl.DataFrame,
    prompt: str,
    rng: np.random.Generator,
    words: Sequence[str] = AG_NEWS,
    label_names: Sequence[str] = AG_NEWS,
    signal: float = 2.0,
    num_tokens: Sequence[int] | None = None,
    notebook: bool = False,
    model: str = "random",
) -> pl.DataFrame:
    """Scores of one prompt, sorted by item and label; `signal` nats favour the gold label."""
    n, k = items.height, len(words)
    tokens = np.array(num_tokens or [1 + len(w) // 6 for w in words], dtype=np.int16)
    bias = rng.normal(0, 1, k)
    logprob = rng.normal(-2, 1, (n, k)) * tokens - 4 + bias  # (items, labels)
    gold = items["gold_id"].fill_null(-1).to_numpy()
    logprob[np.arange(n), gold] += np.where(gold >= 0, signal, 0)
    logprob = np.minimum(logprob, -1e-3).astype(np.float32)
    logit = (logprob + rng.normal(30, 5, (n, 1)) * tokens).astype(np.float32)
    reverse = (logit + rng.normal(0, 2, (n, k))).astype(np.float32)

    def each_label(values: Sequence[Any]) -> list[Any]:
        return list(values) * n

    return pl.DataFrame(
        {
            "item_id": items["item_id"].to_numpy().repeat(k),
            "text_hash": items["text_hash"].gather(np.arange(n).repeat(k)),
            "prompt": pl.Series([prompt]).new_from_index(0, n * k),
            "model": pl.Series([model]).new_from_index(0, n * k),
            "revision": pl.Series(["sha256:0123456789abcdef"]).new_from_index(0, n * k),
            "label_id": np.tile(np.arange(k), n),
            "label": each_label(label_names),
            "label_words": each_label(words),
            "gold_id": items["gold_id"].gather(np.arange(n).repeat(k)),
            "num_tokens": np.tile(tokens, n),
            "num_bytes": each_label([len(w.encode()) for w in words]),
            "norm_chars": each_label([norm_sizes(w)[0] for w in words]),
            "norm_bytes": each_label([norm_sizes(w)[1] for w in words]),
            "logprob": logprob.ravel(),
            "logit": logit.ravel(),
            "notebook_logit": pl.Series(reverse.ravel()) if notebook else pl.Series([None]).new_from_index(0, n * k),
            "prompt_tokens": rng.integers(10, 200, n).repeat(k),
            "truncated": (rng.random(n) < 0.05).repeat(k),
        },
        schema=SCORE_SCHEMA,
    )


def make_priors(
    prompt: str,
    rng: np.random.Generator,
    words: Sequence[str] = AG_NEWS,
    label_names: Sequence[str] = AG_NEWS,
    num_tokens: Sequence[int] | None = None,
) -> pl.DataFrame:
    k = len(words)
    tokens = list(num_tokens or [1 + len(w) // 6 for w in words])
    return pl.DataFrame(
        [
            (prompt, text, i, label_names[i], words[i], tokens[i], len(words[i].encode()), lp, lp + 30.0)
            for text in CONTENT_FREE
            for i, lp in enumerate((rng.normal(-3, 1.5, k)).tolist())
        ],
        schema=pl.Schema(PRIORS_SCHEMA),
        orient="row",
    )


def make_manifest(
    num_items: int,
    prompts: Sequence[str],
    words: Sequence[str] = AG_NEWS,
    label_names: Sequence[str] = AG_NEWS,
    demonstration: bool = False,
    published: dict[str, float] | None = None,
    config: dict[str, Any] | None = None,
) -> Manifest:
    facts = {
        "labelscore": "0.1.0",
        "run_id": "random-run",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:05+00:00",
        "headline_rule": "sum",
        "config": config or {},
        "dataset": {
            "name": "random",
            "split": "test",
            "revision": None,
            "num_rows": num_items,
            "num_items": num_items,
            "num_rejected": 0,
            "label_names": list(label_names),
        },
        "model": {
            "name": "random",
            "revision": "sha256:0123456789abcdef",
            "weights": "0123",
            "dtype": "float32",
            "device": "cpu",
            "num_parameters": 1000,
            "demonstration": demonstration,
        },
        "prompts": [
            {
                "name": name,
                "template": "Article: {text}\nTopic:",
                "boundary": "joint",
                "labels": [
                    {"id": i, "name": n, "words": w} for i, (n, w) in enumerate(zip(label_names, words, strict=True))
                ],
                "fingerprint": "00" * 32,
                "published_accuracy": (published or {}).get(name),
            }
            for name in prompts
        ],
        "counts": {"items": num_items, "texts": num_items, "scored": num_items, "reused": 0, "truncated": 0},
        "scoring": {
            "path": "tree",
            "forwarded_tokens": 1000,
            "trie_tokens": 10,
            "padding_tokens": 1,
            "seconds": 10.0,
            "items_per_second": num_items / 10,
        },
        "files": {},
        "libraries": {"torch": "2.13.0+cpu", "transformers": "5.23.0"},
        "timings": {"pull": 0.1, "plan": 0.1, "score": 10.0, "publish": 0.1},
    }
    return Manifest.model_validate(facts)


def with_facts(manifest: Manifest, **facts: Any) -> Manifest:
    """The manifest with these facts (as JSON has them) in the place of its own."""
    return Manifest.model_validate(manifest.model_dump(mode="json") | facts)


def change_manifest(out: Path, **facts: Any) -> None:
    write_manifest(Output(out), with_facts(need_manifest(Output(out)), **facts))


def write_report(out: Path, rule: str = "sum", gap: float | None = None) -> Report:
    """The report of the run in `out`, against what is there of the run before."""
    output = Output(out)
    previous = scan(output, PREDICTIONS) if output.exists(PREDICTIONS) else None
    past = scan(output, HISTORY).collect() if output.exists(HISTORY) else None
    return make_report(output, need_manifest(output), rule, out=str(out), previous=previous, past=past, gap=gap)


def write_run(
    out: Path,
    num_items: int = 300,
    prompts: Sequence[str] = ("answer", "topic"),
    seed: int = 0,
    gold: bool = True,
    notebook: bool = False,
    priors: bool = True,
    signal: float = 2.0,
    words: Sequence[str] = AG_NEWS,
    label_names: Sequence[str] = AG_NEWS,
    demonstration: bool = False,
    published: dict[str, float] | None = None,
    config: dict[str, Any] | None = None,
    items: pl.DataFrame | None = None,
) -> Path:
    """A whole run in `out`, as `labelscore run` leaves it before its report; over `items`, if they are given."""
    rng = np.random.default_rng(seed)
    if items is None:
        items = make_items(num_items, rng, label_names, gold)
    num_items = items.height
    how: dict[str, Any] = {"words": words, "label_names": label_names, "notebook": notebook}
    tables = [make_text_scores(items, p, rng, signal=signal * (1 + i / 2), **how) for i, p in enumerate(prompts)]
    (out / "scores").mkdir(parents=True, exist_ok=True)
    pl.concat(tables).sort("item_id", "prompt", "label_id").write_parquet(out / "scores" / "scores.parquet")
    items.write_parquet(out / "items.parquet")
    if priors:
        pl.concat([make_priors(p, rng, words, label_names) for p in prompts]).write_parquet(out / "priors.parquet")
    manifest = make_manifest(num_items, prompts, words, label_names, demonstration, published, config)
    write_manifest(Output(out), manifest)
    return out


def run_and_report(out: Path, *args: Any, **run: Any) -> Report:
    """The report of a new run in `out`: the arguments of `write_run`."""
    return write_report(write_run(out, *args, **run))


def first_wrong(report: Report) -> pl.DataFrame:
    """The rows of `report.wrong` that report.md shows: some ten together of the three most accurate prompts."""
    names = report.ranked["prompt"].to_list()[:3]
    num_each = math.ceil(10 / len(names))
    return pl.concat(report.wrong.filter(pl.col("prompt") == name).head(num_each) for name in names)


def summary_of(markdown: str) -> str:
    """The first section of report.md."""
    return markdown.partition("## Summary")[2].partition("\n## ")[0]


def write_large_run(out: Path, num_items: int, prompt: str = "answer", block: int = 100_000) -> Path:
    """A run of one prompt, written in blocks, for measurements: its memory does not grow with `num_items`."""
    rng = np.random.default_rng(0)
    (out / "scores").mkdir(parents=True, exist_ok=True)

    def blocks() -> Iterator[pl.DataFrame]:
        for first in range(0, num_items, block):
            yield make_items(min(block, num_items - first), rng, first=first)

    writers: dict[str, pq.ParquetWriter] = {}
    for items in blocks():
        for name, table in (("items", items), ("scores/scores", make_scores(items, prompt, rng))):
            arrow: pa.Table = table.to_arrow(compat_level=pl.CompatLevel.oldest())
            if name not in writers:
                writers[name] = pq.ParquetWriter(out / f"{name}.parquet", arrow.schema, compression="zstd")
            writers[name].write_table(arrow)
    for writer in writers.values():
        writer.close()
    make_priors(prompt, rng).write_parquet(out / "priors.parquet")
    write_manifest(Output(out), make_manifest(num_items, [prompt]))
    return out
