"""The benchmarks count, compare and write what they claim, shown on toy shapes in seconds."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
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
from pipeline.scoring.counts import Counts
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from tests.benchmarks import contenders, gpu, inputs, startup
from tests.benchmarks.gpu_variants import Variant, executed_flops, ready, score_all
from tests.benchmarks.gpu_work import TOY_SHAPES, WORKLOADS, make_items, random_model
from tests.benchmarks.measure import Work, body_parameters, matrix_seconds, needed_work
from tests.benchmarks.measure import executed_flops as counted_flops
from tests.benchmarks.results import write_section

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("polars", "pyarrow", "prefect", "pydantic", "datasets", "fsspec", "rich", "altair", "ray", "lm_eval", "psutil")
GEMMA = TOY_SHAPES["Gemma-2B"]


@pytest.fixture(scope="module")
def toy() -> Any:
    return random_model(GEMMA, "cpu", torch.float32)


@pytest.fixture(scope="module")
def items() -> list[TokenSequences]:
    return make_items(WORKLOADS["detailed"], GEMMA.vocabulary, 12)


def loud_model(shape: str = "Gemma-2B") -> Any:
    """A toy whose scores differ by whole nats from token to token, so that wrong attention shows."""
    model = random_model(TOY_SHAPES[shape], "cpu", torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25)
    return model


def toy_tokenizer() -> Any:
    """The harness wants one even where it is given token ids."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"t{i}": i for i in range(3, GEMMA.vocabulary)}
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
    assert len(contenders.label_rows(items, share_rows=False)) == len(WORKLOADS["detailed"].label_tokens) * len(items)
    assert len(contenders.label_rows(items, share_rows=True)) == 2 * len(items)


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("attention", ["shipped", "masks", "repeated", "cascade"])
def test_the_variants_give_the_scores_of_single_forwards(workload: str, attention: Any) -> None:
    """A toy goes a GPU's way on a CPU: attention without masks, over a prefix that is repeated or merged."""
    shape = WORKLOADS[workload].shape
    model = loud_model(shape)
    items = make_items(WORKLOADS[workload], TOY_SHAPES[shape].vocabulary, 6, seed=5)
    expected = contenders.notebook_loop(model, items)
    with ready(model, Variant(workload, tokens=700, attention=attention)) as scoring:
        assert scoring.path == "tree", scoring.path_reason
        torch.testing.assert_close(score_all(scoring, items), expected, atol=1e-4, rtol=0)
        assert scoring.kernels is not None
        assert ("with masks" in scoring.kernels) == (attention == "masks")


def test_executed_flops_are_those_of_the_products_that_are_done(toy: Any, items: list[TokenSequences]) -> None:
    """By the formula for the GPU script, and counted at each product."""
    scoring = Scorer(toy)
    list(scoring.score(items))
    scoring.counts = Counts()
    counted = counted_flops(toy, lambda: list(scoring.score(items)))
    head_of_prefix = 2.0 * GEMMA.hidden * GEMMA.vocabulary  # which is forwarded whole, and read once
    layer = 2.0 * (body_parameters(toy) - sum(p.numel() for name, p in toy.named_parameters() if "norm" in name))
    layer /= GEMMA.layers
    whole_last_layer = 38 * (layer - 2.0 * GEMMA.hidden * (GEMMA.heads + 2 * GEMMA.key_heads) * GEMMA.head_dim)
    assert counted == executed_flops(GEMMA, scoring.counts) + head_of_prefix + whole_last_layer


def test_the_synthetic_texts_have_the_lengths_of_ag_news() -> None:
    """About 53 tokens on average, between 15 and 250, the same every time; another seed gives other texts only."""
    workload = WORKLOADS["detailed"]
    items = make_items(workload, GEMMA.vocabulary, 2_000)
    lengths = [len(item.prompt_ids) - 38 for item in items]
    assert 52 <= sum(lengths) / len(lengths) <= 54
    assert min(lengths) >= 15
    assert max(lengths) <= 250
    assert items == make_items(workload, GEMMA.vocabulary, 2_000)
    others = make_items(workload, GEMMA.vocabulary, 2_000, seed=1)
    assert others[0].branches == items[0].branches
    assert others[0].prompt_ids[:38] == items[0].prompt_ids[:38]
    assert not {item.prompt_ids for item in items} & {item.prompt_ids for item in others}


def test_a_section_of_the_results_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    """Each benchmark owns its section."""
    path = tmp_path / "RESULTS.md"
    for title, body in (("One", "old"), ("Two", "kept"), ("One", "new \\1")):
        write_section(title, "command", body, path)
    text = path.read_text(encoding="utf-8")
    assert [text.count(part) for part in ("## One\n", "## Two\n", "old", "kept", "new \\1")] == [1, 1, 0, 1, 1]


