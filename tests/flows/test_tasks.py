"""`labelscore run --task`: tasks of lm-evaluation-harness, its words scored here, its own metrics beside ours.

The oracle is the harness with its own class for models of transformers, in this process. Parity on real items skips
where the shared folder is missing; tasks of our own in every shape do not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

pytest.importorskip("lm_eval", reason="needs the extra 'harness'")

from pipeline.storing.layout import DOCUMENTS
from tests.conftest import ROOT
from tests.flows.buckets import client, serve_bucket
from tests.flows.conftest import Command, Ended
from tests.flows.known_tasks import TASKS, write_known_tasks
from tests.hub_server import HubServer, save_tiny_gemma, sciq_files
from tests.pipeline.harness import own_tasks

OWN = [name for name in own_tasks.TASKS if name not in ("own_colours", "own_gaps")] + ["own_group"]
CHAT = "{% for m in messages %}<bos>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}<bos>model\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_tasks.write_tasks(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def known(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_tasks(shared, tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a context of 256 tokens, and a chat template."""
    folder = save_tiny_gemma(tmp_path_factory.mktemp("tiny"))
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@dataclass(frozen=True)
class Harness:
    """What the harness itself asked and found: by task and document the requests and their scores; its metrics."""

    requests: dict[tuple[str, int], list[tuple[str, str]]]
    logprobs: dict[tuple[str, int], list[float]]
    metrics: dict[tuple[str, str], float]


def ask_harness(model: Path, folder: Path, tasks: Sequence[str], **options: Any) -> Harness:
    """The harness' own run with its class for models of transformers, float32 on a CPU."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(str(model), dtype="float32", device="cpu", batch_size=8),
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    assert found is not None
    samples = {(name, each["doc_id"]): each for name, some in found["samples"].items() for each in some}
    return Harness(
        {key: [tuple(pair) for pair in each["arguments"]] for key, each in samples.items()},
        {key: [answer[0][0] for answer in each["resps"]] for key, each in samples.items()},
        {
            (name, key.split(",")[0]): value
            for name, values in found["results"].items()
            for key, value in values.items()
            if "," in key and "_stderr" not in key
        },
    )


def run_tasks(labelscore: Command, model: Path, folder: Path, tasks: Sequence[str], out: Path, *more: str) -> Ended:
    named = [argument for task in tasks for argument in ("--task", task)]
    where = ["--task-path", str(folder), "--model", str(model), "--out", str(out)]
    return labelscore("run", *named, *where, *more)


def scored(out: Path) -> dict[tuple[str, int], list[float]]:
    """The log-likelihoods of an output by task and document."""
    rows = pl.read_parquet(out / "scores/scores.parquet").sort("item_id", "label_id")
    groups = rows.group_by("prompt", "item_id", maintain_order=True).agg("logprob").iter_rows()
    return {(task, item % DOCUMENTS): logprobs for task, item, logprobs in groups}


def asked(out: Path) -> dict[tuple[str, int], list[tuple[str, str]]]:
    items = pl.read_parquet(out / "items.parquet").select("task", "item_id", "context", "continuation").iter_rows()
    return {(task, item % DOCUMENTS): list(zip(context, words, strict=True)) for task, item, context, words in items}


def judged(out: Path) -> dict[tuple[str, str], float]:
    """The harness' metrics as the output keeps them."""
    return {
        (task, metric): v
        for task, metric, v in pl.read_parquet(out / "tasks.parquet")["task", "metric", "value"].rows()
    }


def check_parity(out: Path, harness: Harness) -> None:
    check_parity_of_scores(out, harness)
    check_own_figures(out, judged(out))


def check_parity_of_scores(out: Path, harness: Harness) -> None:
    assert asked(out) == harness.requests
    found = scored(out)
    assert found.keys() == harness.logprobs.keys()
    for key, wanted in harness.logprobs.items():
        assert found[key] == pytest.approx(wanted, abs=1e-4), key
    assert judged(out) == pytest.approx(harness.metrics, abs=1e-4)


def check_own_figures(out: Path, metrics: dict[tuple[str, str], float]) -> None:
    """Where the harness has acc and acc_norm, ours under `sum` and `mean_char` are the same, item by item summed."""
    own = pl.read_parquet(out / "report/metrics.parquet").filter(pl.col("metric") == "accuracy")
    accuracy = {(task, rule): value for task, rule, value in own["prompt", "rule", "value"].rows()}
    compared = 0
    for rule, metric in (("sum", "acc"), ("mean_char", "acc_norm")):
        for (task, rule_of), value in accuracy.items():
            if rule_of == rule and (task, metric) in metrics and task != "own_truths":  # a share of likelihood
                assert value == pytest.approx(metrics[task, metric], abs=1e-9), (task, rule)
                compared += 1
    assert compared > 0


