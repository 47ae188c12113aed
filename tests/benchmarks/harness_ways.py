"""Three ways to score the harness' own requests with one model: its backend, our class inside it, and our own path.

Invariant: all three share one model object and one tokenizer, and give log-likelihoods in the order of the requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import contenders, inputs
from tests.benchmarks.harness_tasks import TaskItem

if TYPE_CHECKING:
    from pipeline.scoring.counts import Counts
    from pipeline.scoring.tokens import TokenSequences


@dataclass(frozen=True, slots=True)
class Ways:
    """One model, loaded once, and the three ways to score with it."""

    name: str
    hf: Any
    inside: Any
    own: "OwnPath"

    def of(self, items: Sequence[TaskItem], batch_sizes: Sequence[int]) -> dict[str, Callable[[], list[float]]]:
        """Log-likelihoods by each way, in the order of the requests."""
        requests = [instance for item in items for instance in item.instances]

        def by_harness(lm: Any, batch_size: int) -> list[float]:
            lm.batch_size_per_gpu = batch_size
            return [logprob for logprob, _ in lm.loglikelihood(requests, disable_tqdm=True)]

        ways = {f"harness {size}": lambda size=size: by_harness(self.hf, size) for size in batch_sizes}
        return {**ways, "inside": lambda: by_harness(self.inside, 1), "own": lambda: self.own.score(items)}


class OwnPath:
    """What `labelscore run --task` does with requests: encoded under the prompt for requests, scored by the scorer."""

    def __init__(self, model: Any, ref: Any, tokenizer: Any) -> None:
        from pipeline.prompts import REQUESTS
        from pipeline.scoring.tokens import Encoder
        from pipeline.shard import make_scorer

        self.encoder = Encoder(tokenizer, REQUESTS, context_tokens=ref.context_tokens)
        self.scorer = make_scorer(model, ref)

    def encode(self, items: Sequence[TaskItem]) -> "list[TokenSequences]":
        return self.encoder.encode([item.values for item in items])

    def score(self, items: Sequence[TaskItem]) -> list[float]:
        sequences = self.encode(items)
        scores: list[list[float]] = [[] for _ in sequences]
        for batch in self.scorer.score(sequences):
            for index, logprobs in zip(batch.indices, batch.logprob.tolist(), strict=True):
                scores[index] = logprobs[: len(sequences[index].branches)]
        return [logprob for item in scores for logprob in item]


def load(name: str, folder: Path) -> Ways:
    """Our model class from the folder, and the others around its model."""
    from pipeline.harness.lm import LabelscoreLM

    inside = LabelscoreLM(pretrained=str(folder), device="cpu", dtype="float32")
    own = OwnPath(inside.model, inside.ref, inside.tokenizer)
    return Ways(name, contenders.harness(inside.model, inside.tokenizer), inside, own)


def make_random(folder: Path) -> Path:
    """The random Gemma of the other CPU table, with room for eight solved examples."""
    model = inputs.random_gemma()
    model.config.max_position_embeddings = 8_192  # its rotary positions have no weights
    return inputs.save_model_folder(folder, model)


def row_sizes(sequences: "TokenSequences") -> list[int]:
    """Tokens that the harness forwards for each of an item's rows: choices whose rows are the same have one."""
    rows = {branch[:-1] for branch in sequences.branches}
    return [max(1, len(sequences.prompt_ids) + len(row)) for row in rows]


class counted:
    """Counts the tokens, padding included, that the harness hands to the model: `with counted(lm) as count`."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def __enter__(self) -> dict[str, int]:
        count, call = {"tokens": 0}, self._lm._model_call

        def counting(inps: Any, *args: Any, **kwargs: Any) -> Any:
            count["tokens"] += inps.numel()
            return call(inps, *args, **kwargs)

        self._lm._model_call = counting
        return count

    def __exit__(self, *_: object) -> None:
        del self._lm._model_call  # the class's own is left


def own_counts(own: OwnPath, items: Sequence[TaskItem]) -> "Counts":
    """What the scorer counts for the items."""
    from pipeline.scoring.counts import Counts

    own.scorer.counts = Counts()
    own.score(items)
    return own.scorer.counts
