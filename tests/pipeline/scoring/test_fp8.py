"""Linear layers in FP8: what they compute, and that trees of labels stay right over them."""

import copy
import importlib.util
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AfmoeConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline.errors import InputError, RunError
from pipeline.scoring import fp8
from pipeline.scoring.copies import copy_model
from pipeline.scoring.fp8 import Fp8Linear, Fp8MLP, Rounding, find_rounding, fp8_layers, to_fp8
from pipeline.scoring.fp8_rounding import FP8, LARGEST
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.widened import in_float32
from tests.conftest import ROOT
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_probe import LooksBack
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import TREE_CONFIGS, VOCABULARY, loud_model, tiny_config

# Of the 13 architectures: those whose MLPs are gated by SiLU or GELU, and how many linear layers the others have.
GATED = {"gemma", "gemma2", "gemma3", "llama", "qwen3", "mistral", "stablelm"}
LINEARS = {"gpt2": 4, "gpt_neox": 4, "opt": 6, "phi": 6, "gpt_oss": 4, "nemotron": 6}


def fp8_model(name: str) -> PreTrainedModel:
    """A tiny model whose layers are in FP8; its heads have sizes that are multiples of 16."""
    model = loud_model(tiny_config(name, head_dim=16)).to(torch.bfloat16)
    to_fp8(model, name)
    return model


# --- what a layer computes ------------------------------------------------------------------------------------------


NUMBERS = {code: float(torch.tensor([code], dtype=torch.uint8).view(FP8).float()) for code in range(256)}


def rounded_slowly(row: list[float]) -> list[float]:
    """A row, each number rounded to the nearest of FP8's once the row's largest is scaled to the largest of these."""
    scale = torch.tensor(max(map(abs, row))) / LARGEST
    scaled = (torch.tensor(row) / scale).tolist()
    codes = [code for code, number in NUMBERS.items() if math.isfinite(number)]
    nearest = [min(codes, key=lambda code: (abs(NUMBERS[code] - number), code % 2)) for number in scaled]
    return [NUMBERS[code] * float(scale) for code in nearest]


def test_each_row_is_rounded_to_the_nearest_numbers() -> None:
    """By a scale of its own, whatever stands in the other rows; zeros stay zeros, and what is no number stays none."""
    torch.manual_seed(0)
    rows = torch.randn(4, 48) * torch.tensor([1.0, 1e-4, 3000.0, 0.0])[:, None]
    found, scales = fp8.quantize(rows)
    assert (found.dtype, scales.shape) == (FP8, (4, 1))
    for row, expected in zip(found.double() * scales, rows[:3], strict=False):
        torch.testing.assert_close(row, torch.tensor(rounded_slowly(expected.tolist())).double(), rtol=1e-5, atol=0)
    assert not found[3].float().any()
    rows[1, 0], rows[2, 0] = torch.nan, torch.inf
    numbers = (lambda rounded, scale: rounded.float() * scale)(*fp8.quantize(rows))
    assert numbers.isnan().any(dim=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("kind", ["linear", "with bias", "conv"])
def test_a_layer_multiplies_what_is_rounded(kind: str) -> None:
    """Both weights and tokens, and adds its bias to the product; in float32 the tokens are left as they are."""
    torch.manual_seed(0)
    layer = Conv1D(48, 32) if kind == "conv" else nn.Linear(32, 48, bias=kind == "with bias")
    layer = layer.to(torch.bfloat16)
    weight = layer.weight.detach().T if kind == "conv" else layer.weight.detach()
    bias = torch.zeros(48) if layer.bias is None else layer.bias.detach().normal_().float()
    given = torch.randn(2, 3, 32).to(torch.bfloat16)
    turned = Fp8Linear(layer)
    assert turned.rounded.is_contiguous()  # as the matrix product wants it
    weights = torch.tensor([rounded_slowly(row) for row in weight.float().tolist()])
    tokens = torch.tensor([rounded_slowly(row) for row in given.float().view(6, 32).tolist()])
    expected = (tokens.double() @ weights.double().T + bias).view(2, 3, 48)
    found = turned(given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)
    exact = given.double() @ weights.double().T + bias
    torch.testing.assert_close(turned(given.float()).double(), exact, rtol=0, atol=1e-5)
    assert not torch.allclose(exact, expected, rtol=0, atol=1e-3)


class Gated(nn.Module):
    """An MLP as most models have it; `formula` is what it makes of its gate and what goes through it."""

    def __init__(
        self, act_fn: Any, formula: Callable[["Gated", Tensor, Tensor], Tensor], *, bias: bool = False
    ) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(32, 48, bias=bias) for _ in range(2))
        self.down_proj = nn.Linear(48, 32, bias=bias)
        self.act_fn, self._formula = act_fn, formula

    def forward(self, given: Tensor) -> Tensor:
        down: Tensor = self.down_proj(self._formula(self, self.gate_proj(given), self.up_proj(given)))
        return down


