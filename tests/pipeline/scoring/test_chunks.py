"""However many places a batch reads, few logits exist at once, and the layers are gone through once."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from pipeline.scoring import forward
from pipeline.scoring.body import find_layers, forwarded_once
from pipeline.scoring.counts import Counts
from pipeline.scoring.forward import Shortcut
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import TREE_CONFIGS, VOCABULARY, tiny_model

MAX_READS = 5


@pytest.fixture
def heights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """At how many places logits are scored, each time; no memory for more than MAX_READS."""
    found: list[int] = []
    usual = forward.score_terms

    def score(logits: Tensor, terms: Tensor, first_read: int, *, greedy: bool = False) -> Tensor:
        found.append(len(logits))
        return usual(logits, terms, first_read, greedy=greedy)

    monkeypatch.setattr(forward, "_MAX_LOGITS", {"cpu": MAX_READS * VOCABULARY})
    monkeypatch.setattr(forward, "score_terms", score)
    return found


def reach(scorer: Scorer, items: list[TokenSequences]) -> None:
    """Have the longest items checked, which scores a few of them."""
    collect(scorer, items)
    scorer.counts = Counts()


@pytest.mark.parametrize("has_body", [True, False], ids=["body kept", "no body"])
@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_logits_are_made_at_a_few_places_at_a_time(name: str, has_body: bool, heights: list[int]) -> None:
    """The token budget alone sets the batch; the scores are those of single forwards, whatever a head does.

    A model whose layers lie in itself goes through them for each chunk, and its scores are the same.
    """
    model, items = tiny_model(name), make_items(12)
    scorer = Scorer(model, batch_tokens=2048, notebook=True, greedy=True)
    assert scorer.path == "tree"
    assert Shortcut.BODY_ONCE in scorer._tree.shortcuts
    if not has_body:
        scorer._tree.shortcuts -= {Shortcut.BODY_ONCE}
    reach(scorer, items)
    heights.clear()
    layers = find_layers(model)
    assert layers is not None
    forwards: list[int] = []
    with layers[0].register_forward_hook(lambda *_: forwards.append(1)):
        found = collect(scorer, items)
    assert largest_difference(found, score_slowly(model, items)) < 1e-4
    assert scorer.counts.batches == 1
    num_reads = scorer.counts.read_positions
    assert max(heights) == MAX_READS
    assert sum(heights) == num_reads > 4 * MAX_READS
    assert len(forwards) == 1 + (1 if has_body else -(-num_reads // MAX_READS))  # the prefix, and the batch


def test_modules_are_left_with_the_forwards_that_they_had() -> None:
    """One of the instance's own, as accelerate puts there, too; also where something fails."""
    plain, wrapped = nn.Linear(2, 2), nn.Linear(2, 2)
    own = wrapped.forward = lambda given: 2 * given
    given = torch.ones(1, 2)
    with suppress(ZeroDivisionError), forwarded_once([plain, wrapped]):
        first = wrapped(given)
        assert wrapped(torch.zeros(1, 2)) is first
        raise ZeroDivisionError
    assert "forward" not in vars(plain)
    assert wrapped.forward is own
    assert torch.equal(wrapped(torch.zeros(1, 2)), torch.zeros(1, 2))
