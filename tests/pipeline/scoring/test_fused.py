"""Compiled layers give the scores of single forwards, and where there is no compiler the model is as it was."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.scoring import attention
from pipeline.scoring.fused import Fused
from pipeline.scoring.scorer import Scorer
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Before and after, as programs are kept by their code."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def own_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """One that other tests do not get, too."""
    return copy.deepcopy(tiny_model(name, dtype))


def num_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_layers_give_the_scores_of_single_forwards(dtype: torch.dtype) -> None:
    """Items of other lengths compile nothing anew; what the self-check does in float32 is not compiled at all."""
    model, items = own_model("gemma", dtype), make_items(40)
    torch._dynamo.utils.counters.clear()
    scorer = Scorer(model, batch_tokens=200, compiles=True)
    assert scorer.remark is None
    assert scorer.kernels is not None
    assert "compiled layers" in scorer.kernels
    collect(scorer, items[:20])
    graphs = num_graphs()
    assert 0 < graphs <= 16  # what lies before and after attention, for the prefix and for a batch
    found = collect(scorer, make_items(60, seed=1))
    assert num_graphs() == graphs
    tolerance = 1e-4 if dtype == torch.float32 else scorer._check._first.tolerance
    assert largest_difference(found, score_slowly(model, make_items(60, seed=1))) < tolerance


@pytest.fixture
def without_compiler() -> AbstractContextManager[None]:
    """An image may have none; what was compiled before is not found again."""
    return torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True})


def test_without_a_compiler_it_is_said_and_the_scores_are_the_same(
    without_compiler: AbstractContextManager[None],
) -> None:
    """Nothing of the model is left changed."""
    model, items = own_model("llama"), make_items(12)
    with without_compiler:
        scorer = Scorer(model, compiles=True)
    assert scorer.remark is not None
    assert "the layers were not compiled (" in scorer.remark
    assert all(layer._compiled_call_impl is None for layer in model.model.layers)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4
    assert scorer.kernels == "attention with masks: flash attention"


def test_a_model_that_cannot_be_compiled_leaves_those_before_it_as_they_are(
    without_compiler: AbstractContextManager[None],
) -> None:
    """They go on compiled, their attention out of the programs, and no error of the compiler ends a run."""
    model, items = own_model("gemma"), make_items(12)
    first = Scorer(model, compiles=True)
    with without_compiler:
        second = Scorer(own_model("llama"), compiles=True)
    assert second.remark is not None
    assert "the layers were not compiled (" in second.remark
    assert torch._dynamo.config.suppress_errors
    assert AttentionInterface()[attention.NAME] is not attention.attend
    assert largest_difference(collect(first, items), score_slowly(model, items)) < 1e-4
    assert first.kernels is not None
    assert "compiled layers" in first.kernels


def test_layers_that_move_scores_when_compiled_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check holds them against its probe's single forwards."""

    def spoil(fused: Fused, model: torch.nn.Module) -> None:
        fused._layers, fused._suppressed = list(model.model.layers[:-1]), True
        for layer in fused._layers:
            forward = layer.forward
            layer._compiled_call_impl = lambda *args, forward=forward, **kwargs: 1.5 * forward(*args, **kwargs)

    monkeypatch.setattr(Fused, "__init__", spoil)
    model, items = own_model("llama"), make_items(12)
    scorer = Scorer(model, compiles=True)
    assert scorer.remark is not None
    assert "scores moved by" in scorer.remark
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


def test_models_in_rows_are_not_compiled() -> None:
    """Their attention is the model's own."""
    scorer = Scorer(own_model("bloom"), compiles=True)
    assert (scorer.path, scorer.remark) == ("rows", None)
    assert scorer.kernels == "the model's own attention: eager"