@pytest.mark.parametrize(("num_shots", "limit"), [(None, None), (2, 7)])
def test_tasks_in_every_shape_are_scored_as_by_the_harness(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path, num_shots: int | None, limit: int | None
) -> None:
    """Requests to the letter, log-likelihoods within 1e-4, the metrics of tasks and of their group; then nothing."""
    harness = ask_harness(tiny, own, OWN, num_fewshot=num_shots, limit=limit)
    options = (["--num-shots", str(num_shots)] if num_shots else []) + (["--limit", str(limit)] if limit else [])
    done = run_tasks(labelscore, tiny, own, OWN, tmp_path / "out", *options)
    assert done.code == 0, done.err
    check_parity(tmp_path / "out", harness)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["libraries"]["lm_eval"] == version("lm_eval")
    assert {p["name"]: p["task"]["num_items"] for p in manifest["prompts"]} == dict.fromkeys(
        own_tasks.TASKS, limit or 12
    )
    again = run_tasks(labelscore, tiny, own, OWN, tmp_path / "out", *options)
    assert "nothing to score" in again.err


def test_a_chat_template_is_applied_as_by_the_harness(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path
) -> None:
    """Its special tokens are read as such, and BOS that it brings is not put there twice."""
    harness = ask_harness(tiny, own, OWN, apply_chat_template=True, fewshot_as_multiturn=True, num_fewshot=1, limit=6)
    done = run_tasks(
        labelscore, tiny, own, OWN, tmp_path / "out", "--chat-template", "--num-shots", "1", "--limit", "6"
    )
    assert done.code == 0, done.err
    check_parity(tmp_path / "out", harness)


def test_a_chat_template_with_a_date_asks_the_same_every_day(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path
) -> None:
    """The date of the clock, or the one that is asked for, stands in what is stored; the run says so."""
    model = tmp_path / "dated"
    shutil.copytree(tiny, model)
    (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}\n" + CHAT)
    for more, day, written in (
        ([], "2024-07-26", "26 Jul 2024"),
        (["--chat-date", "2026-01-31"], "2026-01-31", "31 Jan 2026"),
    ):
        options = ["--chat-template", "--limit", "3", *more]
        done = run_tasks(labelscore, model, own, ["own_plain"], tmp_path / "out", *options)
        assert done.code == 0, done.err
        assert f"today's date, which is {day}" in done.err
        assert json.loads((tmp_path / "out/manifest.json").read_text())["chat"]["date"] == day
        contexts = pl.read_parquet(tmp_path / "out/items.parquet")["context"].to_list()
        assert all(context.startswith(written) for choices in contexts for context in choices)


def test_what_is_too_long_is_cut_at_its_beginning_and_counted(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path
) -> None:
    """As the harness does, which only warns."""
    harness = ask_harness(tiny, own, ["own_gaps"], num_fewshot=5, limit=6)
    done = run_tasks(labelscore, tiny, own, ["own_gaps"], tmp_path / "out", "--num-shots", "5", "--limit", "6")
    assert done.code == 0, done.err
    check_parity(tmp_path / "out", harness)
    assert pl.read_parquet(tmp_path / "out/scores/scores.parquet")["truncated"].all()
    assert "Items cut at their beginning to fit: 'own_gaps' 6." in (tmp_path / "out/report/report.md").read_text()


def test_only_new_documents_and_tasks_are_scored(labelscore: Command, own: Path, tiny: Path, tmp_path: Path) -> None:
    """A limit first, then all; then another task beside it: what is stored is not scored again, and ids stay."""
    out = tmp_path / "out"
    for tasks, more, num_scored in (
        (["own_plain"], ["--limit", "5"], 5),
        (["own_plain"], [], 7),
        (["own_colours", "own_plain"], [], 12),
        (["own_plain"], [], 0),
    ):
        done = run_tasks(labelscore, tiny, own, tasks, out, *more)
        assert done.code == 0, done.err
        assert json.loads((out / "manifest.json").read_text())["counts"]["scored"] == num_scored
    assert labelscore("verify", str(out)).code == 0
    assert "In both: 1 task, 12 items" in labelscore("compare", str(out), str(out)).out
    assert labelscore("history", str(out)).out.count("own_plain") == 4