def test_the_gpu_script_runs_without_the_other_dependencies(tmp_path: Path) -> None:
    """Its first two calls need torch, transformers and numpy only, shown on a toy shape where there is no GPU."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    stops = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\n"  # None there makes an import fail
    (blocked / "sitecustomize.py").write_text(stops, encoding="utf-8")  # read by every process that is started
    out = tmp_path / "out"
    run_gpu_script("--call", "1", "--out", str(out), path=blocked)
    run_gpu_script("--call", "2", "--out", str(out), path=blocked)
    figures = json.loads((out / "call-2.json").read_text(encoding="utf-8"))["figures"]
    assert set(figures) == set(gpu.jobs(2))
    measured = {variant: figures[variant.name] for variant in gpu.variants()}
    assert max(found["max_difference"] for found in measured.values()) < 1e-4
    for variant, found in measured.items():
        assert ("compiled layers" in found["ran_on"]) == (variant.fused == "layers")
        assert ("without masks" in found["ran_on"]) == (variant.attention != "masks")
    assert (out / "profile.txt").is_file()
    run_gpu_script("--call", "2", "--out", str(out), path=blocked)  # nothing is measured again
    assert json.loads((out / "call-2.json").read_text(encoding="utf-8"))["figures"] == figures


def test_the_gpu_script_scores_texts_and_keeps_its_results(tmp_path: Path) -> None:
    """Its third call goes from texts to parts; what no call has measured is named in the results."""
    out, results = tmp_path / "out", tmp_path / "RESULTS.md"
    run_gpu_script("--call", "3", "--out", str(out))
    figures = json.loads((out / "call-3.json").read_text(encoding="utf-8"))["figures"]
    assert set(figures) == set(gpu.jobs(3))
    assert figures["texts: as shipped"]["rows"] == 4 * figures["texts: as shipped"]["texts"]
    assert figures["accuracy"]["trained"]["bfloat16"]["same_predictions"] > 0.9
    gpu.main(["--keep", str(out), "--results", str(results)])
    kept = results.read_text(encoding="utf-8")
    assert "| as shipped | 48 | " in kept
    assert f"- {gpu.BEST.name}: not run" in kept


def run_gpu_script(*arguments: str, path: Path = ROOT) -> None:
    """From the project's root, in a process of its own; nothing may have failed."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "tests/benchmarks/gpu.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_measurement_that_fails_hangs_or_dies_is_a_line_in_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a process of its own, which is ended with its children when its time is over."""
    jobs: dict[str, gpu.Job] = {
        "works": lambda setting: {"items_per_second": 5.0},
        "fails": lambda setting: {"x": 1 // 0},
        "hangs": lambda setting: {"x": time.sleep(60)},
        "dies": lambda setting: os._exit(3),
    }
    monkeypatch.setattr(gpu, "jobs", lambda call: jobs)
    context = multiprocessing.get_context("fork")
    found = {
        name: gpu.guarded(context, 3.0, 1, name, gpu.Setting("cpu", 0.0), tmp_path / "log.txt").get("failed")
        for name in jobs
    }
    assert found == {
        "works": None,
        "fails": "ZeroDivisionError: integer division or modulo by zero",
        "hangs": "took over 3 s",
        "dies": "ended with exit code 3",
    }


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


def test_sharing_writes_what_was_forwarded_with_and_without_it(shared: Path, tmp_path: Path) -> None:
    """Contexts that two items share are forwarded twice without it."""
    from tests.benchmarks import sharing

    results = tmp_path / "RESULTS.md"
    sharing.main(["--rounds", "1", "--shapes", "contexts", "--results", str(results)])
    cells = results.read_text(encoding="utf-8").splitlines()[-1].strip("| ").split(" | ")
    together, distinct, apart = (int(cells[place].replace(",", "")) for place in (2, 3, 5))
    assert distinct <= together < 1.05 * distinct < apart


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
    """On a few items, fewer than it can hold against the independent count; then on more, and of these what is new."""
    pytest.importorskip("psutil")
    from tests.benchmarks import main_job

    out, results = tmp_path / "new" / "out", tmp_path / "RESULTS.md"
    main_job.main(["--items", "8", "--out", str(out), "--results", str(results)])
    text = results.read_text(encoding="utf-8")
    assert f"## {main_job.TITLE}\n\n`{main_job.COMMAND} --items 8`" in text
    assert "5 prompts: 55 texts x prompts at **" in text  # and the content-free texts
    first, *said = text.partition("What the report says first (rule `sum`):\n\n")[2].partition("\n\n")[0].splitlines()
    report = (out / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    assert first.startswith("- **")
    assert first.removeprefix("- ") in report
    assert len(said) >= 3
    assert set(said) <= set(report)

    main_job.main(["--items", "10", "--out", str(out), "--results", str(results)])
    assert "this call scored 10 texts x prompts at **" in results.read_text(encoding="utf-8")
    main_job.main(["--items", "10", "--out", str(out), "--results", str(results)])
    text = results.read_text(encoding="utf-8")
    assert "all 65 texts x prompts were stored before, and this call scored none of them" in text
    assert "items/s" not in text


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
    real = ["--pretrained", str(shared / "models/agnews-tiny-gemma")]
    few = ["--items", "8", "--rounds", "1", "--prompts", "answer", "--models", "tiny"]
    cpu.main([*few, *real, "--results", str(results)])
    rows = [line.split(" | ") for line in results.read_text(encoding="utf-8").splitlines() if "| answer |" in line]
    assert [row[1] for row in rows] == ["toy", "real", "real"]


def test_startup_is_measured_beside_another_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command once, in both; here those that are quick."""
    monkeypatch.setattr(startup, "COMMANDS", {name: startup.COMMANDS[name] for name in ("prompts", "--help")})
    monkeypatch.setattr(startup, "PREPARE", "prompts")
    results = tmp_path / "RESULTS.md"
    startup.main(["--rounds", "1", "--beside", str(ROOT), "--results", str(results)])
    rows = [line for line in results.read_text().splitlines() if line.startswith(("| prompts", "| --help"))]
    assert len(rows) == 2
    assert all(len(row.split("|")) == 10 and float(row.split("|")[2]) > 0 for row in rows)
    with pytest.raises(SystemExit, match="no-such"):
        startup.time_command("no-such", tmp_path, os.environ)
