"""One case of the sweep: a tiny model of one family, saved and read as a user's, scored by us and by plain forwards.

Invariant: the expected scores come from a copy of the model made before any forward, a new one for each sequence, as
some models keep state from one forward to the next; nothing of `Scorer` is used for them.
"""

import random
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError, RunError
from pipeline.scoring.scorer import NonFiniteScore, Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.benchmarks.architectures_model import draw_ids, fresh, make_loud, one_line, read_model
from tests.benchmarks.architectures_shrink import Variant
from tests.pipeline.scoring.oracle import score_slowly

LABELS = ((5,), (5, 6), (5, 7, 8, 9), (10, 11), (12,))
NUM_LONG = 3  # items, the last of those that are scored


@dataclass(slots=True)
class Outcome:
    """What came of one case; nats are of log-likelihoods of whole labels."""

    verdict: str  # tree, rows, refused, wrong, crashed, unbuilt
    why: str = ""
    path: str = ""  # that the scorer took, whatever the reader said
    difference: float = 0.0  # largest, from one plain forward for each label
    tolerance: float = 0.0  # nats that rounding may make
    rebatched: float = 0.0  # largest difference of plain forwards, alone and beside others
    rough: float = 0.0  # largest difference of plain forwards in this dtype and in float32
    factor: float = 0.0  # of the weights
    effect: float = 0.0  # nats that one token of the text makes
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_case(name: str, variant: Variant, dtype: str) -> dict[str, Any]:
    """The outcome of one case, ready for JSON. Raises nothing."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        outcome = _run(name, variant, dtype)
    except Exception as error:
        outcome = Outcome("unbuilt", one_line(error))
    outcome.seconds = round(time.perf_counter() - start, 1)
    return asdict(outcome)


def _run(name: str, variant: Variant, dtype: str) -> Outcome:
    made, factor, effect = make_loud(name, variant)
    items = make_texts()
    exact = None if dtype == "float32" else _score_alone(fresh(made), items)
    with tempfile.TemporaryDirectory() as folder:
        model, refusal, notes = read_model(made, Path(folder), dtype)
    outcome = Outcome("", factor=factor, effect=round(effect, 3), notes=notes)
    untouched = fresh(model)  # of which nothing is ever forwarded
    expected = _score_alone(untouched, items)
    largest = _largest_logit(fresh(untouched), items)
    if exact is None:
        outcome.tolerance = 4e-5 * (1 + largest)
    else:
        outcome.rebatched = _rebatched(untouched, items, expected)
        eps = torch.finfo(getattr(torch, dtype)).eps
        outcome.rough = float((expected - exact).abs().max())
        outcome.tolerance = max(4 * eps * (1 + largest), 3 * outcome.rebatched, 2 * outcome.rough)
    _judge(outcome, model, items, expected)
    if outcome.verdict == "wrong":
        outcome.rebatched = _rebatched(untouched, items, expected)
    if refusal:
        outcome.verdict, outcome.why = "refused", refusal
    return outcome


def _judge(outcome: Outcome, model: Any, items: list[TokenSequences], expected: Tensor) -> None:
    """Score all items together, then the long ones alone, which share what stands before them."""
    try:
        scorer = Scorer(model)
        found = _score(scorer, items)
        shared = _score(scorer, items[-NUM_LONG:])
        outcome.path, outcome.why = scorer.path, scorer.path_reason or ""  # longer items may have turned it
    except (RunError, InputError, NonFiniteScore) as error:
        outcome.verdict, outcome.why = "refused", one_line(error)
        return
    except Exception as error:
        outcome.verdict, outcome.why = "crashed", f"{one_line(error)} ({_place(error)})"
        return
    differences = ((found - expected).abs().max(), (shared - expected[-NUM_LONG:]).abs().max())
    outcome.difference = float(max(differences))
    outcome.verdict = outcome.path if outcome.difference <= outcome.tolerance else "wrong"


# Texts and their scores


def make_texts() -> list[TokenSequences]:
    """Items of 7 to 60 tokens, and NUM_LONG of 121 to 160 that share 117: wider than all windows."""
    draw = random.Random(0)
    head, long_head = draw_ids(draw, 6), draw_ids(draw, 117)
    prompts = [head + draw_ids(draw, size) for size in (1, 12, 30, 54)]
    prompts += [long_head + draw_ids(draw, size) for size in (4, 20, 43)]
    return [TokenSequences(prompt, LABELS, tuple(map(len, LABELS)), False) for prompt in prompts]


def _score(scorer: Scorer, items: list[TokenSequences]) -> Tensor:
    scores = torch.full((len(items), len(LABELS)), float("nan"), dtype=torch.float64)
    for batch in scorer.score(items):
        scores[batch.indices] = batch.logprob.double()
    return scores


def _score_alone(model: Any, items: list[TokenSequences]) -> Tensor:
    """(items, labels): one forward for each sequence, each by a new copy. Raises ValueError where that gives NaN."""
    rows = []
    for item in items:
        single = [TokenSequences(item.prompt_ids, (label,), (len(label),), False) for label in item.branches]
        rows.append([float(score_slowly(fresh(model), [each])["logprob"]) for each in single])
    scores = torch.tensor(rows, dtype=torch.float64)
    if not scores.isfinite().all():
        raise ValueError("plain forwards give NaN or infinity")
    return scores


@torch.inference_mode()
def _largest_logit(model: Any, items: list[TokenSequences]) -> float:
    ids = torch.tensor([items[-1].prompt_ids])
    return float(model(input_ids=ids).logits.abs().max())


@torch.inference_mode()
def _rebatched(model: Any, items: list[TokenSequences], expected: Tensor) -> float:
    """How far scores move when a text is forwarded with padding behind it: what the dtype does by itself."""
    largest = 0.0
    for item, scores in zip(items, expected, strict=True):
        for branch, score in zip(item.branches, scores, strict=True):
            text = item.prompt_ids + branch
            ids = torch.tensor([text + (0,) * 17]).expand(3, -1)
            mask = (torch.arange(ids.shape[1]) < len(text)).long().expand(3, -1)
            logits = fresh(model)(input_ids=ids, attention_mask=mask).logits[0].double()
            before = logits[len(text) - len(branch) - 1 : len(text) - 1].log_softmax(-1)
            found = before[range(len(branch)), branch].sum()
            largest = max(largest, abs(float(found - score)))
    return largest


def _place(error: Exception) -> str:
    """The last line of code that an error came through."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, {last.name}"
