"""The items of a page in a real Chromium: chosen, sorted, linked to and unfolded."""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline.analysis import load_run
from pipeline.storing.layout import PAGE
from tests.pipeline.reporting import tables, tasks
from tests.pipeline.reporting.browser import open_page, rows_shown
from tests.pipeline.reporting.pages import HOSTILE_LABELS, PROMPTS, RANKED, read_html, read_items

pytestmark = pytest.mark.browser

VIEWS: list[dict[str, str]] = [
    {},
    {"show": "all", "sort": "item"},
    {"show": "wrong", "under": PROMPTS[1], "sort": "widest"},
    {"show": "right", "under": PROMPTS[0], "gold": HOSTILE_LABELS[1], "sort": "unsure"},
    {"show": "disagree", "predicted": HOSTILE_LABELS[2], "sort": "narrowest"},
    {"show": "wrong", "predicted": HOSTILE_LABELS[0], "words": "ARTICLE 1 word", "sort": "surest"},
    {"show": "all", "words": "item 17", "sort": "item"},
    {"show": "all", "words": "not to be found"},
]


@pytest.fixture(scope="module")
def items(page: str) -> list[dict[str, Any]]:
    return read_items(read_html(Path(unquote(urlsplit(page).path)).read_text(encoding="utf-8")))


def expected(items: list[dict[str, Any]], view: dict[str, str]) -> list[int]:
    """The numbers of the items in a view, the slow and obvious way."""
    show, sort = view.get("show", "wrong"), view.get("sort", "surest")
    found = []
    for item in items:
        fits = []
        for place, prompt in enumerate(RANKED):
            if view.get("under", prompt) != prompt:
                continue
            if show in ("wrong", "right") and item["correct"][place] != (show == "right"):
                continue
            if view.get("predicted", item["predicted"][place]) == item["predicted"][place]:
                fits.append(place)
        words = view.get("words", "").lower().split()
        sought = f"{item['text']} item {item['id']}".lower()
        if not fits or not all(word in sought for word in words):
            continue
        if "gold" in view and view["gold"] not in (item["gold"] or []):
            continue
        if show == "disagree" and len(set(item["predicted"])) == 1:
            continue
        confidence, margin = ([item[name][place] for place in fits] for name in ("confidence", "margin"))
        key = {
            "surest": (-max(confidence), -max(margin)),
            "unsure": (min(confidence), min(margin)),
            "widest": (-max(margin), -max(confidence)),
            "narrowest": (min(margin), min(confidence)),
            "item": (0.0, 0.0),
        }[sort]
        found.append((*key, item["id"]))
    return [row[-1] for row in sorted(found)]


def ids_shown(browser: webdriver.Chrome) -> list[int]:
    return [int(row.find_element(By.CSS_SELECTOR, ".text small").text.split()[1]) for row in rows_shown(browser)]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: ",".join(view) or "none")
def test_a_link_opens_the_same_view_again(
    chromium: webdriver.Chrome, page: str, items: list[dict[str, Any]], view: dict[str, str]
) -> None:
    """Chosen and sorted as a plain loop does it; the page says how many match and how many of them it shows."""
    open_page(chromium, f"{page}#items?{urlencode(view)}" if view else page)
    wanted = expected(items, view)
    assert ids_shown(chromium) == wanted[:25]
    more = f", the first {min(25, len(wanted))} are shown" if len(wanted) > 25 else ""
    assert chromium.find_element(By.ID, "item-count").text == f"{len(wanted)} of {len(items)} match{more}"


def test_a_choice_stands_in_the_address_and_goes_back_step_by_step(
    opened: webdriver.Chrome, items: list[dict[str, Any]]
) -> None:
    """Words are one step, however many letters they have; other links of the page leave the choice alone."""
    at_first = ids_shown(opened)
    Select(opened.find_element(By.ID, "item-under")).select_by_visible_text(PROMPTS[1])
    of_prompt = ids_shown(opened)
    assert of_prompt == expected(items, {"under": PROMPTS[1]})[:25]
    opened.find_element(By.ID, "item-words").send_keys("article 2")
    chosen = ids_shown(opened)
    assert chosen == expected(items, {"under": PROMPTS[1], "words": "article 2"})[:25]
    link = opened.current_url
    opened.find_element(By.LINK_TEXT, "Summary").click()
    assert ids_shown(opened) == chosen
    opened.back()
    opened.back()
    WebDriverWait(opened, 5).until(lambda _: ids_shown(opened) == of_prompt)
    opened.back()
    WebDriverWait(opened, 5).until(lambda _: ids_shown(opened) == at_first)
    open_page(opened, link)
    assert ids_shown(opened) == chosen
    opened.find_element(By.CSS_SELECTOR, "#item-filter button[type=reset]").click()
    assert ids_shown(opened) == at_first


