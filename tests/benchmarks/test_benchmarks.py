"""The benchmarks count, compare and write what they claim, shown on toy shapes in seconds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from tests.benchmarks import contenders, gpu, inputs
from tests.benchmarks.gpu import LABEL_TOKENS, TOY, random_model, synthetic_items
from tests.benchmarks.measure import Work, body_parameters, matrix_seconds, needed_work
from tests.benchmarks.packed_flex import FlexPacked, pack
from tests.benchmarks.results import write_section

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("polars", "pyarrow", "prefect", "pydantic", "datasets", "fsspec", "rich", "altair", "ray", "lm_eval", "psutil")
UNCOMPILED = (
    "ours, as shipped",
    "ours, 8,192 tokens a batch",
    "ours, 16,384 tokens a batch",
    "ours, 65,536 tokens a batch",
    "FlexAttention, packed rows",
    "notebook's loop",
    "batched loop, a row per label",
    "batched loop, one-token labels share a row",
)


@pytest.fixture(scope="module")
def toy() -> Any:
    return random_model(TOY, "cpu", torch.float32)


@pytest.fixture(scope="module")
def items() -> list[TokenSequences]:
    return synthetic_items(12, TOY.vocabulary)


def toy_tokenizer() -> Any:
    """The harness wants one even where it is given token ids."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"t{i}": i for i in range(3, TOY.vocabulary)}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<pad>"
    )


def our_scores(model: Any, items: list[TokenSequences]) -> torch.Tensor:
    scores = torch.empty(len(items), len(items[0].branches))
    for batch in Scorer(model).score(items):
        scores[batch.indices] = batch.logprob
    return scores


def test_needed_work_counts_every_distinct_token_once() -> None:
    """Prefix once for all items, item once for all labels, common label tokens once, a label's last token never."""
    first = TokenSequences((2, 5, 6, 7), ((8,), (9, 10), (9, 11)), (1, 2, 2), False)
    second = TokenSequences((2, 5, 7), ((8,), (9, 10), (9, 11)), (1, 2, 2), False)
    work = needed_work([first, second])
    assert work.trie_tokens == 2 + (2 + 1) + (1 + 1)
    assert work.read_positions == 2 + 2  # the item's end and the 9 that two labels share, for each item
    assert work.row_tokens == (5 + 6 + 6) + (4 + 5 + 5)


def test_needed_flops_follow_the_published_formula() -> None:
    """2 x non-embedding parameters x trie tokens + 2 x hidden x vocabulary x read positions."""
    work = needed_work([TokenSequences((2, 5), ((8,), (9,)), (1, 1), False)])
    assert work.flops(body_parameters=100, hidden=8, vocabulary=50) == 2 * 100 * 2 + 2 * 8 * 50 * 1


def test_the_matrix_rate_covers_the_body_and_not_the_head(toy: Any) -> None:
    """Its FLOPs are those of all parameters outside embeddings and norms."""
    _, flops = matrix_seconds(toy, 16)
    norms = sum(p.numel() for name, p in toy.named_parameters() if "norm" in name)
    assert flops == 2 * 16 * (body_parameters(toy) - norms)


