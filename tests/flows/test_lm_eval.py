"""`labelscore lm-eval`: the harness' own command line, files and figures, with its own model class or with ours.

The tasks are of our own writing in the shapes that tasks have; well-known ones are compared too where the shared folder
is there.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from pipeline.bundled import demo_model_path
from tests.conftest import ROOT
from tests.flows.conftest import Ended
from tests.flows.known_tasks import TASKS

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")

Run = Callable[..., Ended]
Results = tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]

NEWS = [json.loads(line) for line in (ROOT / "data/sample/test.jsonl").read_text(encoding="utf-8").splitlines()[:12]]
TOPICS = ["World", "Sports", "Business", "Sci/Tech"]
CHOICE = ("multiple_choice", "acc", "acc_norm")

# Name: what it gives out, its metrics, and the rest of its file.
OWN: dict[str, tuple[str, ...]] = {
    "fixed": (*CHOICE, f'doc_to_text: "{{{{text}}}}\\nTopic:"\ndoc_to_target: label\ndoc_to_choice: {TOPICS}\n'),
    "by_item": (*CHOICE, 'doc_to_text: "{{half}}"\ndoc_to_target: 0\ndoc_to_choice: "{{[rest, other]}}"\n'),
    "contexts": (
        *CHOICE,
        'doc_to_text: gold\ndoc_to_target: "{{rest}}"\ndoc_to_choice: "{{[half + this, half + that]}}"\n',
    ),
    "alone": (*CHOICE, 'doc_to_text: ""\ndoc_to_target: 0\ndoc_to_choice: "{{[text, other]}}"\n'),
    "too_long": (*CHOICE, f'doc_to_text: "{{{{long}}}}\\nTopic:"\ndoc_to_target: label\ndoc_to_choice: {TOPICS}\n'),
    "exact": (
        "loglikelihood",
        "acc",
        'doc_to_text: "{{half.rstrip()}}"\ndoc_to_target: "{{word}}"\ntarget_delimiter: ""\n',
    ),
    "write": (
        "generate_until",
        "exact_match",
        'doc_to_text: "{{half}}"\ndoc_to_target: "{{rest}}"\ngeneration_kwargs: {until: ["."], max_gen_toks: 6}\n',
    ),
    "whole": ("loglikelihood_rolling", "word_perplexity", "byte_perplexity", 'doc_to_target: "{{long}}"\n'),
}
SHOTS = [name for name in OWN if name not in ("write", "whole", "too_long")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run(*arguments)`: the command in this process, which is left as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("HF_TOKEN", raising=False)

        def call(*arguments: str) -> Ended:
            out, err, environment = io.StringIO(), io.StringIO(), dict(os.environ)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = main(["lm-eval", *arguments])
            finally:
                os.environ.clear()
                os.environ.update(environment)
            return Ended(code, out.getvalue(), err.getvalue())

        yield call


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tasks of our own and their data."""
    folder = tmp_path_factory.mktemp("own")
    rows = [_row(i) for i in range(len(NEWS))]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, (kind, *metrics, rest) in OWN.items():
        text = f"task: own_{name}\n{_data(data, folder)}training_split: train\noutput_type: {kind}\n{rest}"
        text += "doc_to_text: ''\n" if "doc_to_text" not in rest else ""
        text += "metric_list:\n" + "".join(f"  - metric: {metric}\n" for metric in metrics)
        (folder / f"own_{name}.yaml").write_text(text + "metadata: {version: 1.0}\n")
    return folder


def _data(file: Path, folder: Path) -> str:
    files = f"data_files: {{train: {file}, test: {file}}}, cache_dir: {folder / 'cache'}"
    return f"dataset_path: json\ndataset_kwargs: {{{files}}}\ntest_split: test\n"


def _row(place: int) -> dict[str, Any]:
    text, other = NEWS[place]["text"], NEWS[place - 1]["text"]
    return {
        "text": text[:120],
        "half": text[:60].rstrip() if place % 2 else f"{text[:60].rstrip()} ",  # some end in a blank
        "rest": text[60:100].strip(),
        "other": other[60:100].strip(),
        "this": " this",
        "that": " those",
        "gold": place % 2,
        "label": place % len(TOPICS),
        "word": _word(text[:60].rstrip()) if place % 3 else " never",
        "long": " ".join(each["text"] for each in NEWS[place:] + NEWS[:place]) * 2,
    }


