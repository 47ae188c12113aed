"""The self-check tells models whose scores a tree would spoil."""

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BigBirdConfig,
    DeepseekV32Config,
    DogeConfig,
    GlmMoeDsaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from pipeline.errors import RunError
from pipeline.scoring.probe import made_up_items, make_probe
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from pipeline.scoring.widened import in_float32
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


def test_what_a_models_own_code_raises_is_told_in_one_line() -> None:
    """Messages from a model's code may have many lines."""

    class Fails(LooksBack):
        def forward(self, hidden: Tensor) -> Tensor:
            raise ValueError("shapes:\n  1 and\n  2")

    model = mistral(None)
    model.model.layers[0].mlp = Fails(model.model.layers[0].mlp)
    with pytest.raises(RunError, match=r"own forward fails for a text of 15 tokens \(ValueError: shapes: 1 and 2\)"):
        Scorer(model)


def test_a_model_that_ends_on_several_tokens_is_probed() -> None:
    """Chat models name a list of end tokens; none of them is an ordinary token."""
    model = mistral(None)
    model.config.eos_token_id = [2, 3]
    assert Scorer(model).path == "tree"


def test_tiny_models_have_tokens_to_probe() -> None:
    """A vocabulary of some dozens of tokens is enough."""
    assert Scorer(tiny_model("llama")).path == "tree"


# --- as far as the data ---------------------------------------------------------------------------------------------

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
_LATENT = {
    **_SIZES,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
}
SPARSE = {  # models that attend to a few tokens chosen from the whole sequence, and how many these are
    "deepseek_v32": (lambda: DeepseekV32Config(**_LATENT), 16),
    "glm_moe_dsa": (lambda: GlmMoeDsaConfig(**_LATENT), 16),
    "doge": (lambda: DogeConfig(**_SIZES, num_key_value_heads=2, keep_window_size=32), 32),
}


def loud(model: PreTrainedModel, factor: float = 5) -> PreTrainedModel:
    """Weights that make scores differ by whole nats; sparse attention that has something to choose by."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def sparse(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(SPARSE[name][0]())
    return loud(model)


@pytest.mark.parametrize("name", SPARSE)
def test_a_model_that_is_causal_up_to_a_length_scores_what_is_shorter(name: str) -> None:
    """Up to as many tokens as it attends to, nothing is chosen, and the scores are those of single forwards."""
    model = sparse(name)
    scorer = Scorer(model)
    short = [item for item in make_items(30) if len(item.prompt_ids) <= SPARSE[name][1] - 4]
    assert len(short) > 2
    assert largest_difference(collect(scorer, short), score_slowly(model, short)) < 1e-4


@pytest.mark.parametrize("name", SPARSE)
def test_a_model_that_is_causal_up_to_a_length_refuses_what_is_longer(name: str) -> None:
    """Beyond it scores depend on what comes later or on how they are batched: one line, and no figure."""
    scorer = Scorer(sparse(name))
    with pytest.raises(RunError, match=r"causal only up to about \d+ tokens|depend on how texts are batched") as caught:
        list(scorer.score(make_items(4, shared=60)))
    assert "max_text_tokens" in str(caught.value)


def test_a_model_that_a_short_text_changes_is_refused() -> None:
    """BigBird's blocks turn to full attention for good when a short text comes: plain forwards tell by fresh copies."""
    config = BigBirdConfig(**_SIZES, is_decoder=True, attention_type="block_sparse", block_size=4, num_random_blocks=3)
    torch.manual_seed(0)
    model = loud(AutoModelForCausalLM.from_config(config))
    scorer = Scorer(model)
    with pytest.raises(RunError):
        list(scorer.score(make_items(4, shared=100)))


def test_the_longest_length_is_checked_once() -> None:
    """What is no longer than what was checked is scored with no further plain forward."""
    model, items = mistral(None), make_items(12)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))  # its copies have it too
    scorer = Scorer(model)
    counts = []
    for _ in range(3):
        calls.clear()
        list(scorer.score(items))
        counts.append(len(calls))
    assert counts[0] > counts[1] == counts[2]


def test_a_request_as_long_as_the_context_is_checked() -> None:
    """With the token that is scored and never forwarded it is longer than the model's positions."""
    model = tiny_model("gpt2")
    prompt = tuple(3 + i % 100 for i in range(255))
    items = [TokenSequences(prompt, ((5, 6),), (2,), False), TokenSequences(prompt[:200], ((7,),), (1,), False)]
    found = collect(Scorer(model), items)["logprob"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([(*prompt, 5)])).logits[0].double()
    expected = logits[254].log_softmax(0)[5] + logits[255].log_softmax(0)[6]
    assert abs(float(found[0, 0]) - float(expected)) < 1e-4


class LooksBackFarOn(LooksBack):
    """One that does so from the 90th place of the row on."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.inner(hidden[:, :90]), super().forward(hidden)[:, 90:]], dim=1)


def test_a_tree_that_is_wrong_in_long_texts_alone_is_left_there() -> None:
    """A fault that no short probe shows turns the scorer to rows when the long texts come, with the length."""
    model = mistral(None)
    model.model.layers[0].mlp = LooksBackFarOn(model.model.layers[0].mlp)
    scorer = Scorer(model)
    assert scorer.path == "tree"
    items = make_items(4, shared=100)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4
    assert scorer.path == "rows"
    assert "in texts of" in str(scorer.path_reason)


# --- a wrong mask, or few bits --------------------------------------------------------------------------------------


def experts(seed: int, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Many experts and layers: in bfloat16 a token's choice of them often turns on the last bit."""
    torch.manual_seed(seed)
    sizes = _SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Qwen3MoeConfig(
        **sizes, num_experts=32, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=[]
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.to(dtype).eval()


class Steps(nn.Module):
    """A layer that in few bits turns small differences into steps, as the choice of experts does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        mixed: Tensor = self.inner(hidden if hidden.dtype == torch.float32 else 3 * hidden.sign())
        return mixed


def test_steps_in_few_bits_are_no_wrong_mask() -> None:
    """Beyond bfloat16's tolerance and right in float32: the tree stays, and it is said how rough the scores are."""
    model = experts(0)
    for layer in model.model.layers:
        layer.mlp = Steps(layer.mlp)
    scorer = Scorer(model)
    probe = make_probe(model, made_up_items(model.config))
    assert scorer._check._differences(probe, "tree").max() > probe.tolerance
    assert scorer.path == "tree"
    assert "rough" in str(scorer.remark)
    assert "in float32 all agree" in str(scorer.remark)


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_experts_stays_on_the_tree(seed: int) -> None:
    """Whether or not a token is sent to other experts there than in single forwards."""
    assert Scorer(experts(seed)).path == "tree"


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_mask_is_told_from_flips(seed: int) -> None:
    """Also one whose effect is within bfloat16's tolerance: in float32 it shows."""
    model = experts(seed)
    model.model.layers[0].mlp = LooksBack(model.model.layers[0].mlp)
    scorer = Scorer(model)
    assert scorer.path == "rows"
    assert "differ" in str(scorer.path_reason)


def test_weights_are_as_they_were_after_float32() -> None:
    """Bit for bit, and the model's own bfloat16 scores with them; within, they are those of float32."""
    model, exact = experts(0), experts(0).float()
    items = make_items(3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with in_float32(model):
        widened = score_slowly(model, items)["logprob"]
    assert torch.allclose(widened, score_slowly(exact, items)["logprob"], atol=1e-4)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
