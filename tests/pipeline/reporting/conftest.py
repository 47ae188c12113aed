"""What the tests of a file share: the report of its `run`, and every prediction in it."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis import load_run
from pipeline.reporting.report import Report
from tests.pipeline.reporting import tables


@pytest.fixture(scope="module")
def report(run: Path) -> Report:
    return tables.write_report(run)


@pytest.fixture(scope="module")
def rows(run: Path, report: Report) -> list[dict[str, Any]]:
    return load_run(run).predictions.collect().to_dicts()
