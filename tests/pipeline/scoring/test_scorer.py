"""Scores over a tree of labels are those of one forward for each label."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring.scorer import NonFiniteScore, Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.items import item_sets, make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.tiny_models import ROWS_CONFIGS, TREE_CONFIGS, tiny_model

RULES = ("logprob", "logit", "notebook_logit")


def collect(scorer: Scorer, items: list[TokenSequences]) -> dict[str, Tensor]:
    """All scores in the items' order; every item must come out once."""
    found: dict[str, Tensor] = {}
    seen: list[int] = []
    for batch in scorer.score(items):
        seen += batch.indices
        for rule in RULES:
            scores = getattr(batch, rule)
            if scores is not None:
                found.setdefault(rule, torch.full((len(items), scores.shape[1]), torch.nan))[batch.indices] = scores
    assert sorted(seen) == list(range(len(items)))
    return found


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Infinite where one has a number and the other has none."""
    largest = 0.0
    for rule, scores in found.items():
        is_same = scores.isnan() & expected[rule].isnan()
        differences = (scores.double() - expected[rule]).abs().masked_fill(is_same, 0)
        largest = max(largest, float(differences.nan_to_num(nan=torch.inf).max()))
    return largest


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_the_tree_gives_the_scores_of_single_forwards(name: str) -> None:
    """In float32 all three scores agree to 1e-4 for every architecture, over several batches, past sliding windows."""
    model, items = tiny_model(name), make_items(12)
    scorer = Scorer(model, batch_tokens=100, notebook=True)
    assert scorer.path == "tree", scorer.path_reason
    found = collect(scorer, items)
    assert set(found) == set(RULES)
    assert largest_difference(found, score_slowly(model, items)) < 1e-4
    assert scorer.counts.batches > 2


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_the_last_layer_is_done_at_the_places_that_are_read(name: str) -> None:
    """What follows its keys and values sees the reads alone; GPT-2's code wants all tokens back, and gets them."""
    model, items = tiny_model(name), make_items(12)
    scorer = Scorer(model)
    sizes: list[int] = []
    norm = [module for module in model.modules() if "Norm" in type(module).__name__][-1]
    handle = norm.register_forward_pre_hook(lambda module, given: sizes.append(given[0].shape[-2]))
    try:
        collect(scorer, items)
    finally:
        handle.remove()
    reads = scorer.counts.read_positions
    assert scorer.counts.batches == 1
    assert sizes[-1] > reads if name == "gpt2" else sizes[-1] == reads


@pytest.mark.parametrize("name", ROWS_CONFIGS)
def test_models_that_take_no_tree_are_scored_in_rows(name: str) -> None:
    """The self-check notices state-space models, ALiBi and attention of a model's own; their scores are right too."""
    model, items = tiny_model(name), make_items(8)
    scorer = Scorer(model, batch_tokens=200, notebook=True)
    assert scorer.path == "rows"
    assert scorer.path_reason
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4
    assert scorer.counts.batches > 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_scores_of_16_bits_differ_no_more_than_the_dtype_does(name: str, dtype: torch.dtype) -> None:
    """A tree in few bits is as near to float32 as single forwards in them are, give or take one such distance."""
    items = make_items(12)
    exact = score_slowly(tiny_model(name), items)["logprob"]
    model = tiny_model(name, dtype)
    scorer = Scorer(model, batch_tokens=200)
    assert scorer.path == "tree", scorer.path_reason
    own = (score_slowly(model, items)["logprob"] - exact).abs()
    ours = (collect(scorer, items)["logprob"].double() - exact).abs()
    assert float(ours.max()) <= 2 * float(own.max())
    assert float(ours.median()) <= 1.5 * float(own.median())  # a mixture of experts may send one token elsewhere


@pytest.mark.parametrize("name", [*TREE_CONFIGS, *ROWS_CONFIGS])
@settings(max_examples=20, deadline=None)
@given(items=item_sets(), batch_tokens=st.integers(1, 300), notebook=st.booleans())
def test_scores_do_not_depend_on_batch_order_or_labels(
    name: str, items: list[TokenSequences], batch_tokens: int, notebook: bool
) -> None:
    """Whatever the budget, the order, the labels (1 to 20 tokens, beginnings of each other) and the seams."""
    model = tiny_model(name)
    scorer = scorer_of(name, notebook)
    scorer.batch_tokens = batch_tokens
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