def test_a_link_with_names_that_the_page_has_not_opens_what_there_is(
    chromium: webdriver.Chrome, page: str, items: list[dict[str, Any]]
) -> None:
    open_page(chromium, f"{page}#items?under=gone&sort=odd&nothing=1")
    assert ids_shown(chromium) == expected(items, {})[:25]


def test_right_and_wrong_are_told_by_sign_and_word(opened: webdriver.Chrome, items: list[dict[str, Any]]) -> None:
    """Never by colour alone; with the confidence of each prompt beside it."""
    by_id = {item["id"]: item for item in items}
    for row, number in zip(rows_shown(opened), ids_shown(opened), strict=True):
        item = by_id[number]
        parts = row.find_elements(By.CSS_SELECTOR, ".predictions > ul > li")
        for place, (part, prompt) in enumerate(zip(parts, RANKED, strict=True)):
            name, said, sure = part.text.split("\n")
            sign, word = ("✓", "right") if item["correct"][place] else ("✗", "wrong")
            assert name == prompt
            assert said == f"{sign} {item['predicted'][place]}"
            assert sure == f"{100 * item['confidence'][place]:.1f}\u202f% · {word}"


def test_the_scores_of_all_labels_unfold_highest_first(opened: webdriver.Chrome, items: list[dict[str, Any]]) -> None:
    (row, *_), (number, *_) = rows_shown(opened), ids_shown(opened)
    button = row.find_element(By.TAG_NAME, "button")
    assert not row.find_elements(By.CSS_SELECTOR, ".scores")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    (item,) = (item for item in items if item["id"] == number)
    lists = row.find_elements(By.CSS_SELECTOR, ".scores")
    for shown, scores in zip(lists, item["scores"], strict=True):
        lines = [line.text.split("\n") for line in shown.find_elements(By.TAG_NAME, "li")]
        ranked = sorted(scores, key=lambda pair: -pair[1])
        assert lines == [[label, f"{score:.2f}".replace("-", "\N{MINUS SIGN}")] for label, score in ranked]
    button.click()
    assert not row.find_elements(By.CSS_SELECTOR, ".scores")


def test_a_long_table_unfolds_and_the_keyboard_goes_on_at_the_next_row(
    opened: webdriver.Chrome, items: list[dict[str, Any]]
) -> None:
    opened.find_element(By.ID, "item-more").send_keys(Keys.ENTER)
    assert ids_shown(opened) == expected(items, {})[:50]
    assert opened.switch_to.active_element == rows_shown(opened)[25]


def test_an_empty_choice_can_be_chosen(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    """It is shown as `""`, in the field as in the table."""
    tables.write_report(tasks.write_run(tmp_path))
    open_page(chromium, (tmp_path / PAGE).as_uri())
    Select(chromium.find_element(By.ID, "item-show")).select_by_visible_text("all")
    every = int(chromium.find_element(By.ID, "item-count").text.split()[0])
    Select(chromium.find_element(By.ID, "item-predicted")).select_by_visible_text('""')
    found = load_run(tmp_path).predictions.filter(pl.col("rule") == "sum", pl.col("predicted") == "").collect()
    assert int(chromium.find_element(By.ID, "item-count").text.split()[0]) == found.height < every
    assert all('""' in row.text for row in rows_shown(chromium))


def test_items_are_chosen_in_a_frame_without_an_address(chromium: webdriver.Chrome, page: str, tmp_path: Path) -> None:
    """As notebooks show a page: the browser refuses to write its address, and the choice is made all the same."""
    source = Path(unquote(urlsplit(page).path)).read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe sandbox="allow-scripts" srcdoc="{escape(source)}"></iframe>', encoding="utf-8")
    chromium.get(frame.as_uri())
    chromium.switch_to.frame(0)
    WebDriverWait(chromium, 20).until(lambda b: b.find_element(By.ID, "item-count").text)
    Select(chromium.find_element(By.ID, "item-show")).select_by_visible_text("all")
    assert chromium.find_element(By.ID, "item-count").text.startswith("300 of 300 match")
    chromium.switch_to.default_content()
