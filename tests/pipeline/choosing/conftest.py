"""What the tests of a choice's page share: a browser."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.pipeline.reporting.browser import start_chromium


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with start_chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started