_SCORERS: dict[tuple[str, bool], Scorer] = {}


def scorer_of(name: str, notebook: bool) -> Scorer:
    """One scorer for all examples, so that what it keeps between calls is tested too."""
    return _SCORERS.setdefault((name, notebook), Scorer(tiny_model(name), notebook=notebook))


def test_forwarded_tokens_are_the_trie_and_padding_is_none() -> None:
    """Each item's distinct trie nodes and the shared prefix once: nothing twice, nothing unneeded, no padding."""
    items = [  # each goes its own way after what all share
        TokenSequences((*ids[:6], 3 + index, *ids[6:]), ((5,), (5, 6), (5, 7, 8), (9,)), (1, 2, 3, 1), False)
        for index, ids in enumerate(item.prompt_ids for item in make_items(40))
    ]
    scorer = Scorer(tiny_model("gemma"), batch_tokens=200)
    list(scorer.score(items))
    nodes = 2  # 5 and 5 7: last label tokens are not forwarded
    expected = 6 + sum(len(item.prompt_ids) - 6 + nodes for item in items)
    counts = scorer.counts
    assert (counts.forwarded_tokens, counts.trie_tokens, counts.padding_tokens) == (expected, expected, 0)
    assert counts.items == 40


def test_labels_of_one_token_cost_nothing_more() -> None:
    """Four one-token labels forward and read as much as one does."""
    costs = []
    for labels in (((5,),), ((5,), (6,), (7,), (8,))):
        scorer = Scorer(tiny_model("gemma"))
        list(scorer.score(make_items(10, labels=labels)))
        costs.append((scorer.counts.forwarded_tokens, scorer.counts.read_positions))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_two_hundred_labels_work(name: str) -> None:
    """Labels of up to 3 tokens over a small alphabet, tree and rows."""
    labels = tuple(
        (a, b, c)[:size] for size in (1, 2, 3) for a in range(3, 9) for b in range(9, 13) for c in range(13, 23)
    )
    labels = tuple(dict.fromkeys(labels))[:200]
    items = make_items(3, labels=labels)
    model = tiny_model(name)
    assert largest_difference(collect(Scorer(model), items), score_slowly(model, items)) < 1e-4


def test_padding_of_rows_is_under_three_percent() -> None:
    """Rows are sorted by length, and a batch ends before padding grows."""
    scorer = Scorer(tiny_model("bloom"), batch_tokens=2000)
    list(scorer.score(make_items(100)))
    assert scorer.counts.padding_tokens < 0.03 * scorer.counts.forwarded_tokens


def test_batches_come_longest_first_within_the_budget() -> None:
    """Memory trouble shows at once; only a single item may exceed the budget."""
    items = make_items(30)
    scorer = Scorer(tiny_model("gemma"), batch_tokens=64)
    sizes = [[len(items[i].prompt_ids) for i in batch.indices] for batch in scorer.score(items)]
    flat = [size for batch in sizes for size in batch]
    assert flat == sorted(flat, reverse=True)
    assert all(len(batch) == 1 or sum(batch) - 6 * len(batch) <= 64 for batch in sizes)


def test_the_same_call_gives_the_same_bytes() -> None:
    """Also where the scorer has scored something else in between."""
    items = make_items(20)
    scorer = Scorer(tiny_model("gemma"), batch_tokens=100)
    first = collect(scorer, items)["logprob"]
    list(scorer.score(make_items(5, seed=9)))
    assert torch.equal(first, collect(scorer, items)["logprob"])


def test_the_model_is_left_as_it_was() -> None:
    """Between batches and after them, others may call the model and get what they always got."""
    model = tiny_model("gemma")
    ids = torch.arange(3, 30)[None]
    usual = model(ids).logits
    scorer = Scorer(model, batch_tokens=50)
    batches = scorer.score(make_items(10))
    next(batches)
    assert torch.equal(model(ids).logits, usual)
    batches.close()
    assert torch.equal(model(ids).logits, usual)


