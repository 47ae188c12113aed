"""A sweep over every causal language model of the installed transformers: over trees, over rows, refused, or wrong.

Invariant: each case is a tiny random model in a process of its own, held against one plain forward for each label;
whatever a family's code does, a crash or a hang of it is one row of the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import transformers

from tests.benchmarks.results import RESULTS, command_line, write_section

TITLE = "Causal language models of transformers, one by one"
COMMAND = "python -m tests.benchmarks.architectures"
ROOT = Path(__file__).resolve().parents[2]
Outcomes = dict[str, dict[str, Any]]  # "model type/case" -> its outcome


def use_code(folder: Path) -> str:
    """Have `pipeline` come from another checkout, while the sweep stays this one; returns its commit.

    Raises SystemExit where something has imported `pipeline` before.
    """
    sys.path.insert(0, str(folder))
    import pipeline

    sys.path.pop(0)
    if Path(str(pipeline.__file__)).parents[1] != folder:
        raise SystemExit(f"{folder}: pipeline has been imported from {pipeline.__file__}")
    told = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(told, check=False, capture_output=True, text=True).stdout.strip() or "no commit"


def read(file: Path | None) -> tuple[str, Outcomes]:
    """The commit whose outcomes a file keeps, and these; nothing where there is no file yet."""
    if file is None or not file.is_file():
        return "", {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return kept["commit"], kept["outcomes"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="these model types, measured again")
    parser.add_argument("--cases", nargs="+", help="these cases")
    parser.add_argument("--code", type=Path, default=ROOT, help="take `pipeline` from this checkout")
    parser.add_argument("--out", type=Path, help="keep outcomes here, and go on with those that are missing")
    parser.add_argument("--against", type=Path, help="outcomes of other code, kept by --out: what became of them")
    parser.add_argument("--results", type=Path, help="write the section here, also if it is not of all")
    options = parser.parse_args(arguments)
    commit = use_code(options.code.resolve())
    transformers.logging.set_verbosity_error()  # it remarks on what is small
    from tests.benchmarks import architectures_report as report  # these import `pipeline`
    from tests.benchmarks.architectures_cases import CASES, list_cases
    from tests.benchmarks.architectures_run import run_all

    kept_commit, outcomes = read(options.out)
    if kept_commit not in ("", commit) and not options.only:
        raise SystemExit(f"{options.out}: has outcomes of {kept_commit}, not of {commit}; give another --out")
    listed = list_cases(options.only, options.cases or list(CASES))
    for key, outcome in run_all([key for key in listed if options.only or "/".join(key) not in outcomes]):
        outcomes["/".join(key)] = outcome
        print(report.line(*key, outcome), end="", flush=True)
        if options.out:
            options.out.write_text(json.dumps({"commit": commit, "outcomes": outcomes}, indent=1), encoding="utf-8")
    body = report.section(outcomes, *read(options.against))
    whole = not (options.only or options.cases)
    if options.results or (whole and commit_is_ours(options.code)):
        write_section(TITLE, command_line(COMMAND, parser, options), body, options.results or RESULTS, num_threads=1)
    else:
        print(body)


def commit_is_ours(code: Path) -> bool:
    """Whether the code is that of this checkout, which RESULTS.md tells of."""
    return code.resolve() == ROOT


if __name__ == "__main__":
    main()
