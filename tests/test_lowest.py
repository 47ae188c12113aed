"""The ranges of pyproject.toml: each has a lowest version, which .ci/run tries, and holds the one that is here."""

from importlib.metadata import version

import pytest
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT
from tests.lowest import lowest, requirements

NEEDED = requirements(["gguf", "peft", "ray", "s3"])


@pytest.mark.parametrize(("name", "bounds"), NEEDED, ids=[name for name, _ in NEEDED])
def test_each_range_has_a_lowest_version_and_holds_the_installed_one(name: str, bounds: str) -> None:
    """What is tested here is something that pip would choose."""
    assert ">=" in bounds
    assert version(name) in SpecifierSet(bounds)


def test_the_lowest_set_is_what_ci_installs() -> None:
    """Constraints for all of them, made anew in each run."""
    made = lowest(["gguf", "peft", "ray", "s3"])
    assert [line.partition("==")[0] for line in made] == [name for name, _ in NEEDED]
    assert "torch==2.11" in made
    assert "python -m tests.lowest gguf peft ray s3 >" in (ROOT / ".ci/run").read_text(encoding="utf-8")
