"""Scoring one shard of texts: read, encode, score, and write what was scored to the store.

Invariant: a text is written with the scores of all its labels or not at all, and what was scored when a run is
stopped is written before it ends.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError, Interrupted, NotFinite, RunError
from pipeline.prompts import Prompt, Values
from pipeline.reading.devices import check_fp8
from pipeline.reading.model import ModelRef, check_vocabulary, load_model, load_tokenizer
from pipeline.scoring.counts import Counts
from pipeline.scoring.fp8 import to_fp8
from pipeline.scoring.memory import attempt
from pipeline.scoring.plan import Plan
from pipeline.scoring.scorer import NonFiniteScore, ScoredBatch, Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from pipeline.sharding import ScoringSpec, Shard, ShardResult, item_values, read_texts
from pipeline.storing.parts import SCHEMA
from pipeline.wording import show

# What a killed run loses at most is what it scored since the last part: on a slow model a shard takes hours.
SECONDS_BETWEEN_PARTS = 30.0
SECONDS_BETWEEN_LOOKS = 0.1  # for a request to stop, while texts are encoded
ITEMS_AT_ONCE = 250  # are encoded between two looks, or fewer where they have more bytes than these
BYTES_AT_ONCE = 4_000_000


class Encoded(NamedTuple):
    """The texts of a shard, each one's tokens, and what is to be forwarded, if there was a model to plan for."""

    texts: pa.Table
    items: list[TokenSequences]
    plan: Plan | None


