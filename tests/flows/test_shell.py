"""What a shell asks of the command: its version in a line, and what completes a line."""

import re
import subprocess
from importlib.metadata import version

import pytest

from flows.cli import main

CANDIDATES = (
    'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _labelscore; printf "%s\\n" "${{COMPREPLY[@]}}"'
)


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def complete(script: str, words: str) -> set[str]:
    """What bash offers for the last of these words."""
    code = f"{script}\n{CANDIDATES.format(words=words)}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(filter(None, done.stdout.split("\n")))


def test_the_version_is_one_line_with_what_a_fault_depends_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Our version first, as `git --version` has it; and that of each library that makes a score."""
    assert main(["--version"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(rf"labelscore {re.escape(version('labelscore'))} \(Python 3\.\d+\.\d+", line)
    assert all(f"{name} {version(name)}" in line for name in ("torch", "transformers", "prefect"))


def test_bash_completes_commands_options_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    """The script as a shell sources it, asked as readline asks it; what it does not know is a file's name."""
    sourced = script("bash", capsys)
    assert subprocess.run(["bash", "-n", "-c", sourced], check=True).returncode == 0
    assert {"run", "compare", "completion"} <= complete(sourced, 'labelscore ""')
    assert complete(sourced, "labelscore ru") == {"run"}
    assert {"--model", "--plan", "--json"} <= complete(sourced, "labelscore run --")
    assert complete(sourced, "labelscore run --mod") == {"--model"}
    assert {"sum", "pmi"} <= complete(sourced, 'labelscore report out --rule ""')
    assert "-o default" in sourced.splitlines()[-1]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In their own language, with the same names."""
    sourced = script(shell, capsys)
    assert {"zsh": "#compdef labelscore", "fish": "complete -c labelscore"}[shell] in sourced
    assert "compare" in sourced
    assert "batch-tokens" in sourced


def test_a_shell_that_is_not_known_is_told_which_are(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    assert main(["completion", "tcsh"]) == 2
    assert '"bash", "zsh", "fish"' in capsys.readouterr().err
