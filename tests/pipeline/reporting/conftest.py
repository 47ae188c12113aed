"""What the tests of a file share: the report of its `run` and every prediction in it, and a browser with a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from pipeline.analysis import load_run
from pipeline.reporting.report import Report
from pipeline.storing.layout import PAGE
from tests.pipeline.reporting import tables
from tests.pipeline.reporting.browser import look, open_page, start_chromium
from tests.pipeline.reporting.pages import write_hostile_report


@pytest.fixture(scope="module")
def report(run: Path) -> Report:
    return tables.write_report(run)


@pytest.fixture(scope="module")
def rows(run: Path, report: Report) -> list[dict[str, Any]]:
    return load_run(run).predictions.collect().to_dicts()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with start_chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report full of markup, with a past run."""
    out = tmp_path_factory.mktemp("run")
    write_hostile_report(out)
    return (out / PAGE).as_uri()


@pytest.fixture
def opened(chromium: webdriver.Chrome, page: str) -> webdriver.Chrome:
    """The page, opened afresh on a desktop in light mode, its logs empty but for what it causes."""
    look(chromium)
    for log in ("browser", "performance"):
        chromium.get_log(log)
    open_page(chromium, page)
    return chromium