def test_where_the_harness_counts_otherwise_the_report_says_so(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path
) -> None:
    """A document without a right choice is wrong to the harness, and no part of our accuracy."""
    done = run_tasks(labelscore, tiny, own, ["odd_gold", "odd_blank"], tmp_path / "out")
    assert done.code == 0, done.err
    check_parity_of_scores(tmp_path / "out", ask_harness(tiny, own, ["odd_gold", "odd_blank"]))
    words = "The harness counts otherwise than we do: 'odd_gold' acc "
    assert words in done.err
    report = (tmp_path / "out/report/report.md").read_text()
    assert words in report
    assert "Task 'odd_gold': of 1 documents no choice is known to be right" in report
    assert "'odd_blank' acc" not in report


def test_a_killed_run_of_tasks_goes_on_where_it_was(
    own: Path, tiny: Path, tmp_path: Path, labelscore: Command, server_env: dict[str, str]
) -> None:
    """SIGKILL once a part is there: what it holds is not scored again; the metrics are those of a run left alone."""
    out = tmp_path / "out"
    named = [argument for task in OWN for argument in ("--task", task)]
    where = ["--task-path", str(own), "--model", str(tiny), "--out", str(out), "--shard-size", "10"]
    command = [sys.executable, "-m", "flows.cli", "run", *named, *where]
    process = subprocess.Popen(
        command, env={**os.environ, **server_env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not list(out.glob("store/*/*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (out / "manifest.json").exists()
    done = run_tasks(labelscore, tiny, own, OWN, out)
    assert done.code == 0, done.err
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert 0 < counts["reused"] < counts["texts"] == counts["scored"] + counts["reused"]
    whole = run_tasks(labelscore, tiny, own, OWN, tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert judged(out) == pytest.approx(judged(tmp_path / "whole"), abs=1e-4)


@pytest.mark.ray
def test_two_workers_write_to_a_bucket_what_one_writes_to_a_folder(
    labelscore: Command, own: Path, tiny: Path, tmp_path: Path
) -> None:
    named = [argument for task in OWN for argument in ("--task", task)]
    options = [*named, "--task-path", str(own), "--model", str(tiny), "--workers", "2", "--shard-size", "20"]
    done = run_tasks(labelscore, tiny, own, OWN, tmp_path / "out")
    assert done.code == 0, done.err
    with serve_bucket("labelscore-tasks") as env:
        start_here = {**os.environ, **env, "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "flows.cli", "run", *options, "--out", "s3://labelscore-tasks/run"]
        ended = subprocess.run(command, env=start_here, capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
        store = client(env)

        def read(name: str) -> bytes:
            content: bytes = store.get_object(Bucket="labelscore-tasks", Key=f"run/{name}")["Body"].read()
            return content

        folder = json.loads(read("manifest.json"))["folder"]
        for name in ("items.parquet", "tasks.parquet", "scores/scores.parquet"):
            there, here = pl.read_parquet(read(f"{folder}/{name}")), pl.read_parquet(tmp_path / "out" / name)
            assert_frame_equal(there, here, check_exact=False, abs_tol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_known_task_gives_what_the_harness_gave(known_run: Path, shared: Path, task: str) -> None:
    """All ten in one run, without shots: what the harness wrote, scored and predicted on the first 60 items of each."""
    from tests.flows.known_tasks import expected

    wanted = expected(shared, task)
    requests, logprobs = asked(known_run), scored(known_run)
    pairs = [pair for item in range(60) for pair in requests[task, item]]
    assert pairs == [(row["context"], row["continuation"]) for row in wanted]
    found = [each for item in range(60) for each in logprobs[task, item]]
    assert found == pytest.approx([row["logprob"] for row in wanted], abs=1e-4)
    predictions = pl.read_parquet(known_run / "report/predictions.parquet").filter(pl.col("prompt") == task)
    for rule, name in (("sum", "acc_pred"), ("mean_char", "acc_norm_pred")):
        theirs = {row["item"]: row[name] for row in wanted}
        own = predictions.filter(pl.col("rule") == rule).sort("item_id")
        assert own["predicted_id"].to_list() == list(theirs.values())
    summary = json.loads((shared / "data/tasks/expected/summary.json").read_text())[f"{task}.agnews-tiny-gemma"]
    metrics = {metric: value for (name, metric), value in judged(known_run).items() if name == task}
    assert metrics == pytest.approx({k: v for k, v in summary.items() if k not in ("items", "requests")}, abs=6e-5)


@pytest.fixture
def known_run(labelscore: Command, known: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all known tasks; made once."""
    out = tmp_path_factory.getbasetemp() / "known-run"
    if not out.exists():
        done = run_tasks(labelscore, shared / "models/agnews-tiny-gemma", known, TASKS, out, "--limit", "60")
        assert done.code == 0, done.err
    return out


def test_known_tasks_with_solved_examples(labelscore: Command, known: Path, shared: Path, tmp_path: Path) -> None:
    """All ten at 3 shots, against the harness' own run."""
    model = shared / "models/agnews-tiny-gemma"
    harness = ask_harness(model, known, TASKS, num_fewshot=3, limit=8)
    done = run_tasks(labelscore, model, known, TASKS, tmp_path / "out", "--num-shots", "3", "--limit", "8")
    assert done.code == 0, done.err
    check_parity(tmp_path / "out", harness)


def test_tasks_come_from_the_hub(tiny: Path, tmp_path: Path) -> None:
    """SciQ as the harness has it, from a hub on loopback; then from the cache, and in one line where there is none."""
    with HubServer() as hub:
        commit = hub.put("dataset", "allenai/sciq", sciq_files())
        env = hub.env(tmp_path / "cache")
        done = hub_run(env, tiny, tmp_path / "out")
        assert done.returncode == 0, done.stderr
    (prompt,) = json.loads((tmp_path / "out/manifest.json").read_text())["prompts"]
    assert prompt["task"] == {
        "num_items": 9,
        "version": "1.0",
        "num_shots": 0,
        "seed": None,
        "dataset": "allenai/sciq",
        "revision": commit,
    }
    assert all(len(pairs) == 4 for pairs in asked(tmp_path / "out").values())
    again = hub_run({**env, "HF_HUB_OFFLINE": "1"}, tiny, tmp_path / "out")
    assert "nothing to score" in again.stderr
    lost = hub_run({**env, "HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}, tiny, tmp_path / "out2")
    assert lost.returncode == 1
    (line,) = [line for line in lost.stderr.splitlines() if "error" in line]
    assert line.startswith("labelscore: error: task 'sciq': it cannot be loaded"), line
    assert "Traceback" not in lost.stderr


def hub_run(env: dict[str, str], model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "run", "--task", "sciq", "--model", str(model), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)


def test_a_log_of_several_contexts_gets_its_gold_from_the_task(labelscore: Command, tiny: Path, tmp_path: Path) -> None:
    """WinoGrande's logs have the continuation as their target; its code says which context is right."""
    places = [0, 1, 1]
    samples = []
    for number, place in enumerate(places):
        doc = {"sentence": f"Box {number} left the bag, so the _ was light.", "option1": "box", "option2": "bag"}
        contexts = [f"Box {number} left the bag, so the {option}" for option in ("box", "bag")]
        asked = {f"gen_args_{i}": {"arg_0": context, "arg_1": " was light."} for i, context in enumerate(contexts)}
        samples.append({"doc": {**doc, "answer": str(place + 1)}, "target": "was light.", "arguments": asked})
    for name, golds in (("winogrande_2026-11-26T08-00-00.000000", places), ("no_such_task", [None] * 3)):
        file, out = tmp_path / f"samples_{name}.jsonl", tmp_path / name
        file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        options = ["--dataset", str(file), "--prompt", "requests", "--model", str(tiny), "--out", str(out)]
        done = labelscore("run", *options)
        assert done.code == 0, done.err
        assert pl.read_parquet(out / "items.parquet")["gold_id"].to_list() == golds


MISTAKES = {
    "--task own_plain --dataset sample": "dataset (in the command line) has no use beside task",
    "--task own_plain --prompt answer": "prompt (in the command line) has no use beside task",
    "--task own_plain --rule batch": "rule 'batch' needs the same labels for all items",
    "--task own_plain --preset gemma": "(in preset gemma) has no use beside task",
    "--task own_plane": "knows no task 'own_plane'; near are own_plain",
    "--task own_writing": "task 'own_writing' asks for generate_until",
    "--task own_plain --num-shots -1": "bad value for 'num_shots'",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_end_in_one_line(labelscore: Command, own: Path, tmp_path: Path, arguments: str) -> None:
    done = labelscore("run", *arguments.split(), "--task-path", str(own), "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert len(done.complaints) == 1
    assert MISTAKES[arguments] in done.complaints[0]


def test_a_folder_of_tasks_without_a_task_is_a_mistake(labelscore: Command, own: Path) -> None:
    done = labelscore("run", "--task-path", str(own))
    assert (done.code, done.complaints) == (
        2,
        ['labelscore: error: task_path names a folder of tasks, and no task is asked for; add task = ["NAME"]'],
    )


def test_without_the_harness_the_line_says_what_to_install(tmp_path: Path) -> None:
    """As for somebody who has not installed the extra: the module cannot be found."""
    code = "import sys; sys.modules['lm_eval'] = None; from flows.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", "--task", "piqa", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2
    assert re.search(r"pip install 'labelscore\[harness\]'", done.stderr)
    assert "Traceback" not in done.stderr