def test_all_contenders_compute_the_same_scores(toy: Any, items: list[TokenSequences]) -> None:
    """The notebook's loop is the oracle; the batched rows, shared or not, and ours agree with it."""
    expected = contenders.notebook_loop(toy, items)
    for found in (
        contenders.batched_rows(toy, items, batch_size=5),
        contenders.batched_rows(toy, items, batch_size=5, share_rows=True),
        our_scores(toy, items),
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_rows_are_shared_by_labels_that_forward_the_same_tokens(items: list[TokenSequences]) -> None:
    """Three labels of one token need one row, as in the harness; the fourth, of three tokens, one more."""
    assert len(contenders.label_rows(items, share_rows=False)) == len(LABEL_TOKENS) * len(items)
    assert len(contenders.label_rows(items, share_rows=True)) == 2 * len(items)


def test_packed_rows_hold_each_needed_token_once_a_row(items: list[TokenSequences]) -> None:
    """Beyond the prefix, which every row repeats, a packed row has the items' trie tokens and nothing else."""
    num_shared = 38
    rows = pack(items, num_shared, row_tokens=256)
    assert all(len(row.ids) <= 256 for row in rows)
    assert sum(len(row.ids) - num_shared for row in rows) + num_shared == needed_work(items).trie_tokens


def test_flex_attention_over_packed_rows_is_exact(items: list[TokenSequences]) -> None:
    """The variant that the GPU script tries gives the notebook's scores too."""
    model = random_model(TOY, "cpu", torch.float32)
    expected = contenders.notebook_loop(model, items)
    found = FlexPacked(model, row_tokens=256, num_rows=2).score(items, num_shared=38)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_synthetic_texts_have_the_lengths_of_ag_news() -> None:
    """About 53 tokens on average, between 15 and 250, the same every time."""
    items = synthetic_items(2_000, TOY.vocabulary)
    lengths = [len(item.prompt_ids) - 38 for item in items]
    assert 52 <= sum(lengths) / len(lengths) <= 54
    assert min(lengths) >= 15
    assert max(lengths) <= 250
    assert items == synthetic_items(2_000, TOY.vocabulary)


def test_a_section_of_the_results_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    """Each benchmark owns its section."""
    path = tmp_path / "RESULTS.md"
    for title, body in (("One", "old"), ("Two", "kept"), ("One", "new \\1")):
        write_section(title, "command", body, path)
    text = path.read_text(encoding="utf-8")
    assert [text.count(part) for part in ("## One\n", "## Two\n", "old", "kept", "new \\1")] == [1, 1, 0, 1, 1]


def test_the_gpu_script_runs_without_the_other_dependencies(tmp_path: Path) -> None:
    """From the project's root with torch and transformers only, on a toy shape where there is no GPU.

    The compiled variants and those with CUDA graphs are left out: without a GPU they need a C++ compiler and minutes.
    """
    blocked = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({HEAVY!r}))\n"  # None in sys.modules makes an import fail
        f"sys.argv = ['tests/benchmarks/gpu.py', '--out', {str(tmp_path)!r}, '--rounds', '1', '--skip-tests',"
        f" '--variants', *{UNCOMPILED!r}]\n"
        "runpy.run_path('tests/benchmarks/gpu.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert [name for name in UNCOMPILED if f"| {name} |" not in report] == []
    assert "failed" not in report.lower()
    assert (tmp_path / "profile.txt").is_file()
    results = tmp_path / "RESULTS.md"
    gpu.main(["--keep", str(tmp_path / "gpu.json"), "--results", str(results)])
    kept = results.read_text(encoding="utf-8")
    assert "gpu.py --out DIR --rounds 1 --variants 'ours, as shipped'" in kept
    assert (
        "**Partial**: not measured in this run: ours + torch.compile of MLPs and norms, ours + torch.compile, " in kept
    )