class ShardScorer:
    """A loaded model that scores shards one after the other.

    Reading and encoding the next shard and writing the last one run beside the forward pass. The texts of a shard are
    read from its file, unless they are given because this machine does not have it.
    """

    def __init__(
        self,
        spec: ScoringSpec,
        first: Shard | None = None,
        *,
        load: Callable[[ModelRef], PreTrainedModel] | None = None,
        stores: bool = True,
    ) -> None:
        """Load the model, and meanwhile read and encode the shard `first`, as `encode_ahead` would.

        One of several ranks loads its slice, and only one of them stores what all of them score (pipeline/ranks.py).
        Raises InputError where it cannot be loaded or a prompt does not fit its context, RunError where it gives NaN.
        """
        self._model, self._stores = spec.model, stores
        self._writers = {writer.stored.prompt.name: writer for writer in spec.writers}
        tokenizer, context_tokens = load_tokenizer(spec.model), spec.model.context_tokens
        self._encoders = {
            name: Encoder(
                tokenizer, writer.stored.prompt, context_tokens=context_tokens, max_text_tokens=spec.max_text_tokens
            )
            for name, writer in self._writers.items()
        }
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._write: Future[str] | None = None
        self._ahead: dict[str, Future[Encoded]] = {}
        self._closing = threading.Event()
        self._num_threads = torch.get_num_threads()
        self._plan: Callable[[list[TokenSequences]], Plan | None] = lambda _: None
        try:
            if first:
                self.encode_ahead(first)
            model = (load or load_to_score)(spec.model)
            markup = _markup(tokenizer, [writer.stored.prompt for writer in spec.writers])
            check_vocabulary(tokenizer, model, spec.model.name, markup)
            if model.device.type != "cpu":  # what is done here is little at a time: threads would wait for each other
                torch.set_num_threads(1)
            self._scorer = make_scorer(
                model, spec.model, batch_tokens=spec.batch_tokens, notebook=spec.notebook, compiles=spec.compiles
            )
            self._plan = self._scorer.plan
        except BaseException:
            self.close()
            raise

    def encode_ahead(self, shard: Shard, texts: pa.Table | None = None) -> None:
        """Begin to read and encode a shard that will be scored soon."""
        if shard.name not in self._ahead:
            self._ahead[shard.name] = self._encoding.submit(self._encode, shard, texts)

    def score(
        self,
        shard: Shard,
        on_progress: Callable[[int], None],
        should_stop: Callable[[], bool],
        texts: pa.Table | None = None,
    ) -> ShardResult:
        """Score a shard and write its scores; the last part may still be being written when this returns (see `drain`).

        Raises Interrupted after the batch in which `should_stop` became true, RunError for a score that is not finite.
        """
        started = time.perf_counter()
        self.encode_ahead(shard, texts)
        texts, encoded, plan = self._wait_for(self._ahead.pop(shard.name), shard, should_stop)
        self._scorer.counts = Counts()
        batches: list[ScoredBatch] = []
        last_part = started
        try:
            for batch in self._scorer.score(plan or encoded, self._following):
                batches.append(batch)
                on_progress(len(batch.indices))
                if should_stop():
                    raise Interrupted(f"stopped on request while scoring {shard.name}; run the same command to go on")
                if time.perf_counter() - last_part > SECONDS_BETWEEN_PARTS:
                    self._write_soon(shard, texts, encoded, batches)
                    batches, last_part = [], time.perf_counter()
        except NonFiniteScore as error:
            values = item_values(texts.slice(error.index, 1))[0]
            raise explain(error, self._model, self._writers[shard.prompt].stored.prompt, values) from error
        finally:
            if batches:
                self._write_soon(shard, texts, encoded, batches)
        seconds, scorer = time.perf_counter() - started, self._scorer
        return ShardResult(
            shard.name,
            len(texts),
            seconds,
            scorer.counts,
            scorer.path,
            scorer.path_reason,
            scorer.remark,
            scorer.kernels,
        )

    def is_encoded(self, shard: Shard, seconds: float) -> bool:
        """Whether a shard is encoded, or that has failed; waits so long for it."""
        return bool(wait([self._ahead[shard.name]], timeout=seconds).done)

    def _wait_for(self, encoded: Future[Encoded], shard: Shard, should_stop: Callable[[], bool]) -> Encoded:
        while not wait([encoded], timeout=SECONDS_BETWEEN_LOOKS).done:
            if should_stop():
                self._closing.set()
                raise Interrupted(f"stopped on request while encoding {shard.name}; run the same command to go on")
        return encoded.result()

    def _following(self) -> Plan | None:
        """The plan of the next shard, if it is made."""
        ahead = next(iter(list(self._ahead.values())), None)  # at once, as another thread may add to them
        return ahead.result().plan if ahead is not None and ahead.done() and not ahead.exception() else None

    def drain(self) -> None:
        """Wait until all that was scored is on disk. Raises what went wrong in writing it."""
        if self._write is not None:
            write, self._write = self._write, None
            write.result()

    def close(self) -> None:
        """Drain, and end the background threads."""
        self._closing.set()
        torch.set_num_threads(self._num_threads)
        for ahead in self._ahead.values():
            ahead.cancel()
        try:
            self.drain()
        finally:
            self._encoding.shutdown(wait=False, cancel_futures=True)
            self._writing.shutdown(wait=True)

    def _encode(self, shard: Shard, texts: pa.Table | None) -> Encoded:
        texts = read_texts(shard) if texts is None else texts
        encoder, encoded = self._encoders[shard.prompt], list[TokenSequences]()
        # Strings of Python's take up to four bytes a character, and a tokenizer makes much of each.
        num_at_once = max(1, min(ITEMS_AT_ONCE, len(texts) * BYTES_AT_ONCE // max(1, texts.nbytes)))
        for start in range(0, len(texts), num_at_once):
            if self._closing.is_set():
                raise Interrupted(f"stopped on request while encoding {shard.name}; run the same command to go on")
            encoded += _encode(encoder, item_values(texts.slice(start, num_at_once)))
        return Encoded(texts, encoded, self._plan(encoded))

    def _write_soon(
        self, shard: Shard, texts: pa.Table, encoded: Sequence[TokenSequences], batches: Sequence[ScoredBatch]
    ) -> None:
        if not self._stores:
            return
        writer = self._writers[shard.prompt]
        self.drain()  # one write at a time, so that memory stays bounded and an error in writing ends the run
        self._write = self._writing.submit(
            lambda: writer.append(part_table(writer.stored.prompt, texts, encoded, batches))
        )


def _markup(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> str:
    """Where special tokens can come from that prompts put around their items."""
    written = "".join(prompt.chat.before + prompt.chat.after for prompt in prompts if prompt.chat)
    return written + str(tokenizer.chat_template) if any(prompt.has_markup for prompt in prompts) else written


def load_to_score(ref: ModelRef) -> PreTrainedModel:
    """The model as it scores, its layers turned where that is in FP8. Raises what `load_model` and `to_fp8` raise."""
    if ref.dtype == "fp8":
        check_fp8(ref.device)  # where this is another machine than the one that the run was started on
    model = load_model(ref)
    if ref.dtype == "fp8" and attempt(to_fp8, model, ref.name) is None:
        raise RunError(f"{ref.name}: not enough memory on {ref.device} to turn its layers to fp8")
    return model


def make_scorer(
    model: PreTrainedModel,
    ref: ModelRef,
    *,
    batch_tokens: int | None = None,
    notebook: bool = False,
    greedy: bool = False,
    compiles: bool = False,
) -> Scorer:
    """A scorer of a loaded model. Raises NotFinite where its scores are not, RunError where they cannot be trusted."""
    try:
        return Scorer(model, batch_tokens=batch_tokens, notebook=notebook, greedy=greedy, compiles=compiles)
    except NonFiniteScore:  # of the probe that it scores first
        raise NotFinite(
            f"the model {ref.name} gave a score that is not a finite number for a probe text ({ref.dtype}); try "
            "--dtype float32, or get its weights again"
        ) from None


def _encode(encoder: Encoder, items: Sequence[Values]) -> list[TokenSequences]:
    """The items' token sequences. Raises InputError, with the item that cannot be encoded where it is one."""
    try:
        return encoder.encode(items)
    except InputError as error:
        for values in items:
            try:
                encoder.encode([values])
            except InputError as own:
                raise InputError(f"{own} (in the item {show(_as_text(values))})") from None
        raise error


def _as_text(values: Values) -> str:
    return " / ".join(value if isinstance(value, str) else " | ".join(value) for value in values.values())


def explain(error: NonFiniteScore, ref: ModelRef, prompt: Prompt, values: Values) -> RunError:
    """Name the item and the label that the model gave no number for."""
    labels = prompt.item_choices(values) if prompt.has_choices else [label.name for label in prompt.labels]
    text = _as_text(values)
    return RunError(
        f"the model {ref.name} gave a score that is not a finite number for label {show(labels[error.label_index])} of "
        f"the text {text[:60]!r} (prompt '{prompt.name}', {ref.dtype}); try --dtype float32"
    )


def part_table(
    prompt: Prompt, texts: pa.Table, encoded: Sequence[TokenSequences], batches: Sequence[ScoredBatch]
) -> pa.Table:
    """The rows of a part: one for each (text, label) in `batches`, in the order of the texts."""
    order = np.argsort(np.concatenate([batch.indices for batch in batches]))
    indices = np.concatenate([batch.indices for batch in batches])[order]  # (texts,)
    items = [encoded[index] for index in indices]
    num_labels = np.array([len(item.branches) for item in items])
    num_tokens = np.array([num for item in items for num in item.num_label_tokens])  # (rows,), as what follows
    lengths = np.array([len(item.prompt_ids) + len(branch) for item in items for branch in item.branches])
    if prompt.has_choices:
        words = [words for values in item_values(texts.take(indices)) for words in prompt.write(values).continuations]
    else:
        words = [label.words for label in prompt.labels] * len(items)

    def scores(name: str) -> pa.Array:
        found = [getattr(batch, name) for batch in batches]
        if found[0] is None:
            return pa.nulls(lengths.size)
        rows = np.concatenate(found)[order]  # (texts, most labels)
        return pa.array(rows[np.arange(rows.shape[1]) < num_labels[:, None]])

    return pa.table(
        {
            "text_hash": texts["text_hash"].take(np.repeat(indices, num_labels)),
            "label_words": words,
            "num_tokens": num_tokens,
            "num_bytes": [len(word.encode()) for word in words],
            "logprob": scores("logprob"),
            "logit": scores("logit"),
            "notebook_logit": scores("notebook_logit"),
            "prompt_tokens": lengths - num_tokens,
            "truncated": np.repeat([item.truncated for item in items], num_labels),
        }
    ).cast(SCHEMA)
