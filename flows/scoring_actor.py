"""What runs in an actor on Ray: one loaded model that scores the shards it is handed, and stores their scores itself.

Invariant: one thread uses the model. The others encode the next shard, tell the progress and take a request to stop.
"""

import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import torch

from pipeline.errors import InputError
from pipeline.ranks import GroupScorer, RankDied, open_scorer
from pipeline.reading.model import ModelRef, resolve_model
from pipeline.shard import ShardScorer
from pipeline.sharding import ScoringSpec, Shard, ShardResult


class ScoringActor:
    """A worker that needs no more than its specification: texts come with the calls, the output is in it."""

    def __init__(self, spec: ScoringSpec, num_threads: int) -> None:
        self._spec = spec
        self._model_thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (num_threads,))
        self._stop = threading.Event()
        self._num_scored = Counter[str]()
        self._num_beats = 0  # batches and shards that were finished here

    def load(self) -> float:
        """Load the model; returns the seconds it took. Raises what loading raises."""
        started = time.perf_counter()
        spec = replace(self._spec, model=find_here(self._spec.model))
        self._scorer = self._model_thread.submit(_open_scorer, spec).result()
        return time.perf_counter() - started

    def score(self, shard: Shard, texts: pa.Table) -> ShardResult:
        """Score a shard and store it; it is stored when this returns. Raises what `ShardScorer.score` raises."""
        self._scorer.encode_ahead(shard, texts)
        return self._model_thread.submit(self._score, shard, texts).result()

    def _score(self, shard: Shard, texts: pa.Table) -> ShardResult:
        self._num_scored[shard.name] = 0
        try:
            return self._scorer.score(shard, lambda num: self._beat(shard.name, num), self._stop.is_set, texts)
        except RankDied:
            os._exit(1)  # the whole worker is as good as dead, and Ray has a way with those
        finally:
            self._scorer.drain()
            self._beat(shard.name, 0)

    def _beat(self, name: str, num_texts: int) -> None:
        self._num_scored[name] += num_texts
        self._num_beats += 1

    def progress(self, name: str) -> tuple[int, int]:
        """The texts of a shard that have been scored so far, and a number that grows as long as anything is."""
        return self._num_scored[name], self._num_beats

    def stop(self) -> None:
        """Let the current batch be the last: what is scored is stored, and the calls in hand raise Interrupted."""
        self._stop.set()


def _open_scorer(spec: ScoringSpec) -> GroupScorer | ShardScorer:
    """What scores with the model, loaded: this process, or ranks that it leads."""
    try:
        return open_scorer(spec)
    except RankDied:
        os._exit(1)


def find_here(model: ModelRef) -> ModelRef:
    """The same model on this machine: at the same paths, or from the hub at the same commit.

    Raises InputError where it is a path that this machine lacks, and what `resolve_model` raises.
    """
    if all(path.exists() for path in (model.path, *([model.adapter.path] if model.adapter else []))):
        return model
    if model.revision.startswith("sha256:"):
        raise InputError(
            f"no model at {model.path} on {socket.gethostname()}; put it where every machine finds it under the same "
            "path, or name a model of the hub"
        )
    found = resolve_model(
        model.name,
        revision=model.revision,
        device=model.device,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
    )
    if (found.weights, found.adapter and found.adapter.digest) != (
        model.weights,
        model.adapter and model.adapter.digest,
    ):
        raise InputError(
            f"{model.name}: its base is another one on {socket.gethostname()}; pin its revision in adapter_config.json"
        )
    return replace(model, path=found.path, adapter=found.adapter, tokenizer_path=found.tokenizer_path)
