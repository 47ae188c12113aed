"""Made-up items and scores for the tests of the store, and its verbs as a process that can be killed."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.prompts import BUILT_IN, Prompt, hash_text
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import Fingerprint, StoredPrompt, make_fingerprint
from pipeline.storing.history import write_history
from pipeline.storing.layout import HISTORY_SCHEMA, SCORES
from pipeline.storing.manifest import Manifest
from pipeline.storing.runs import begin_run, new_folder, open_run, publish
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store

ROOT = Path(__file__).resolve().parents[3]
PRIORS = ("", "N/A", "[MASK]")
ANSWER, TOPIC = BUILT_IN["answer"], BUILT_IN["topic"]


def fingerprint(prompt: Prompt = ANSWER, weights: str = "weights") -> Fingerprint:
    return make_fingerprint(prompt, weights=weights, tokenizer="tokenizer", dtype="float32", max_text_tokens=None)


def wanted(prompt: Prompt = ANSWER, weights: str = "weights") -> StoredPrompt:
    return StoredPrompt(prompt, fingerprint(prompt, weights))


def open_store(out: Output, prompts: Sequence[Prompt] = (ANSWER,), weights: str = "weights") -> Store:
    return Store(out, [wanted(prompt, weights) for prompt in prompts], f"model-{weights}", "revision")


def score(text_hash: str, words: str, salt: int = 0) -> float:
    """A score that is a function of what it belongs to, so that a mixed-up row shows."""
    digest = hashlib.sha256(f"{text_hash} {words} {salt}".encode()).digest()
    return float(np.float32(-int.from_bytes(digest[:4], "big") / 2**26))


def scored(hashes: Sequence[str], print_: Fingerprint, *, salt: int = 0, notebook: bool = False) -> pa.Table:
    """What a shard appends for these texts."""
    words = print_.label_words
    cells = [(h, w) for h in hashes for w in words]
    logprob = np.array([score(h, w, salt) for h, w in cells], np.float32)
    return pa.table(
        {
            "text_hash": [h for h, _ in cells],
            "label_words": [w for _, w in cells],
            "num_tokens": np.array([1 + len(w) % 3 for _, w in cells], np.int16),
            "num_bytes": np.array([len(w) for _, w in cells], np.int16),
            "logprob": logprob,
            "logit": logprob + np.float32(0.5),
            "notebook_logit": pa.array(logprob + np.float32(0.25)) if notebook else pa.nulls(len(cells), pa.float32()),
            "prompt_tokens": np.array([20 + int(h[:2], 16) for h, _ in cells], np.int32),
            "truncated": np.array([h[0] == "0" for h, _ in cells]),
        }
    )


def write_items(path: Path, texts: Sequence[str], row_group_size: int = 7) -> Path:
    """An items file; ids have gaps, as after rejected rows."""
    table = pa.table(
        {
            "item_id": pa.array([2 * i for i in range(len(texts))], pa.int64()),
            "text": pa.array(texts, pa.string()),
            "gold_id": pa.array([i % 4 if i % 5 else None for i in range(len(texts))], pa.int16()),
            "gold": pa.array(["World" if i % 5 else None for i in range(len(texts))], pa.string()),
            "text_hash": pa.array([hash_text(text) for text in texts], pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def fill(store: Store, items: Path, stored: StoredPrompt, *, part_size: int = 5, **options: bool) -> list[str]:
    """Score what is pending and return the texts that had to be."""
    pending = store.pending(items, stored, extra_texts=PRIORS, **options)
    table = pq.read_table(pending.path)
    hashes = table["text_hash"].to_pylist()
    for start in range(0, len(hashes), part_size):
        part = scored(hashes[start : start + part_size], stored.fingerprint, notebook=options.get("notebook", False))
        store.writer(stored).append(part)
    store.refresh()
    return list(table["text"].to_pylist())


def run(
    out: Output,
    texts: Sequence[str],
    prompts: Sequence[Prompt] = (ANSWER,),
    *,
    weights: str = "weights",
    **options: bool,
) -> list[str]:
    """A whole run without a model: returns the texts it had to score, over all prompts."""
    with out.lock(lambda line: None):
        last = begin_run(out)
        items = write_items(out.work / "items.parquet", texts)
        store = open_store(out, prompts, weights)
        new = [text for stored in store.prompts for text in fill(store, items, stored, **options)]
        folder = out.inside(new_folder())
        write_tables(folder, store, items, PRIORS, notebook=options.get("notebook", False))
        write_history(folder, last.history, history_rows(f"run-{time.time_ns()}"))
        publish(out, folder, manifest(store.prompts, len(texts), run_id=folder.root.name))
        store.end_plans()
    return new


def history_rows(run_id: str) -> pa.Table:
    row = dict.fromkeys(HISTORY_SCHEMA.names) | {"run_id": run_id, "prompt": "answer", "rule": "sum", "seconds": 1.0}
    return pa.Table.from_pylist([row | {"finished": time.time_ns() // 1000}], schema=HISTORY_SCHEMA)


def manifest(prompts: Sequence[StoredPrompt] = (), num_items: int = 0, **facts: object) -> Manifest:
    return Manifest.model_validate(
        {
            "run_id": "run",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:00:00+00:00",
            "headline_rule": "sum",
            "dataset": {"name": "texts", "split": "test", "num_items": num_items},
            "model": {"name": "model", "revision": "revision", "dtype": "float32", "device": "cpu"},
            "prompts": [
                {
                    "name": s.prompt.name,
                    "template": s.prompt.template,
                    "boundary": s.prompt.boundary,
                    "fingerprint": s.fingerprint.digest,
                    "labels": [{"id": x.id, "name": x.name, "words": x.words} for x in s.prompt.labels],
                }
                for s in prompts
            ],
        }
        | facts
    )


def expected_scores(texts: Sequence[str], prompts: Sequence[Prompt] = (ANSWER,)) -> list[tuple[int, str, int, float]]:
    """The slow, obvious table: (item_id, prompt, label_id, logprob)."""
    return [
        (2 * i, prompt.name, label.id, score(hash_text(text), label.words))
        for i, text in enumerate(texts)
        for prompt in sorted(prompts, key=lambda p: p.name)
        for label in prompt.labels
    ]


def published(out: Output, name: str = SCORES) -> Path:
    """A file of the last finished run."""
    return open_run(out)[0].fetch(name)


def published_scores(out: Output) -> list[tuple[int, str, int, float]]:
    return scores_in(published(out))


def scores_in(path: Path) -> list[tuple[int, str, int, float]]:
    table = pq.read_table(path, page_checksum_verification=True)
    return list(zip(*(table[n].to_pylist() for n in ("item_id", "prompt", "label_id", "logprob")), strict=True))


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """This file as a process: `append LOCATION FIRST LAST`, `run LOCATION NUM_ITEMS` or `hold LOCATION`."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def texts_of(num_items: int) -> list[str]:
    return [f"item {i % max(1, num_items - 3)}" for i in range(num_items)]  # the last three are duplicates


def main(verb: str, location: str, *numbers: str) -> None:
    out = Output(location)
    print_ = fingerprint()
    if verb == "hold":
        with out.lock(lambda line: print(line, flush=True)):
            print("held", flush=True)
            time.sleep(60)
    elif verb == "run":
        print(len(run(out, texts_of(int(numbers[0])))), flush=True)
    elif verb == "append":
        writer = open_store(out).writer(wanted())
        print("ready", flush=True)
        for number in range(*map(int, numbers)):
            writer.append(scored([hash_text(f"item {number}")], print_))


if __name__ == "__main__":
    main(*sys.argv[1:])
