"""The page in a real Chromium, opened from disk: drawn, filtered, readable, silent and sealed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.storing.layout import PAGE
from tests.pipeline.reporting import choices
from tests.pipeline.reporting.pages import INJECTION, PROMPTS, write_hostile_report
from tests.pipeline.reporting.tables import write_report

pytestmark = pytest.mark.browser

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
COLOURS = ("surface", "raised", "ink", "muted", "accent", "heat", "warning", "warning-surface")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report full of markup, with a past run."""
    out = tmp_path_factory.mktemp("run")
    write_hostile_report(out)
    return (out / PAGE).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def opened(chromium: webdriver.Chrome, page: str) -> webdriver.Chrome:
    """The page, opened afresh on a desktop in light mode, its logs empty but for what it causes."""
    look(chromium)
    for log in ("browser", "performance"):
        chromium.get_log(log)
    chromium.get(page)
    wait_for_charts(chromium)
    return chromium


def look(browser: webdriver.Chrome, *, width: int = 1280, scheme: str = "light", media: str = "screen") -> None:
    """Emulate a window of this many CSS pixels and the reader's colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


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


def rows_shown(browser: webdriver.Chrome) -> list[WebElement]:
    return [row for row in browser.find_elements(By.CSS_SELECTOR, "#wrong-table tbody tr") if row.is_displayed()]


def computed(browser: webdriver.Chrome, selector: str, name: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    return str(browser.execute_script(script, selector, name))


def test_charts_are_drawn(opened: webdriver.Chrome) -> None:
    """Each chart holds marks once the folded parts are open, those of the first prompt at once."""
    data = json.loads(opened.execute_script("return document.getElementById('chart-data').textContent"))
    assert opened.find_elements(By.CSS_SELECTOR, "#confusion-0 svg .mark-rect path")
    assert not opened.find_elements(By.CSS_SELECTOR, "#confusion-1 svg")
    open_all(opened)
    for name in data["charts"]:
        marks = "svg .mark-rect path, svg .mark-symbol path, svg .mark-line path, svg .mark-rule line"
        assert opened.find_elements(By.ID, name)[0].find_elements(By.CSS_SELECTOR, marks), name
        assert opened.execute_script("return document.getElementById(arguments[0]).clientHeight", name) > 50


def test_the_page_says_nothing_on_the_console_and_asks_for_nothing(opened: webdriver.Chrome, page: str) -> None:
    """No warning or error, no request but for the file itself, even with everything open and a tooltip shown."""
    open_all(opened)
    webdriver.ActionChains(opened).move_to_element(
        opened.find_element(By.CSS_SELECTOR, "#confusion-0 .mark-rect path")
    ).perform()
    WebDriverWait(opened, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))
    assert opened.get_log("browser") == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked == [page]


def test_the_policy_stops_what_would_leave_the_page(opened: webdriver.Chrome) -> None:
    """Were a script to get in, it could neither load nor evaluate anything."""
    blocked = """
        const done = arguments[0], blocked = [];
        document.addEventListener("securitypolicyviolation", e => blocked.push(e.effectiveDirective));
        new Image().src = "https://example.org/x.png";
        fetch("https://example.org/").catch(() => {});
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken over'";
        document.body.append(script);
        setTimeout(() => done(blocked), 500);
    """
    assert set(opened.execute_async_script(blocked)) == {"img-src", "connect-src", "script-src-elem"}
    assert opened.title != "taken over"


def test_markup_in_texts_labels_and_prompts_is_shown_as_text(opened: webdriver.Chrome) -> None:
    """In the table, in the headings, and in the charts' own labels."""
    open_all(opened)
    assert opened.title != "taken over"
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 3
    assert INJECTION in rows_shown(opened)[0].text
    assert PROMPTS[1] in opened.find_element(By.CSS_SELECTOR, "#prompts > details:last-of-type > summary").text
    drawn = opened.find_elements(By.CSS_SELECTOR, "#accuracy svg text")
    assert any("</script>" in (text.get_attribute("textContent") or "") for text in drawn)


def test_the_filter_narrows_the_table_and_says_how_many_are_left(opened: webdriver.Chrome) -> None:
    count = opened.find_element(By.ID, "filter-count")
    rows = opened.find_elements(By.CSS_SELECTOR, "#wrong-table tbody tr")
    assert count.get_attribute("role") == "status"
    assert count.text.startswith(f"{len(rows)} of {len(rows)} ")

    opened.find_element(By.ID, "filter-prompt").send_keys(PROMPTS[0])
    of_prompt = [row for row in rows if row.get_attribute("data-prompt") == PROMPTS[0]]
    assert count.text.startswith(f"{len(of_prompt)} of ")
    assert {row.get_attribute("data-prompt") for row in rows_shown(opened)} == {PROMPTS[0]}

    item = of_prompt[0].find_element(By.TAG_NAME, "small").text
    opened.find_element(By.ID, "filter-words").send_keys(f"ARTICLE {item}")
    assert count.text == f"1 of {len(rows)} items match"
    assert [row.find_element(By.TAG_NAME, "small").text for row in rows_shown(opened)] == [item]

    opened.find_element(By.CSS_SELECTOR, "#filter button[type=reset]").click()
    WebDriverWait(opened, 10).until(lambda _: count.text.startswith(f"{len(rows)} of "))


