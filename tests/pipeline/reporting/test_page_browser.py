"""The pages of a report and of a comparison in a real Chromium, opened from disk: drawn, readable, sealed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.analysis import load_run
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.page import render_page
from pipeline.storing.layout import PAGE
from tests.axe import axe_source
from tests.pipeline.reporting import choices
from tests.pipeline.reporting.browser import find_overhang, look, open_all, open_page, rows_shown, wait_for_tables
from tests.pipeline.reporting.pages import INJECTION, RANKED, write_hostile_report
from tests.pipeline.reporting.tables import write_report, write_run

pytestmark = pytest.mark.browser

COLOURS = ("surface", "raised", "ink", "muted", "accent", "heat", "wrong", "warning", "warning-surface")
WIDTHS = (320, 390, 768, 1280)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of two runs with the same items and prompts, full of markup."""
    folder = tmp_path_factory.mktemp("runs")
    for name, signal in (("a", 2.0), ("b", 1.0)):
        write_hostile_report(folder / name, signal=signal)
    runs = [load_run(str(folder / name)) for name in ("a", "b")]
    (folder / "compare.html").write_text(render_page(compare_document(compare_runs(*runs))), encoding="utf-8")
    return (folder / "compare.html").as_uri()


def computed(browser: webdriver.Chrome, selector: str, name: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    return str(browser.execute_script(script, selector, name))


def test_charts_are_drawn(opened: webdriver.Chrome) -> None:
    """Each chart holds marks once the folded parts are open, those of the most accurate prompt at once."""
    data = json.loads(opened.execute_script("return document.getElementById('chart-data').textContent"))
    assert opened.find_elements(By.CSS_SELECTOR, "#confusion-1 svg .mark-rect path")
    assert not opened.find_elements(By.CSS_SELECTOR, "#confusion-0 svg")
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
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 6
    assert INJECTION in rows_shown(opened)[0].text
    assert RANKED[0] in opened.find_element(By.CSS_SELECTOR, "#prompts > details:first-of-type > summary").text
    drawn = opened.find_elements(By.CSS_SELECTOR, "#accuracy svg text")
    assert any("</script>" in (text.get_attribute("textContent") or "") for text in drawn)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page", "comparison"])
def test_no_digit_is_cut_off_at_any_width(
    chromium: webdriver.Chrome, which: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    """With everything open: nothing runs over the side, and no table has to be scrolled."""
    look(chromium, width=width, scheme=scheme)
    open_page(chromium, request.getfixturevalue(which))
    open_all(chromium)
    wait_for_tables(chromium)
    for button in chromium.find_elements(By.CSS_SELECTOR, ".quiet"):
        button.click()
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert find_overhang(chromium, width) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("which", ["page", "comparison"])
def test_axe_finds_no_barrier(
    chromium: webdriver.Chrome, which: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    """Nothing that axe-core knows keeps anybody out, with everything open."""
    source = axe_source()
    look(chromium, width=width, scheme=scheme)
    open_page(chromium, request.getfixturevalue(which))
    open_all(chromium)
    wait_for_tables(chromium)
    chromium.find_element(By.CSS_SELECTOR, ".quiet, #item-more").click()
    chromium.execute_script(source)
    chromium.set_script_timeout(120)
    found = chromium.execute_async_script("axe.run(document).then(r => arguments[0](r.violations))")
    assert [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in found] == []


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
        ("wrong", "surface"), ("warning", "warning-surface"),
    ):  # fmt: skip
        high, low = sorted((light[text], light[behind]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, behind)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`: WCAG 2.2, definition of relative luminance."""
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_is_reached_by_keyboard_with_the_focus_in_sight(opened: webdriver.Chrome) -> None:
    """Tab goes through the skip link, the contents, what unfolds, and the fields that items are chosen by."""
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
    fields = {f"item-{name}" for name in ("show", "under", "words", "gold", "predicted", "sort", "more")}
    assert fields <= {e["id"] for e in reached}
    assert {e["tag"] for e in reached} == {"A", "SUMMARY", "INPUT", "SELECT", "BUTTON"}


def test_a_screen_reader_finds_landmarks_names_and_the_table_on_a_phone(opened: webdriver.Chrome) -> None:
    """From Chromium's own accessibility tree; tables stay tables where their rows are cards."""
    look(opened, width=360)
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = {role for role, _ in seen}
    assert {"banner", "main", "navigation", "contentinfo", "heading", "table", "status", "searchbox"} <= roles
    assert all(name for role, name in seen if role in ("image", "searchbox", "combobox", "button", "link", "region"))
    assert ("table", "Items and what each prompt predicts") in seen
    assert ("table", "Prompts under the rule 'sum'") in seen
    assert {"rowheader", "cell"} <= roles
    assert len([1 for role, _ in seen if role == "columnheader"]) > 6


def test_print_drops_the_controls_and_is_dark_on_white(opened: webdriver.Chrome) -> None:
    look(opened, scheme="dark", media="print")
    assert not opened.find_element(By.ID, "item-filter").is_displayed()
    assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
    assert luminance(computed(opened, "body", "background-color")) > 0.9
    assert luminance(computed(opened, "#accuracy svg text", "fill")) < 0.2


def test_print_has_every_prompt_folded_or_not(opened: webdriver.Chrome) -> None:
    """With its tables, and the figures of a chart that was never drawn; nothing hangs over a sheet's side."""
    look(opened, width=700, media="print")
    seen = "return arguments[0].checkVisibility({contentVisibilityAuto: true}) && arguments[0].innerText"
    folded = opened.find_elements(By.CSS_SELECTOR, "#prompts details.part:not([open])")
    assert folded
    for part in folded:
        undrawn = part.find_element(By.CSS_SELECTOR, "details.data table")
        assert "gold \\ predicted" in opened.execute_script(seen, undrawn)
        tables = part.find_elements(By.CSS_SELECTOR, "table")
        assert all(opened.execute_script(seen, table) for table in tables)
    look(opened)
    opened.execute_script("""
        addEventListener("beforeprint", () => { window.printed = [
            document.querySelectorAll("details.part:not([open])").length,
            [...document.querySelectorAll(".scroll")].filter(b => b.scrollWidth > b.clientWidth).length,
            document.querySelectorAll("#prompts .scroll table").length,
        ]});
    """)
    opened.execute_cdp_cmd("Page.printToPDF", {})
    closed, too_wide, num_tables = opened.execute_script("return window.printed")
    assert (closed, too_wide) == (0, 0)
    assert num_tables > len(folded)
    assert not folded[0].get_attribute("open")


def test_without_javascript_the_tables_and_the_confidently_wrong_are_there(opened: webdriver.Chrome, page: str) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page)
        items = opened.find_elements(By.CSS_SELECTOR, "noscript .wrong > li")
        assert items
        assert all(item.is_displayed() for item in items)
        assert not opened.find_element(By.ID, "item-filter").is_displayed()
        assert "Without JavaScript" in opened.find_element(By.TAG_NAME, "body").text
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_names_with_line_separators_are_drawn(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    """Vega writes names into expressions, where U+2028 and U+2029 would end a string."""
    names = ("World\u2028News", "Sports\u2029", "Business \\u2028", "Sci/Tech")
    write_report(write_run(tmp_path, 60, ("a\u2028b", "c"), label_names=names, words=names))
    open_page(chromium, (tmp_path / PAGE).as_uri())
    open_all(chromium)
    drawn = [text.get_attribute("textContent") for text in chromium.find_elements(By.CSS_SELECTOR, ".chart svg text")]
    assert {"World News", "Business \\u2028"} <= set(drawn)


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
    open_page(chromium, (out / PAGE).as_uri())
    open_all(chromium)
    charts = chromium.find_elements(By.CSS_SELECTOR, ".chart")
    assert len(charts) == len(chromium.find_elements(By.CSS_SELECTOR, ".chart svg")) >= 4
    assert chromium.title != "taken over"
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert "is left out: the rules pmi" in chromium.find_element(By.ID, "summary").text
    row = report.wrong.row(0, named=True)
    assert INJECTION in rows_shown(chromium)[0].text
    chromium.find_element(By.ID, "item-words").send_keys(f"passage {row['item_id'] // 2} item {row['item_id']}")
    assert row["predicted"].split(" <")[0].strip() in rows_shown(chromium)[0].text