def _word(text: str) -> str:
    """What the model would say next."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
    model = AutoModelForCausalLM.from_pretrained(demo_model_path())
    ids = tokenizer(text)["input_ids"]
    best = str(tokenizer.decode([model(torch.tensor([ids])).logits[0, -1].argmax()]))
    return best if len(tokenizer(text + best)["input_ids"]) > len(ids) else " never"  # it may join the last word


def evaluate(run: Run, tasks: Path, names: list[str], model: str, out: Path, *more: str, backend: str) -> Results:
    """What a run of the harness' command wrote: its results, and its samples by task."""
    place = out / backend
    arguments = ["--tasks", ",".join(names), "--include_path", str(tasks), "--model_args", f"pretrained={model}", *more]
    arguments += ["--device", "cpu", "--batch_size", "8", "--log_samples", "--output_path", str(place)]
    chosen = ["--model", backend] if backend != "labelscore" else []
    done = run(*chosen, *arguments)
    assert done.code == 0, done.err[-2000:]
    (results,) = place.glob("*/results_*.json")
    samples = {}
    for name in names:
        (file,) = place.glob(f"*/samples_{name}_2*.jsonl")
        samples[name] = [json.loads(line) for line in file.read_text().splitlines()]
    return json.loads(results.read_text()), samples


OWN_FACTS = {"date", "model", "model_source", "total_evaluation_time_seconds", "start_time", "end_time", "git_hash"}


def same(left: Any, right: Any, where: str = "") -> None:
    """Equal but for the model's name and times; numbers, also those written as text, within 1e-4."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left.keys() - OWN_FACTS:
            same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for place, pair in enumerate(zip(left, right, strict=True)):
            same(*pair, f"{where}/{place}")
    elif isinstance(left, float) or (isinstance(left, str) and re.fullmatch(r"-?\d+\.\d+", left)):
        assert float(right) == pytest.approx(float(left), abs=1e-4, rel=2e-6), where
    elif isinstance(left, str):
        address = re.compile(r" at 0x[0-9a-f]+")
        assert address.sub("", left) == address.sub("", right), where
    else:
        assert left == right, where


def compare(run: Run, tasks: Path, names: list[str], model: str, out: Path, *more: str) -> Results:
    """Run both classes and hold their files against each other; returns ours."""
    theirs = evaluate(run, tasks, names, model, out, *more, backend="hf")
    ours = evaluate(run, tasks, names, model, out, *more, backend="labelscore")
    assert ours[0]["config"]["model"] == "labelscore"
    same(theirs[0], ours[0], "results")
    for name in names:
        same(theirs[1][name], ours[1][name], name)
    return ours


def test_tasks_of_every_shape_give_the_harness_own_files(run: Run, own_tasks: Path, tmp_path: Path) -> None:
    """Arguments, responses, what is greedy, metrics: item by item; text that is generated and whole texts, too."""
    names = [f"own_{name}" for name in OWN]
    _, samples = compare(run, own_tasks, names, str(demo_model_path()), tmp_path)
    assert [len(samples[name]) for name in names] == [len(NEWS)] * len(names)
    assert {sample["acc"] for sample in samples["own_exact"]} == {0, 1}
    contexts = samples["own_contexts"][0]["arguments"]
    assert contexts["gen_args_0"]["arg_0"] != contexts["gen_args_1"]["arg_0"]


def test_shots_and_a_chat_template_give_the_same(run: Run, own_tasks: Path, tmp_path: Path) -> None:
    """Three solved examples as turns of a conversation."""
    model = tmp_path / "chat"
    shutil.copytree(demo_model_path(), model)
    (model / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    names = [f"own_{name}" for name in SHOTS if name not in ("contexts", "alone")]
    more = ("--num_fewshot", "3", "--apply_chat_template", "--limit", "5", "--system_instruction", "Answer.")
    _, samples = compare(run, own_tasks, names, str(model), tmp_path, *more)
    assert samples["own_fixed"][0]["arguments"]["gen_args_0"]["arg_0"].count("<assistant>") == 4


@pytest.mark.parametrize("num_shots", [0, 3])
def test_well_known_tasks_give_the_same(run: Run, shared: Path, tmp_path: Path, num_shots: int) -> None:
    """Real items and the harness' own prompts, from a copy of its files."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in TASKS:
        text = (shared / f"data/tasks/harness/{task}.yaml").read_text().replace("__DATA__", str(shared / "data/tasks"))
        text = text.replace("dataset_kwargs:\n", f"dataset_kwargs:\n  cache_dir: {tmp_path / 'cache'}\n")
        text = re.sub(r"^num_fewshot: 0$", "", text, flags=re.MULTILINE)  # else the harness takes no other
        text = re.sub(r"^  - metric: mcc$", "", text, flags=re.MULTILINE)  # its bootstrap takes minutes
        (folder / f"{task}.yaml").write_text(re.sub(r"^task: ", "task: own_", text, flags=re.MULTILINE))
    names = [f"own_{task}" for task in TASKS]
    model = str(shared / "models/agnews-tiny-gemma")
    more = ("--limit", "6", "--num_fewshot", "3") if num_shots else ("--limit", "10")
    results, _ = compare(run, folder, names, model, tmp_path, *more)
    assert set(results["n-shot"].values()) == {num_shots}


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["run", "--help"], ["run"]], ids=str)
def test_help_is_the_harness_own(run: Run, arguments: list[str]) -> None:
    """Below a line of ours."""
    done = run(*arguments)
    assert done.code == 0
    assert "usage: lm-eval" in done.out
    assert done.out.startswith("Usage: labelscore lm-eval ARGUMENTS") is (arguments != ["run"])