def test_a_long_table_unfolds_and_the_keyboard_goes_on_at_the_next_row(opened: webdriver.Chrome) -> None:
    before = len(rows_shown(opened))
    opened.find_element(By.ID, "more").send_keys(Keys.ENTER)
    after = rows_shown(opened)
    assert len(after) > before
    assert opened.switch_to.active_element == after[before]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_runs_over_the_side(opened: webdriver.Chrome, width: int) -> None:
    """With everything open, at every width; what is wider scrolls in a box of its own."""
    look(opened, width=width)
    opened.refresh()
    open_all(opened)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    overhang = """
        const wide = e => e.getBoundingClientRect().right > arguments[0] + 1;
        return [...document.querySelectorAll("main *")].filter(e => wide(e) && !e.closest(".scroll, thead"))
            .map(e => e.outerHTML.slice(0, 120));
    """
    assert opened.execute_script(overhang, width) == []


def test_dark_mode_reaches_page_and_charts_without_drawing_again(opened: webdriver.Chrome) -> None:
    chart = "#accuracy svg .mark-symbol path"
    light = computed(opened, "body", "background-color"), computed(opened, chart, "fill")
    look(opened, scheme="dark")
    dark = computed(opened, "body", "background-color"), computed(opened, chart, "fill")
    assert luminance(light[0]) > 0.9 > 0.1 > luminance(dark[0])
    assert light[1] != dark[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(opened: webdriver.Chrome, scheme: str) -> None:
    """WCAG AA, 4.5 to 1, for each pair of colours that the style sheet puts on each other."""
    look(opened, scheme=scheme)
    probe = """
        const span = document.body.appendChild(document.createElement("span"));
        return arguments[0].map(name => {
            span.style.color = `var(--${name})`;
            return getComputedStyle(span).color;
        });
    """
    light = {name: luminance(c) for name, c in zip(COLOURS, opened.execute_script(probe, COLOURS), strict=True)}
    for text, behind in (
        ("ink", "surface"), ("muted", "surface"), ("accent", "surface"), ("ink", "raised"), ("ink", "heat"),
        ("warning", "warning-surface"),
    ):  # fmt: skip
        high, low = sorted((light[text], light[behind]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, behind)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`: WCAG 2.2, definition of relative luminance."""
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_is_reached_by_keyboard_with_the_focus_in_sight(opened: webdriver.Chrome) -> None:
    """Tab goes through the skip link, the contents, what unfolds, what scrolls, and the filter."""
    reached: list[dict[str, Any]] = []
    describe = """
        const e = document.activeElement, style = getComputedStyle(e);
        return {tag: e.tagName, id: e.id, kind: e.className, outline: style.outlineStyle};
    """
    opened.execute_script("window.scrollTo(0, 0)")
    for _ in range(200):
        webdriver.ActionChains(opened).send_keys(Keys.TAB).perform()
        reached.append(opened.execute_script(describe))
        if reached[-1]["tag"] == "BODY":
            break
    reached = [element for element in reached if element["tag"] != "BODY"]
    assert reached[0]["kind"] == "skip"
    assert all(element["outline"] != "none" for element in reached)
    assert {"filter-words", "filter-gold", "filter-predicted", "filter-prompt", "more"} <= {e["id"] for e in reached}
    assert {"A", "SUMMARY", "INPUT", "SELECT", "BUTTON", "DIV", "PRE"} == {e["tag"] for e in reached}


def test_a_screen_reader_finds_landmarks_names_and_the_table_on_a_phone(opened: webdriver.Chrome) -> None:
    """From Chromium's own accessibility tree; the table of the wrong stays one where its rows are cards."""
    look(opened, width=360)
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = {role for role, _ in seen}
    assert {"banner", "main", "navigation", "contentinfo", "heading", "table", "status", "searchbox"} <= roles
    assert all(name for role, name in seen if role in ("image", "searchbox", "combobox", "button", "link", "region"))
    assert ("table", "Confidently wrong") in seen
    assert len([1 for role, _ in seen if role == "columnheader"]) > 6


def test_print_drops_the_controls_and_is_dark_on_white(opened: webdriver.Chrome) -> None:
    look(opened, scheme="dark", media="print")
    assert not opened.find_element(By.ID, "filter").is_displayed()
    assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
    assert luminance(computed(opened, "body", "background-color")) > 0.9
    assert luminance(computed(opened, "#accuracy svg text", "fill")) < 0.2


def test_without_javascript_the_tables_are_all_there(opened: webdriver.Chrome, page: str) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page)
        rows = opened.find_elements(By.CSS_SELECTOR, "#wrong-table tbody tr")
        assert rows
        assert all(row.is_displayed() for row in rows)
        assert not opened.find_element(By.ID, "filter").is_displayed()
        assert "Without JavaScript" in opened.find_element(By.TAG_NAME, "body").text
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [320, 1280])
def test_a_page_of_items_with_their_own_choices_is_drawn_and_fits(
    chromium: webdriver.Chrome, width: int, tmp_path: Path
) -> None:
    """Long choices full of markup: all charts are drawn, nothing runs over the side, and the filter finds one."""
    items = choices.make_items(60, np.random.default_rng(0))
    long = pl.col("item_choices").list.eval(pl.element() + f" {INJECTION} and then {'they went on ' * 9}")
    out = choices.write_run(tmp_path, items=items.with_columns(long), prompts={"p": choices.BOTH})
    report = write_report(out)
    look(chromium, width=width)
    chromium.get((out / PAGE).as_uri())
    open_all(chromium)
    charts = chromium.find_elements(By.CSS_SELECTOR, ".chart")
    assert len(charts) == len(chromium.find_elements(By.CSS_SELECTOR, ".chart svg")) >= 4
    assert chromium.title != "taken over"
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert "is left out: the rules pmi" in chromium.find_element(By.ID, "summary").text
    row = report.wrong.row(0, named=True)
    assert INJECTION in rows_shown(chromium)[0].text
    chromium.find_element(By.ID, "filter-words").send_keys(f"passage {row['item_id'] // 2} item {row['item_id']}")
    assert row["predicted"].split(" <")[0].strip() in rows_shown(chromium)[0].text
