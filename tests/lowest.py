"""The lowest set of libraries that pyproject.toml allows, as constraints for pip: `python -m tests.lowest [EXTRA ...]`.

Invariant: the bounds stand in pyproject.toml alone. A newcomer's `pip install` gets the highest set, on which the tests
run; `.ci/run` installs the wheel with these constraints, too, and runs its commands.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?(?P<bounds>[<>=!,.0-9]*)")


def requirements(extras: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Names and bounds of what is needed, and of these extras, without our own name. Raises KeyError for no extra."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = [match for line in lines if (match := REQUIREMENT.fullmatch(line.replace(" ", "")))]
    assert len(found) == len(lines)
    return [(match["name"], match["bounds"]) for match in found if match["name"] != project["name"]]


def lowest(extras: Iterable[str] = ()) -> list[str]:
    """One constraint for each requirement that has a lower bound."""
    bounds = [(name, re.search(r">=([0-9.]+)", said)) for name, said in requirements(extras)]
    return [f"{name}=={bound[1]}" for name, bound in bounds if bound]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
