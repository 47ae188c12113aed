"""The self-check tells models whose scores a tree would spoil."""

import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from pipeline.errors import RunError
from pipeline.scoring.scorer import Scorer
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import VOCABULARY, tiny_model


class LooksBack(nn.Module):
    """A layer that mixes in the token which stands before in the row, as convolutions and state-space models do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        before = torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        mixed: Tensor = self.inner(hidden + 0.1 * before)
        return mixed


def mistral(window: int | None) -> PreTrainedModel:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=512,
        sliding_window=window,
    )
    return MistralForCausalLM(config).eval()


def test_a_layer_that_looks_back_along_the_row_is_noticed() -> None:
    """Its scores over a tree are off, so it is scored in rows, and then they are right."""
    model = mistral(None)
    model.model.layers[0].mlp = LooksBack(model.model.layers[0].mlp)
    scorer = Scorer(model)
    assert scorer.path == "rows"
    assert scorer.path_reason is not None
    assert "differ" in scorer.path_reason
    items = make_items(6)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


@pytest.mark.parametrize("window", [4, 64, 100])
def test_windows_are_honoured_whether_or_not_they_are_probed(window: int) -> None:
    """Items longer than the window are scored right over the tree, also where the probe is shorter than it."""
    model = mistral(window)
    scorer = Scorer(model, batch_tokens=500)
    assert scorer.path == "tree", scorer.path_reason
    items = make_items(4, shared=window + 10)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


class Windowless:
    """A configuration whose layers do not hear of its sliding window."""

    def __init__(self, config: MistralConfig) -> None:
        self._config = config

    def __getattr__(self, name: str) -> object:
        return None if name == "sliding_window" else getattr(self._config, name)


def test_a_wide_window_that_no_layer_asks_for_is_not_trusted() -> None:
    """A window wider than the probe must be the configured one on each layer, else rows, with the reason."""
    model = mistral(100)
    for layer in model.model.layers:
        layer.self_attn.config = Windowless(model.config)
    scorer = Scorer(model)
    assert scorer.path == "rows"
    assert "sliding window" in str(scorer.path_reason)


def test_a_model_whose_scores_depend_on_the_batch_is_refused() -> None:
    """A model that looks ahead gives other scores in padded rows than alone: no path is right."""

    class LooksAhead(LooksBack):
        def forward(self, hidden: Tensor) -> Tensor:
            mixed: Tensor = self.inner(hidden + hidden.mean(dim=(0, 1), keepdim=True))
            return mixed

    model = mistral(None)
    model.model.layers[0].mlp = LooksAhead(model.model.layers[0].mlp)
    with pytest.raises(RunError, match="depend on how texts are batched"):
        Scorer(model)


def test_a_model_that_ends_on_several_tokens_is_probed() -> None:
    """Chat models name a list of end tokens; none of them is an ordinary token."""
    model = mistral(None)
    model.config.eos_token_id = [2, 3]
    assert Scorer(model).path == "tree"


def test_tiny_models_have_tokens_to_probe() -> None:
    """A vocabulary of some dozens of tokens is enough."""
    assert Scorer(tiny_model("llama")).path == "tree"
