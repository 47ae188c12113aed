"""The README is run: its commands, its output, its Python."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from flows.cli import app, main
from pipeline.choice_loading import load_choice_config
from pipeline.classes import known_prompt
from pipeline.config import load_config
from pipeline.prompts import Values
from pipeline.smollm2 import INSTALL
from tests.conftest import README, ROOT, WALK, FinishedRun, Walk, run_as_a_newcomer
from tests.hub_server import HubServer, arc_files, folder_files, save_tiny_gemma, sciq_files
from tests.real_model import real_file


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


CHOICE = README.partition("## Choosing a prompt")[2].partition("\n## ")[0]
FIVE_COMMANDS = blocks("sh", README.partition("## Every night")[2])[0].splitlines()
HARNESS = README.partition("## You use lm-evaluation-harness already")[2].partition("\n## ")[0]
RUN_REAL = "labelscore run --model smollm2"
LM_EVAL = "labelscore lm-eval "  # its arguments are the harness' own
COMMANDS = [
    line
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("labelscore ") and not line.startswith(LM_EVAL)
]
# Commands that only read a finished run or score one text; the others start runs and are run by tests of their own.
HARMLESS = [c for c in COMMANDS if c.split()[1] in ("status", "path", "verify", "history", "report", "prune", "compare",
                                                    "classify", "tokens", "generate", "prompts")]  # fmt: skip


def test_the_commands_for_newcomers_come_first_and_ci_runs_the_last() -> None:
    """A real model, the main job without one, and the tests; .ci/run takes the test command from there."""
    real, ag_news, demo, test = blocks("sh")[:4]
    assert real == f"pip install -e '.[gguf]' && {INSTALL}\n{RUN_REAL}\n"
    assert ag_news.startswith(f"{RUN_REAL} ")
    assert [demo, test] == ["pip install -e . && labelscore run\n", "pip install -e '.[test]' && pytest\n"]


@pytest.mark.real
def test_the_real_model_prints_what_is_shown(tmp_path: Path) -> None:
    """To the last digit, then the files; and the report that is named is among them."""
    real_file()
    done = run_as_a_newcomer(RUN_REAL, tmp_path)
    shows(done, blocks("text")[0])
    assert all((tmp_path / name).exists() for name in re.findall(r"`(data/runs/sample-smollm2/\S+)`", README))


@pytest.mark.real
def test_the_real_model_gets_as_much_of_ag_news_as_is_said(tmp_path: Path, shared: Path) -> None:
    """The command, in a folder with the test split, and its accuracy with its interval in the sentence before."""
    real_file()
    (tmp_path / "ag_news_test.parquet").symlink_to(shared / "data" / "ag_news_test.parquet")
    done = run_as_a_newcomer(blocks("sh")[1].strip(), tmp_path)
    found = re.search(r"^answer +(\d+\.\d) % +([\d.]+)\N{EN DASH}([\d.]+) ", done.stdout, re.MULTILINE)
    assert found
    accuracy, low, high = found.groups()
    assert f"it gets {accuracy} % of the first 400 rows right ({low} to {high} %):" in " ".join(README.split())


def test_the_output_shown_is_the_real_one(demo_run: FinishedRun) -> None:
    """What the README shows for the default run is what the command prints, line for line, before the files."""
    shows(demo_run, blocks("text")[1])


def shows(done: FinishedRun, block: str) -> None:
    assert done.stdout.startswith(f"{block}\n")
    files = done.stdout.removeprefix(block).split()
    assert f"data/runs/{done.out.name}/report/report.html" in files
    assert all((done.out.parents[2] / name).is_file() for name in files)


def test_the_choice_prints_what_is_shown(tmp_path: Path) -> None:
    """All of it, but for blanks at the ends of lines; then the run that it ends in scores what is left."""
    done = run_as_a_newcomer(blocks("sh", CHOICE)[0].strip(), tmp_path)
    assert [line.rstrip() for line in done.stdout.splitlines()] == blocks("text", CHOICE)[0].splitlines()
    (command,) = re.findall(r"labelscore run \S+run\.toml", done.stdout)
    assert "labelscore run OUT/choice/run.toml" in README
    assert "nothing to score" in run_as_a_newcomer(command, tmp_path).stderr  # the fresh ones were the rest


def test_the_walk_prints_what_is_shown(walk: Walk) -> None:
    """Its shell blocks ran in an empty folder; below a block stand the first lines of it."""
    assert len(walk.printed) == 4
    for shown, printed in walk.printed:
        assert "accuracy under the rule" in printed
        assert printed.startswith(shown)
        rest = printed.removeprefix(shown).splitlines()
        assert not shown or all(line.startswith("  runs/") for line in filter(None, rest))


EXAM = {"question": "What is cold?", "A": "ice", "B": "fire", "C": "lava", "D": "steam"}
GAP = {
    "sentence": "The cup did not fit into the bag, because the _ was too big.",
    "option1": "cup",
    "option2": "bag",
}
EXAMPLES: dict[str, tuple[Values, tuple[str, ...], tuple[str, ...]]] = {
    "exam": (
        EXAM,
        ("What is cold?\nA. ice\nB. fire\nC. lava\nD. steam\nAnswer:",),
        (" ice", " fire", " lava", " steam"),
    ),
    "gap": (
        GAP,
        tuple(f"The cup did not fit into the bag, because the {choice}" for choice in ("cup", "bag")),
        (" was too big.",) * 2,
    ),
    "grammar": ({"good": "She has it.", "bad": "She have it."}, ("",), ("She has it.", "She have it.")),
}


def test_prompts_with_choices_write_what_is_said_of_them(tmp_path: Path) -> None:
    """Each prompt of the block, for one row: the contexts, and what is scored after them."""
    (text,) = blocks("toml", WALK)
    (tmp_path / "run.toml").write_text(text)
    config = load_config(str(tmp_path / "run.toml"), None, {})
    assert config.prompts.keys() == EXAMPLES.keys()
    for name, (values, contexts, continuations) in EXAMPLES.items():
        written = known_prompt(config, name).write(values)
        assert (written.contexts, written.continuations) == (contexts, continuations)


def test_the_lines_for_users_of_the_harness_run(tmp_path: Path) -> None:
    """As they stand there, beside a hub on loopback that has tasks and a model of these names; then nothing is left."""
    pytest.importorskip("lm_eval", reason="needs the extra 'harness'")
    install, *commands = blocks("sh", HARNESS)[0].splitlines()
    assert install == "pip install -e '.[harness]'"
    assert len(commands) == 2
    with HubServer() as hub:
        hub.put("dataset", "allenai/sciq", sciq_files())
        hub.put("dataset", "allenai/ai2_arc", arc_files())
        hub.put("model", "HuggingFaceTB/SmolLM2-135M", folder_files(save_tiny_gemma(tmp_path / "model")))
        env = hub.env(tmp_path / "cache", PYTHONPATH=str(ROOT))
        ended = [run_here(command, tmp_path, env) for command in (*commands, commands[1])]
    (results,) = (tmp_path / "results").rglob("results_*.json")
    asked, kept = json.loads(results.read_text())["results"], pl.read_parquet(tmp_path / "runs/quiz/tasks.parquet")
    found = {(task, f"{metric},none"): value for task, metric, value in kept["task", "metric", "value"].rows()}
    assert len(found) == 4
    assert found == pytest.approx({(task, key): asked[task][key] for task, key in found})
    assert "nothing to score" in ended[-1]


def run_here(command: str, folder: Path, env: dict[str, str]) -> str:
    """A command of the README in a folder; returns what it said on standard error."""
    arguments = [sys.executable, "-m", "flows.cli", *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str) -> None:
    """Each labelscore command in the README is understood with all its options."""
    app.parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize("command", HARMLESS)
def test_every_harmless_command_works(
    command: str, demo_run: FinishedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that read a run or score one text end well and print something."""
    monkeypatch.chdir(demo_run.out.parents[2])
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code: str, demo_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the default run."""
    monkeypatch.chdir(demo_run.out.parents[2])
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_configuration_is_valid(text: str, tmp_path: Path) -> None:
    """Unknown keys or bad prompts would be refused."""
    path = tmp_path / "run.toml"
    path.write_text(text)
    (load_choice_config if text in blocks("toml", CHOICE) else load_config)(str(path), None, {})


def test_the_map_has_every_file() -> None:
    """Each module of flows/ and pipeline/ is named in "Where things are", and no other."""
    named = re.findall(r"\b\w+\.py\b", README.partition("## Where things are")[2].partition("```text")[2])
    modules = [path.name for package in ("flows", "pipeline") for path in (ROOT / package).rglob("*.py")]
    assert sorted(named) == sorted([name for name in modules if name != "__init__.py"] + ["make_demo.py"])


def test_every_link_to_a_file_leads_somewhere() -> None:
    """Relative links point to files of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_what_contributors_are_told_is_there() -> None:
    """Each file that the page names exists, and each name in capitals is one of the code's."""
    page = (ROOT / "data/CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`([\w./]+)`", page) if "/" in name or name.endswith((".py", ".md"))]
    code = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists() or any(path.name == name for path in code) or name == "RESULTS.md", name
    for name in re.findall(r"`([A-Z][A-Z_]+)`", page):
        assert any(re.search(rf"^{name}\b", text, re.MULTILINE) for text in code.values()), name


def test_the_five_commands_of_a_schedule_are_the_same_everywhere() -> None:
    """The README's and those of the page about schedules; tests/flows/test_schedule.py runs them."""
    assert len(FIVE_COMMANDS) == 5
    assert blocks("sh", (ROOT / "data/SCHEDULES.md").read_text(encoding="utf-8"))[0].splitlines() == FIVE_COMMANDS
