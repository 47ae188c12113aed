"""The README is run: its commands, its output, its Python."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import app, main
from pipeline.classes import known_prompt
from pipeline.config import load_config
from pipeline.prompts import Values
from tests.conftest import README, ROOT, WALK, FinishedRun, Walk


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("labelscore ")]
# Commands that only read a finished run or score one text; the others start runs and are run by tests of their own.
HARMLESS = [c for c in COMMANDS if c.split()[1] in ("status", "path", "verify", "history", "report", "prune", "compare",
                                                    "classify", "tokens", "generate", "prompts")]  # fmt: skip


def test_the_two_commands_come_first_and_ci_runs_the_second() -> None:
    """The first two shell blocks are the main job and the tests; .ci/run takes the test command from there."""
    assert blocks("sh")[:2] == ["pip install -e . && labelscore run\n", "pip install -e '.[test]' && pytest\n"]


def test_the_output_shown_is_the_real_one(demo_run: FinishedRun) -> None:
    """What the README shows for the default run is what the command prints, line for line."""
    assert blocks("text")[0].splitlines() == demo_run.stdout.splitlines()


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
    load_config(str(path), None, {})


def test_the_map_has_every_file() -> None:
    """Each module of flows/ and pipeline/ is named in "Where things are", and no other."""
    named = re.findall(r"\b\w+\.py\b", README.partition("## Where things are")[2].partition("```text")[2])
    modules = [path.name for package in ("flows", "pipeline") for path in (ROOT / package).rglob("*.py")]
    assert sorted(named) == sorted([name for name in modules if name != "__init__.py"] + ["make_demo.py"])


def test_every_link_to_a_file_leads_somewhere() -> None:
    """Relative links point to files of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
