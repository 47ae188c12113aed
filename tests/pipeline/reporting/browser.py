"""A real Chromium for the pages, opened from disk, and what a reader sees in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to start as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def start_chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """The browser; the test is skipped where it is not installed."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


def open_page(browser: webdriver.Chrome, address: str) -> None:
    """Open it anew, and wait until charts and items are drawn."""
    browser.get("about:blank")
    browser.get(address)
    wait_for_charts(browser)
    WebDriverWait(browser, 20).until(lambda b: b.find_element(By.ID, "item-count").text)


def look(browser: webdriver.Chrome, *, width: int = 1280, scheme: str = "light", media: str = "screen") -> None:
    """Emulate a window of this many CSS pixels and the reader's colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    wait_for_frames(browser)  # what is folded on a screen and not on paper is unlocked with the next one


def wait_for_frames(browser: webdriver.Chrome) -> None:
    """Until the page as it is has been drawn."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")


def wait_for_charts(browser: webdriver.Chrome) -> None:
    """Until every chart outside closed <details> is drawn."""
    undrawn = """
        return [...document.querySelectorAll(".chart")]
            .some(chart => !chart.closest("details:not([open])") && !chart.querySelector("svg"));
    """
    WebDriverWait(browser, 60).until(lambda b: not b.execute_script(undrawn))


def open_all(browser: webdriver.Chrome) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    wait_for_charts(browser)


def wait_for_tables(browser: webdriver.Chrome) -> None:
    """Until those that have just been unfolded are fitted to their places, which is done with the next frame."""
    wait_for_frames(browser)
    too_wide = "return [...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
    WebDriverWait(browser, 5).until(lambda b: b.execute_script(too_wide) == 0)


def rows_shown(browser: webdriver.Chrome) -> list[WebElement]:
    return [row for row in browser.find_elements(By.CSS_SELECTOR, "#item-table tbody tr") if row.is_displayed()]


def find_overhang(chromium: webdriver.Chrome, width: int) -> list[str]:
    """The beginnings of what runs over the right side of a page of so many pixels."""
    script = """
        const wide = e => e.getBoundingClientRect().right > arguments[0] + 1;
        return [...document.querySelectorAll("main *")].filter(e => wide(e) && !e.closest("thead, .unseen"))
            .map(e => e.outerHTML.slice(0, 120));
    """
    found: list[str] = chromium.execute_script(script, width)
    return found