def test_a_failure_of_the_gpu_script_is_noted_and_not_raised(tmp_path: Path) -> None:
    """What an action dies of lies under its name, and figures that stop at the model still make a text."""
    errors: dict[str, str] = {}
    assert gpu.attempt(errors, "matrix_rate", lambda: 1 // 0) is None
    assert gpu.attempt(errors, "profile", lambda: 5) == 5
    assert errors == {"matrix_rate": "ZeroDivisionError: integer division or modulo by zero"}
    assert (
        gpu.render({"errors": errors}) == "Failed: matrix_rate: ZeroDivisionError: integer division or modulo by zero."
    )


def test_limit_scaling_and_tried_write_their_sections(shared: Path, tmp_path: Path) -> None:
    """All run on a few items and write the section that carries their own command; nothing is compiled here."""
    from tests.benchmarks import limit, scaling, tried

    results = tmp_path / "RESULTS.md"
    limit.main(["--items", "8", "--rounds", "1", "--prompts", "answer", "--results", str(results)])
    small = ["--items", "8", "--labels", "4", "16", "--lengths", "16", "--label-items", "8", "--length-tokens", "64"]
    scaling.main([*small, "--rounds", "1", "--results", str(results)])
    uncompiled = ["512 tokens a batch", "attention as two products"]
    tried.main(["--items", "8", "--rounds", "1", "--variants", *uncompiled, "--results", str(results)])
    text = results.read_text(encoding="utf-8")
    assert all(f"| {name} | " in text for name in (tried.SHIPPED, *uncompiled))
    assert f"## {limit.TITLE}\n\n`{limit.COMMAND} --items 8 --rounds 1 --prompts answer`" in text
    assert f"## {scaling.TITLE}\n\n`{scaling.COMMAND} {' '.join(small)} --rounds 1`" in text


@pytest.mark.bench
def test_overlap_and_memory_run_the_whole_command(shared: Path, tmp_path: Path) -> None:
    """On a few items: one by turns with the scorer alone, one from the run's manifest."""
    pytest.importorskip("psutil")
    from tests.benchmarks import memory, overlap

    results = tmp_path / "RESULTS.md"
    overlap.main(["--items", "8", "--rounds", "1", "--results", str(results)])
    memory.main(["--items", "8", "16", "--results", str(results)])
    assert results.read_text(encoding="utf-8").count("\n## ") == 2


def test_more_labels_make_more_trie_nodes_and_one_token_labels_none(shared: Path) -> None:
    """What the scaling benchmark varies: nodes grow with the labels up to 200; four labels of one token cost as two."""
    tokenizer, texts = inputs.tiny_tokenizer(), inputs.texts(2)

    def work(prompt: Prompt) -> Work:
        return needed_work(Encoder(tokenizer, prompt, context_tokens=inputs.CONTEXT_TOKENS).encode(texts))

    assert work(inputs.short_labels(4)) == replace(work(inputs.short_labels(2)), row_tokens=ANY)
    nodes = [work(inputs.many_labels(n)).label_nodes / n for n in (4, 16, 64, 200)]
    assert min(nodes) >= 1


def test_the_main_job_writes_its_section(shared: Path, tmp_path: Path) -> None:
    """On a few items, fewer than it can hold against the independent count."""
    pytest.importorskip("psutil")
    from tests.benchmarks import main_job

    results = tmp_path / "RESULTS.md"
    main_job.main(["--items", "8", "--out", str(tmp_path / "out"), "--results", str(results)])
    assert f"## {main_job.TITLE}\n\n`{main_job.COMMAND} --items 8`" in results.read_text(encoding="utf-8")


@pytest.mark.ray
def test_one_worker_and_two_are_compared(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few items; the section names the threads of the workers, not of this process."""
    from tests.benchmarks import ray_scaling

    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the script sets it for the runs, and pytest takes it back
    results = tmp_path / "RESULTS.md"
    ray_scaling.main(["--items", "16", "--shard-size", "8", "--rounds", "1", "--results", str(results)])
    text = results.read_text(encoding="utf-8")
    assert f"`{ray_scaling.COMMAND} --items 16 --shard-size 8 --rounds 1`" in text
    assert "1 thread a process" in text


@pytest.mark.bench
def test_our_logprobs_are_the_harness_log_likelihoods(toy: Any, items: list[TokenSequences]) -> None:
    """Given the same token ids, lm-evaluation-harness and ours agree within 1e-4 in float32."""
    pytest.importorskip("lm_eval")
    lm = contenders.harness(toy, toy_tokenizer())
    expected = contenders.harness_token_scores(lm, items, batch_size=5)
    torch.testing.assert_close(our_scores(toy, items), expected, atol=1e-4, rtol=0)


@pytest.mark.bench
@pytest.mark.parametrize("name", ["answer", "detailed", "described", "topic", "topic-science"])
def test_real_texts_score_as_in_the_harness(shared: Path, name: str) -> None:
    """Every built-in prompt over real rows and a model with signal; `answer`, whose seam is clean, from strings too."""
    pytest.importorskip("lm_eval")
    model, tokenizer, texts = inputs.tiny_gemma(), inputs.tiny_tokenizer(), inputs.texts(12)
    items = Encoder(tokenizer, BUILT_IN[name], context_tokens=inputs.CONTEXT_TOKENS).encode(texts)
    lm = contenders.harness(model, tokenizer)
    found = our_scores(model, items)
    torch.testing.assert_close(found, contenders.harness_token_scores(lm, items, 8), atol=1e-4, rtol=0)
    if name == "answer":
        from_strings = contenders.harness_scores(lm, BUILT_IN[name], texts, batch_size=8)
        torch.testing.assert_close(found, from_strings, atol=1e-4, rtol=0)


@pytest.mark.bench
def test_the_side_by_side_runs_and_writes_its_section(shared: Path, tmp_path: Path) -> None:
    """On a few items, with all three contenders."""
    pytest.importorskip("lm_eval")
    from tests.benchmarks import cpu

    results = tmp_path / "RESULTS.md"
    cpu.main(["--items", "8", "--rounds", "1", "--prompts", "answer", "--models", "tiny", "--results", str(results)])
    assert "agnews-tiny-gemma" in results.read_text(encoding="utf-8")
