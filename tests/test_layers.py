"""The layering of the code: who may import whom."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, FinishedRun

PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))
FLOWS = sorted((ROOT / "flows").rglob("*.py"))
# What each layer may know of the others; the modules at the top of pipeline/ put them together.
MAY_IMPORT = {
    "reading": {"errors", "templates", "wording"},
    "scoring": {"errors", "prompts", "templates", "wording"},
    "storing": {"errors", "prompts", "wording"},
    "harness": {"config", "errors", "half", "reading", "scoring", "shard", "storing", "wording"},
    "reporting": {"errors", "prompts", "bundled", "analysis", "storing"},
    "choosing": {"errors", "prompts", "reporting", "storing", "wording"},
}
LAYERED = [path for path in PIPELINE if path.parent.name in MAY_IMPORT]


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports: at its top, inside functions, and for the type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"a relative import in {path}"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", PIPELINE, ids=name_of)
def test_pipeline_never_imports_the_flows_or_their_engines(path: Path) -> None:
    """Only flows/ knows Prefect and Ray; the pipeline knows nothing of flows/."""
    assert not roots(imports_of(path)) & {"flows", "prefect", "ray", "tests"}


@pytest.mark.parametrize("path", LAYERED, ids=name_of)
def test_a_layer_knows_only_what_lies_below_it(path: Path) -> None:
    """Scoring knows nothing of Parquet, storing nothing of reports, reading nothing of either."""
    layer = path.parent.name
    known = {module.split(".")[1] for module in imports_of(path) if module.startswith("pipeline.")}
    assert known <= MAY_IMPORT[layer] | {layer}


@pytest.mark.parametrize("path", LAYERED, ids=name_of)
def test_torch_stays_with_the_models(path: Path) -> None:
    """Storing, reporting and choosing never import torch or transformers; scoring imports nothing else.

    But for the kernels, which are asked for only where they run: Triton is not everywhere.
    """
    third_party = roots(imports_of(path)) - set(sys.stdlib_module_names) - {"pipeline"}
    if path.parent.name == "scoring":
        assert third_party <= {"torch", "transformers"} | ({"triton"} if path.stem == "fp8_kernels" else set())
    elif path.parent.name in ("storing", "reporting", "choosing"):
        assert not third_party & {"torch", "transformers"}


@pytest.mark.parametrize("path", [path for path in PIPELINE if path.parent.name != "harness"], ids=name_of)
def test_the_harness_is_asked_in_its_own_place(path: Path) -> None:
    """Everything else works where lm-evaluation-harness is not installed."""
    assert "lm_eval" not in roots(imports_of(path))


def test_no_module_comes_back_to_itself() -> None:
    """Over imports of any kind: the modules can be put in an order in which each knows only those before it."""
    paths = {name_of(path): path for path in (*PIPELINE, *FLOWS)}
    imports = {name: imports_of(path) & paths.keys() for name, path in paths.items()}
    reached = {name: set(known) for name, known in imports.items()}
    for middle in paths:  # Warshall's closure
        for name in paths:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    circle = sorted(name for name in paths if name in reached[name])
    assert not circle, f"import circle among {circle}"


def test_light_commands_do_not_wait_for_heavy_imports() -> None:
    """`labelscore --help` and `labelscore prompts` import neither torch nor Prefect nor Polars."""
    code = (
        "import sys; from flows.cli import main; main(['prompts']); main(['run', '--help']);"
        "main(['choose', '--help']);"
        "heavy = {'torch', 'transformers', 'prefect', 'polars', 'ray', 'datasets', 'lm_eval'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_with_nothing_to_score_does_not_load_what_scores(demo_run: FinishedRun, tmp_path: Path) -> None:
    """Models' code is half of the imports of a run; what is planned, tabulated and reported needs none of it."""
    code = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'transformers.modeling_utils', 'pipeline.scoring.scorer', 'flows.scoring_actor'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    out = shutil.copytree(demo_run.out, tmp_path / "out", symlinks=True)
    command = [sys.executable, "-c", code, "run", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to score" in done.stderr