def test_the_model_is_ours_where_none_is_named(run: Run, own_tasks: Path, tmp_path: Path) -> None:
    """On the command line or in a configuration file; a name that is given stays."""
    file = tmp_path / "config.yaml"
    asked = f"include_path: {own_tasks}\ntasks: [own_alone]\nlimit: 2\n"
    asked += f"model_args: {{pretrained: {demo_model_path()}}}\n"
    file.write_text(asked)
    done = run("run", "--config", str(file), "--device", "cpu")
    assert done.code == 0, done.err
    assert "labelscore ({" in done.out
    file.write_text(asked + "model: dummy\n")
    done = run("run", "--config", str(file))
    assert "dummy ({" in done.out, done.err


def test_other_commands_of_the_harness_work(run: Run, own_tasks: Path) -> None:
    """Its list and its check, with its exit codes."""
    done = run("validate", "--tasks", "own_fixe", "--include_path", str(own_tasks))
    assert (done.code, done.out.splitlines()[-1]) == (1, "Tasks not found: own_fixe")
    listed = run("ls", "groups")
    assert (listed.code, "mmlu" in listed.out) == (0, True)


MISTAKES: list[tuple[list[str], str]] = [
    (["--tasks", "own_fixe"], r"Tasks not found: own_fixe"),
    (["--tasks", "own_fixed", "--model_args", "pretrained=./nowhere"], r"nowhere"),
    (["--tasks", "own_fixed", "--model_args", "pretrained=DEMO,parallelize=True"], r"no model_args parallelize; it kn"),
    (["--tasks", "own_gone", "--model_args", "pretrained=DEMO"], r"gone\.jsonl"),
    (["--tasks", "piqa", "--model_args", "pretrained=DEMO"], r"(?i)piqa.*(hub|offline|reach|cache)"),
    (["--tasks", "own_fixed", "--model", "labelscor"], r"no model for this name"),
    (["--tasks", "own_fixed", "--bogus", "3"], r"unrecognized arguments: --bogus 3 \(see 'labelscore lm-eval run"),
    (["--tasks", "own_fixed", "--config", "no.yaml"], r"no\.yaml"),
    (["--tasks", "own_fixed", "--log_samples"], r"--output_path"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line(run: Run, own_tasks: Path, arguments: list[str], said: str) -> None:
    """And exit code 2, whatever the harness makes of them."""
    gone = _data(own_tasks / "gone.jsonl", own_tasks) + "output_type: multiple_choice\n" + OWN["fixed"][-1]
    (own_tasks / "own_gone.yaml").write_text(f"task: own_gone\n{gone}")
    line = [each.replace("DEMO", str(demo_model_path())) for each in arguments]
    done = run(*line, "--include_path", str(own_tasks), "--device", "cpu")
    last = done.err.splitlines()[-1]
    assert done.code == 2, done.err
    assert last.startswith("labelscore: error: ")
    assert re.search(said, last)
    assert "Traceback" not in done.err


def test_without_the_harness_it_says_what_to_install() -> None:
    """One line, and nothing else of the command needs it."""
    code = "import sys; sys.modules['lm_eval'] = None\nfrom flows.cli import main\nsys.exit(main(['lm-eval', '-h']))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'labelscore[harness]'" in done.stderr


def test_a_real_command_line_reaches_the_harness_as_it_was_typed() -> None:
    """In a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "flows.cli", "lm-eval", "ls", "--no such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("labelscore: error:")
    assert "--no such" in done.stderr
