"""The sweep over models tells them apart: over trees, over rows, refused, wrong; and what became of another code's."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.benchmarks import architectures_run
from tests.benchmarks.architectures_case import Outcome, _judge, _score_alone, make_texts, run_case
from tests.benchmarks.architectures_cases import list_cases
from tests.benchmarks.architectures_model import draw_ids, fresh, make_loud
from tests.benchmarks.architectures_report import section
from tests.benchmarks.architectures_shrink import Variant, tiny_config

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_configuration_keeps_each_kind_of_layer() -> None:
    """Sizes shrink; sliding and full attention, dense and sparse layers stay."""
    config = tiny_config("gemma3_text", Variant(window=9))
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert (config.sliding_window, config.vocab_size, config.hidden_size) == (9, 113, 64)
    assert set(tiny_config("glm4_moe_lite", Variant()).mlp_layer_types) == {"dense", "sparse"}


def test_every_model_type_is_in_the_sweep() -> None:
    """One float32 case for each, whether it can be made or not."""
    listed = list_cases(None, ["float32"])
    assert listed == [(name, "float32") for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]


def test_a_case_that_changes_nothing_is_left_out() -> None:
    """GPT-2 has no window, and no limit but its positions."""
    assert list_cases(["gpt2", "mistral"], ["wide window"]) == [("mistral", "wide window")]
    assert list_cases(["gpt2", "deepseek_v32"], ["beyond limits"]) == [("deepseek_v32", "beyond limits")]


def test_a_token_shows_in_a_loud_model() -> None:
    """What a wrong mask would hide moves scores by far more than rounding does."""
    model, factor, effect = make_loud("llama", Variant())
    assert factor > 1
    assert effect > 0.1
    ids = torch.tensor([draw_ids(random.Random(0), 20)])
    with torch.inference_mode():
        assert torch.equal(fresh(model)(input_ids=ids).logits, fresh(model)(input_ids=ids).logits)


def test_expected_scores_do_not_depend_on_what_was_forwarded_before() -> None:
    """Dynamic rotary positions keep the factors of a long sequence; each is forwarded by a model that saw none."""
    model, _, _ = make_loud("llama", Variant(rope="dynamic"))
    items = make_texts()
    forwards = _score_alone(model, items)
    backwards = _score_alone(model, items[::-1]).flip(0)
    assert torch.equal(forwards, backwards)


def test_other_scores_than_plain_forwards_are_wrong() -> None:
    """A difference beyond rounding is told, with its size."""
    model, _, _ = make_loud("llama", Variant())
    items = make_texts()
    expected = _score_alone(fresh(model), items)
    expected[1, 2] += 0.5
    outcome = Outcome("", tolerance=1e-3)
    _judge(outcome, model, items, expected)
    assert outcome.verdict == "wrong"
    assert outcome.difference == pytest.approx(0.5, abs=1e-3)


def test_what_cannot_be_made_is_told_and_not_raised() -> None:
    """A family that needs a package, or another model, is one row of the table."""
    outcome = run_case("musicgen", Variant(), "float32")
    assert outcome["verdict"] == "unbuilt"
    assert "MusicgenConfig" in outcome["why"]


def test_a_case_that_takes_too_long_is_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is killed, and the sweep goes on."""
    monkeypatch.setattr(architectures_run, "MAX_SECONDS", 0)
    outcomes = dict(architectures_run.run_all([("llama", "float32"), ("gpt2", "float32")]))
    assert [outcome["why"] for outcome in outcomes.values()] == ["not done after 0 s"] * 2


def test_what_was_exact_before_and_is_no_more_is_named() -> None:
    """Refused or wrong instead of exact, and rows instead of a tree, by name and case."""

    def outcomes(*verdicts: str) -> dict[str, dict[str, object]]:
        keys = ("llama/float32", "bloom/float32", "phi3/longrope", "opt/float32")
        return {key: {"verdict": v, "why": "", "difference": 0.0} for key, v in zip(keys, verdicts, strict=True)}

    body = section(outcomes("rows", "refused", "tree", "tree"), "then", outcomes("tree", "rows", "wrong", "tree"))
    assert "- exact there, not now: refused: bloom\n" in body
    assert "- on trees there, on rows now: rows: llama\n" in body
    assert "- wrong there, tree now: phi3 (longrope)" in body
    assert "| float32 | 1 (2) | 1 (1) | 1 (0) | 0 (0) | 0 (0) | 0 (0) |" in body
    same = section(outcomes(*["tree"] * 4), "then", outcomes(*["tree"] * 4))
    assert "exact there, not now: **none**" in same
    assert "**On trees in every case** (4)" in same


@pytest.mark.bench
def test_the_sweep_tells_families_apart(tmp_path: Path) -> None:
    """Llama is scored over trees, BLOOM over rows, XLNet, which looks ahead, is refused."""
    kept, results = tmp_path / "outcomes.json", tmp_path / "RESULTS.md"
    options = ["--only", "llama", "bloom", "xlnet", "--cases", "float32", "--out", str(kept), "--results", str(results)]
    command = [sys.executable, "-m", "tests.benchmarks.architectures", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    outcomes = json.loads(kept.read_text())["outcomes"]
    assert {key: outcome["verdict"] for key, outcome in outcomes.items()} == {
        "llama/float32": "tree",
        "bloom/float32": "rows",
        "xlnet/float32": "refused",
    }
    assert "| xlnet | refused |" in results.read_text()