def plain(mlp: Gated, gate: Tensor, up: Tensor) -> Tensor:
    acted: Tensor = mlp.act_fn(gate) * up
    return acted


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


@pytest.mark.parametrize(
    ("act_fn", "formula", "is_gelu"),
    [
        (nn.SiLU(), plain, False),
        (gelu_tanh, plain, True),
        (F.gelu, plain, None),  # by another formula, 5e-4 apart
        (F.relu, plain, None),
        (nn.SiLU(), lambda mlp, gate, up: mlp.act_fn(up) * gate, None),
        (nn.SiLU(), lambda mlp, gate, up: mlp.act_fn(gate) * up * 1.001, None),
        (nn.SiLU(), lambda mlp, gate, up: mlp.act_fn(gate) * up.clamp(-7, 7), None),
        (nn.SiLU(), lambda mlp, gate, up: mlp.act_fn(gate) * (up + 1), None),
        (nn.SiLU(), lambda mlp, gate, up: mlp.act_fn(gate) * up * (gate.abs() > 0.01), None),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_an_mlp_is_fused_by_what_it_computes(act_fn: Any, formula: Any, is_gelu: bool | None, bias: bool) -> None:
    """Not by its class, nor the names of its parts: one that clips, scales, adds or leaves out keeps its own code."""
    torch.manual_seed(0)
    mlp = Gated(act_fn, formula, bias=bias).to(torch.bfloat16)
    before = copy.deepcopy(mlp.state_dict())
    assert fp8._gated_by(mlp) is is_gelu
    assert all(torch.equal(before[key], value) for key, value in mlp.state_dict().items())


@pytest.mark.parametrize("is_gelu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fused_mlp_computes_what_its_layers_do(is_gelu: bool, bias: bool) -> None:
    """Each by itself in FP8, but for bfloat16's rounding in between; in float32 to the last digits."""
    torch.manual_seed(0)
    mlp = Gated(gelu_tanh if is_gelu else F.silu, plain, bias=bias).to(torch.bfloat16)
    fused = Fp8MLP(mlp, is_gelu=is_gelu, rounding=fp8.BY_PYTORCH)
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(mlp, name, Fp8Linear(getattr(mlp, name)))
    given = torch.randn(1, 50, 32).to(torch.bfloat16)
    torch.testing.assert_close(fused(given.float()), mlp(given.float()), rtol=0, atol=1e-6)
    apart = (fused(given) - mlp(given)).float().norm(dim=-1) / mlp(given).float().norm(dim=-1)
    assert apart.max() < 0.05


def test_a_compiler_takes_a_layer_as_one_piece() -> None:
    """Whatever number of tokens comes: two programs, one of them for a single token."""
    torch.manual_seed(0)
    fused = Fp8MLP(Gated(gelu_tanh, plain, bias=True).to(torch.bfloat16), is_gelu=True, rounding=fp8.BY_PYTORCH)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(fused, backend="aot_eager", dynamic=True, fullgraph=True)
    with torch.inference_mode():
        for num_tokens in (5, 17, 64, 1, 33):
            given = torch.randn(1, num_tokens, 32).to(torch.bfloat16)
            torch.testing.assert_close(compiled(given), fused(given), rtol=0, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_layer_that_is_read_past_its_forward_is_an_error() -> None:
    """Code that takes the weight for itself would take rounded numbers without their scales."""
    with pytest.raises(AttributeError, match="weight"):
        _ = Fp8Linear(nn.Linear(16, 16).to(torch.bfloat16)).weight


# --- turning a model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_all_linear_layers_of_the_body_are_turned(name: str) -> None:
    """And nothing else: embeddings, norms and head stay as they were, and what is in FP8 is there once."""
    before = loud_model(tiny_config(name, head_dim=16)).to(torch.bfloat16)
    model = copy.deepcopy(before)
    num_layers = model.config.num_hidden_layers
    assert to_fp8(model, name) == len(fp8_layers(model)) == num_layers * (LINEARS.get(name) or 5)
    assert sum(isinstance(layer, Fp8MLP) for layer in fp8_layers(model)) == num_layers * (name in GATED)
    kept, usual = model.state_dict(), before.state_dict()
    assert all(torch.equal(kept[key], usual[key]) for key in kept.keys() & usual.keys())
    left = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    assert left == [model.get_output_embeddings()]  # type: ignore[no-untyped-call]
    assert model.dtype == torch.bfloat16


def test_weights_go_as_their_layers_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in 16 bits of one decoder layer are there beside those in FP8, never a second model."""
    model = loud_model(tiny_config("llama", head_dim=16)).to(torch.bfloat16)
    weights = [weakref.ref(m.weight) for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    quantize, num_alive = fp8.quantize, list[int]()

    def counting(rows: Tensor) -> tuple[Tensor, Tensor]:
        num_alive.append(sum(weight() is not None for weight in weights))
        return quantize(rows)

    monkeypatch.setattr(fp8, "quantize", counting)
    to_fp8(model, "llama")
    assert len(num_alive) == len(weights) == 3 * 7
    assert all(alive <= len(weights) - 7 * (turned // 7) for turned, alive in enumerate(num_alive))
    assert not any(weight() is not None for weight in weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hidden_size": 40, "head_dim": 10, "intermediate_size": 56},
            "a layer is 40 x 40, and sizes have to be multip",
        ),
        ({"dtype": torch.float32}, "a layer is kept in float32"),
    ],
)
def test_a_model_with_no_layer_to_turn_is_refused(change: dict[str, Any], words: str) -> None:
    """With the reason in one line, and what to write instead."""
    dtype = change.pop("dtype", torch.bfloat16)
    model = loud_model(tiny_config("llama", **change)).to(dtype)
    with pytest.raises(InputError, match=rf"tiny: none of its layers .* \({words}.*\); use --dtype bfloat16 or auto"):
        to_fp8(model, "tiny")


def test_what_chooses_experts_stays_in_16_bits() -> None:
    """Where it is a linear layer; one that has as many outputs by chance is turned."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_experts": 16, "num_experts_per_tok": 2, "num_dense_layers": 1, "moe_intermediate_size": 32}
    model = loud_model(AfmoeConfig(**sizes, **experts, head_dim=16, vocab_size=VOCABULARY)).to(torch.bfloat16)
    assert model.base_model.layers[1].self_attn.k_proj.weight.shape == (16, 32)
    to_fp8(model, "experts")
    left = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert left == ["model.layers.1.mlp.router.gate", "lm_head"]


# --- trees of labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_a_tree_in_fp8_is_as_right_as_single_forwards(name: str) -> None:
    """To 1e-4 while nothing that comes in is rounded; in FP8 as near to that as single forwards in FP8 are.

    Give or take one such distance, on average.
    """
    model, items = fp8_model(name), make_items(12)
    scorer = Scorer(model, batch_tokens=200)
    assert scorer.path == "tree", scorer.path_reason
    own = score_slowly(model, items)["logprob"]
    ours = collect(scorer, items)["logprob"].double()
    with in_float32(model):
        exact = score_slowly(model, items)["logprob"]
        found = {"logprob": scorer._logprob(items, "tree")}
    assert largest_difference(found, {"logprob": exact}) < 1e-4
    assert (ours - exact).abs().mean() <= 2 * (own - exact).abs().mean()
    assert (ours - own).abs().mean() <= 2 * (own - exact).abs().mean()


def test_a_wrong_mask_shows_in_fp8() -> None:
    """It hides behind what FP8 does to scores, but not where tokens are not rounded."""
    model = fp8_model("mistral")
    model.model.layers[0].mlp = LooksBack(model.model.layers[0].mlp)
    scorer = Scorer(model)
    assert scorer.path == "rows"
    assert "differ" in str(scorer.path_reason)


def test_what_fp8_moves_is_said() -> None:
    """Where a tree is further from single forwards than bfloat16 would have it, though it is right in float32."""
    config = tiny_config("gpt_oss", head_dim=16)
    model = loud_model(config).to(torch.bfloat16)
    to_fp8(model, "gpt_oss")
    scorer = Scorer(model)
    assert scorer.path == "tree"
    assert "in fp8 the scores here differ by up to" in str(scorer.remark)


def one_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens of a forward by one scale: what each becomes depends on the largest of them."""
    scale = (rows.abs().amax().float() / LARGEST).expand(len(rows), 1)
    return (rows.float() / scale).to(FP8), scale


def another_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each token by a scale that is not its own, as a faulty kernel might have it."""
    rounded, scales = fp8.quantize(rows)
    return rounded, scales.roll(1, dims=0)


@pytest.mark.parametrize(
    ("rounding", "words"),
    [
        (one_scale, "a layer gives a token other numbers when larger ones are beside it"),
        (another_scale, "a layer gives other numbers than in float32"),
    ],
)
@pytest.mark.parametrize("name", ["gemma", "gpt2"])
def test_a_wrong_rounding_is_refused(
    name: str, rounding: Callable[[Tensor], tuple[Tensor, Tensor]], words: str
) -> None:
    """One scale for all tokens, or one of another: rounding would hide in the scores what that does to them."""
    model = fp8_model(name)
    for layer in model.modules():
        if isinstance(layer, Fp8Linear):
            layer.rounding = Rounding(rounding, lambda both, is_gelu: rounding(_gated(both, is_gelu)))
    with pytest.raises(RunError, match=f"in fp8 {words}, so that its scores cannot be trusted; use --dtype bfloat16"):
        Scorer(model)


def _gated(both: Tensor, is_gelu: bool) -> Tensor:
    gate, up = both.float().chunk(2, dim=-1)
    return (gelu_tanh(gate) if is_gelu else F.silu(gate)) * up


@pytest.mark.parametrize("name", ["gemma", "gpt2"])
def test_copies_share_weights_in_fp8(name: str) -> None:
    """And scores are the same in one lane and in two, which forward copies."""
    model, items = fp8_model(name), make_items(60)
    twin = copy_model(model)
    for (key, own), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert own.data_ptr() == other.data_ptr(), key
    usual, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            found.append(collect(Scorer(model, batch_tokens=100), items)["logprob"])
    finally:
        torch.set_num_threads(usual)
    own = score_slowly(model, items)["logprob"]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert (found[0] - own).abs().max() < 0.5


# --- kernels --------------------------------------------------------------------------------------------------------

HAS_TRITON = importlib.util.find_spec("triton") is not None
# Triton's interpreter makes 64 of 127: what rounding carries into the exponent is lost there, as it is on no GPU.
INTERPRETED = """
import torch
from pipeline.scoring import fp8, fp8_kernels as kernels
torch.manual_seed(0)
both = torch.randn(7, 96) * torch.tensor([1, 1e-3, 1e3, 1, 0, 1, 1])[:, None]
both[5, 3], both[6, 60] = torch.nan, torch.inf
slices = torch.cat([both, both], dim=1)[:, :96]
for found, expected in [
    (kernels.quantize(both), fp8.quantize(both)),
    (kernels.quantize(slices), fp8.quantize(both)),
    (kernels.gate_and_quantize(both, True), fp8.gate_and_quantize(both, True)),
    (kernels.gate_and_quantize(both, False), fp8.gate_and_quantize(both, False)),
]:
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=0, equal_nan=True)
    assert found[1][5].isnan() and not found[1][6].isfinite()
    rows, known = found[0][:5].float(), expected[0][:5].float()
    is_power = known.abs().log2().frac() == 0
    assert torch.equal(torch.where(is_power & (rows == known / 2), known, rows), known)
    assert (rows == known).double().mean() > 0.9
compiled = torch.compile(kernels.gate_and_quantize, backend="aot_eager", dynamic=True, fullgraph=True)
for num_rows in (3, 5):
    for found, expected in zip(compiled(both[:num_rows], True), kernels.gate_and_quantize(both[:num_rows], True)):
        assert torch.equal(found.float(), expected.float())
"""


@pytest.mark.skipif(not HAS_TRITON, reason="no Triton")
def test_kernels_give_pytorchs_numbers() -> None:
    """As Triton interprets them, also for numbers that are none: these must not turn into scores."""
    code = "import os; os.environ['TRITON_INTERPRET'] = '1'" + INTERPRETED
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_kernels_are_for_gpus_alone() -> None:
    """A CPU goes without, and nobody needs to hear of it."""
    assert find_rounding(torch.device("cpu")) == (fp8.BY_PYTORCH, None)
    assert Scorer(fp8_model("gpt2")).remark is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device")
def test_where_kernels_fail_it_is_said_why() -> None:
    """Whatever is missing, Triton, a compiler or here the GPU: PyTorch does their work, and the reason is kept."""
    rounding, why = find_rounding(torch.device("cuda"))
    assert rounding is fp8.BY_PYTORCH
    assert why
    assert "\n" not in why


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnCuda:
    """FP8 where it is made for."""

    def test_kernels_give_pytorchs_numbers(self) -> None:
        """At a real model's sizes; otherwise the reason says what differs."""
        rounding, why = find_rounding(torch.device("cuda"))
        assert why is None
        both = (torch.randn(300, 2 * 16384, device="cuda") * 10).to(torch.bfloat16)
        for found, expected in (
            (rounding.quantize(both), fp8.quantize(both)),
            (rounding.gate_and_quantize(both, True), fp8.gate_and_quantize(both, True)),
        ):
            torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=0)
            assert (found[0].float() != expected[0].float()).double().mean() < 0.01

    @pytest.mark.parametrize("name", ["gemma", "gpt2"])
    def test_a_layer_multiplies_as_it_is_emulated(self, name: str) -> None:
        """To what adding up in another order and in fewer bits changes."""
        model = fp8_model(name)
        there = copy.deepcopy(model).cuda()
        for layer, other in zip(fp8_layers(model), fp8_layers(there), strict=True):
            size = next(iter(layer.buffers())).shape[1]
            given = torch.randn(1, 40, size).to(torch.bfloat16)
            expected, found = layer(given).float(), other(given.cuda()).cpu().float()
            assert ((found - expected).norm(dim=-1) <= 0.02 * expected.norm(dim=-1)).all()

    @pytest.mark.parametrize("name", TREE_CONFIGS)
    def test_a_tree_in_fp8_stays_one(self, name: str) -> None:
        """The self-check agrees, and scores are as near to float32 as single forwards are."""
        model, items = fp8_model(name).cuda(), make_items(12)
        scorer = Scorer(model, batch_tokens=200)
        assert scorer.path == "tree", scorer.path_reason
        own = score_slowly(model, items)["logprob"]
        with in_float32(model):
            exact = score_slowly(model, items)["logprob"]
        ours = collect(scorer, items)["logprob"].double()
        assert (ours - exact).abs().mean() <= 2 * (own - exact).abs().mean()