def test_nothing_to_score_gives_nothing() -> None:
    """An empty call yields no batch."""
    assert list(Scorer(tiny_model("gemma")).score([])) == []


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Cramped:
    """Makes a model's forward run out of memory above so many tokens, as a small device would."""

    def __init__(
        self, model: PreTrainedModel, max_tokens: int, error: Exception | type[Exception] = torch.OutOfMemoryError
    ) -> None:
        self.refused = 0

        def refuse(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
            if kwargs["input_ids"].numel() > max_tokens:
                self.refused += 1
                raise error

        self._hook = model.register_forward_pre_hook(refuse, with_kwargs=True)

    def __enter__(self) -> "Cramped":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("name", ["gemma", "bloom"])
def test_out_of_memory_halves_the_budget_and_goes_on(name: str) -> None:
    """Every item still comes out once and right, and the smaller budget stays."""
    model, items = tiny_model(name), make_items(20)
    scorer = Scorer(model, batch_tokens=2000)
    with Cramped(model, 150) as cramped:
        found = collect(scorer, items)
    assert cramped.refused == scorer.counts.out_of_memory > 0
    assert scorer.batch_tokens <= 150
    assert largest_difference(found, score_slowly(model, items)) < 1e-4


@pytest.mark.parametrize("name", ["gemma", "bloom"])
def test_a_single_item_that_does_not_fit_is_an_error(name: str) -> None:
    """Halving ends at one item; the message says what to do."""
    model = tiny_model(name)
    scorer = Scorer(model)
    with Cramped(model, 8), pytest.raises(RunError, match=r"out of memory .* single item"):
        list(scorer.score(make_items(5)))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory"), RuntimeError("CUDA error: out of memory")],
    ids=str,
)
def test_every_kind_of_out_of_memory_is_known(error: Exception) -> None:
    """Python, PyTorch's allocators and the driver have words of their own for it."""
    model, items = tiny_model("gemma"), make_items(20)
    scorer = Scorer(model, batch_tokens=2000)
    with Cramped(model, 150, error) as cramped:
        found = collect(scorer, items)
    assert cramped.refused > 0
    assert largest_difference(found, score_slowly(model, items)) < 1e-4


def test_a_prompt_that_does_not_fit_is_named() -> None:
    """Where the shared prompt takes the memory, cutting texts would not help."""
    model = tiny_model("gemma")
    scorer = Scorer(model)
    with Cramped(model, 50), pytest.raises(RunError, match=r"after 60 tokens of prompt"):
        list(scorer.score(make_items(3, shared=60)))


def test_memory_that_is_short_for_the_self_check_alone_costs_no_speed() -> None:
    """A probe that has to be split stays on the tree, and the budget is the usual one afterwards."""
    model = tiny_model("gemma")
    with Cramped(model, 20) as cramped:
        scorer = Scorer(model, batch_tokens=2000)
    assert cramped.refused > 0
    assert (scorer.path, scorer.batch_tokens) == ("tree", 2000)


@pytest.mark.parametrize("max_tokens", [4, 14])
def test_no_memory_for_the_self_check_is_an_error_and_no_verdict_on_the_tree(max_tokens: int) -> None:
    """The slower path would be taken for a reason that is none."""
    with Cramped(model := tiny_model("gemma"), max_tokens), pytest.raises(RunError, match="out of memory"):
        Scorer(model)


def test_other_runtime_errors_are_not_taken_for_want_of_memory() -> None:
    """A token outside the vocabulary is an error at once."""
    items = make_items(3, labels=((500, 501), (5,)))
    with pytest.raises(RunError, match=r"own forward fails for a text of 41 tokens \(IndexError"):
        list(Scorer(tiny_model("gemma")).score(items))


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_item_and_label(name: str, poison: float) -> None:
    """A token whose embedding is broken spoils exactly the label behind it."""
    model = tiny_model(name)
    items = make_items(4, labels=((5,), (2, 7), (8,)))
    scorer = Scorer(model, batch_tokens=60)
    with Poisoned(model, 2, poison), pytest.raises(NonFiniteScore) as caught:
        list(scorer.score(items))
    assert caught.value.label_index == 1
    assert 0 <= caught.value.index < 4


class Poisoned:
    """Makes the hidden state of one token non-finite at the embedding's output."""

    def __init__(self, model: PreTrainedModel, token: int, poison: float) -> None:
        self._token, self._poison = token, poison
        self._hook = model.get_input_embeddings().register_forward_hook(self._spoil)

    def _spoil(self, module: object, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.masked_fill((args[0] == self._token)[..., None], self._poison)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
