"""A finished choice as a document: its tables and picture against the record, as Markdown, page and JSON."""

import json
import re
from collections.abc import Callable

import altair as alt
import pytest

from pipeline.choosing.document import choice_document
from pipeline.choosing.names import show_candidates
from pipeline.choosing.picture import MAX_DRAWN, bar_rows, elimination_figure, tick_rows
from pipeline.choosing.record import ChoiceRecord
from pipeline.choosing.rows import arms_rows, ranked_candidates
from pipeline.choosing.shown import choice_json, choice_markdown, choice_page
from pipeline.choosing.tables import MAX_ROWS
from pipeline.reporting.document import Folded, Headline, Table
from tests.pipeline.choosing import records
from tests.pipeline.choosing.test_words import MAKERS, OUT
from tests.pipeline.reporting.pages import Element, find_data, read_html

SECTIONS = ["summary", "elimination", "arms", "candidates", "made"]
Make = Callable[[], ChoiceRecord]
of_every_ending = pytest.mark.parametrize("make", MAKERS)


@pytest.fixture(scope="module")
def many() -> ChoiceRecord:
    return records.many()


def tables_of(record: ChoiceRecord, section: str) -> list[Table]:
    """The tables of a section, folded ones too."""
    found: list[Table] = []
    (blocks,) = (each.blocks for each in choice_document(record, OUT).sections if each.id == section)
    for block in blocks:
        inner = block.blocks if isinstance(block, Folded) else [block]
        found += [each for each in inner if isinstance(each, Table)]
    return found


def page_of(record: ChoiceRecord) -> Element:
    return read_html(choice_page(record, OUT))


@of_every_ending
def test_the_verdict_comes_first_and_how_it_was_made_last(make: Make) -> None:
    document = choice_document(make(), OUT)
    ids = [section.id for section in document.sections]
    assert ids == [id for id in SECTIONS if id in ids]
    assert {"summary", "arms", "candidates", "made"} <= set(ids)
    assert isinstance(document.sections[0].blocks[0], Headline)


@of_every_ending
def test_every_arm_has_one_row_with_its_own_figures(make: Make) -> None:
    """In the order of the record; a share and a difference are quotients of what stands in it."""
    record = make()
    names = show_candidates(record)
    rows = [row for table in tables_of(record, "arms") for row in table.rows]
    assert len(rows) == len(record.arms)
    for place, (row, arm) in enumerate(zip(rows, record.arms, strict=True)):
        candidate, rule, items, right, behind, state = row
        assert (candidate, rule, items) == (names[arm.candidate], arm.rule, f"{arm.num_items:,}")
        if arm.num_items:
            assert right == f"{100 * (arm.num_right / arm.num_items):.1f}\N{NARROW NO-BREAK SPACE}%"
        if place and arm.behind > 0:
            assert float(behind) == pytest.approx(100 * arm.behind / arm.num_common, abs=0.0501)
        assert (behind == "\N{EN DASH}") == (place == 0 or not arm.num_common)
        assert state == (f"out after {arm.out_after:,} items" if arm.out_after else arm.state)


def test_thirty_arms_are_in_sight_and_the_others_are_folded(many: ChoiceRecord) -> None:
    first, others = tables_of(many, "arms")
    assert (len(first.rows), len(others.rows)) == (MAX_ROWS, 140 - MAX_ROWS)
    (folded,) = (block for block in choice_document(many, OUT).sections[2].blocks if isinstance(block, Folded))
    assert folded.title == "The other 110 arms"
    assert folded.note == f"out after {many.arms[MAX_ROWS].out_after} items or fewer"
    assert len(tables_of(records.within_margin(), "arms")) == 1


def test_arms_that_are_folded_while_in_are_counted(many: ChoiceRecord) -> None:
    arms = tuple(arm.model_copy(update={"state": "in", "out_after": None}) for arm in many.arms[:33])
    record = many.model_copy(update={"arms": arms + many.arms[33:]})
    assert "3 of them in" in choice_markdown(record, OUT)


def test_rows_for_a_table_are_plain_values(many: ChoiceRecord) -> None:
    """As Prefect takes them: JSON and back changes nothing; names are whole."""
    rows = arms_rows(many)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["candidate"] for row in rows] == [arm.candidate for arm in many.arms]
    assert rows[0]["behind"] is None
    assert rows[1]["behind"] == many.arms[1].behind / many.arms[1].num_common


def test_a_difference_is_of_the_items_that_both_were_scored_on() -> None:
    record = records.within_margin()
    second = record.arms[1].model_copy(update={"behind": 5, "num_common": 100, "num_items": 2_400})
    record = record.model_copy(update={"arms": (record.arms[0], second, *record.arms[2:])})
    assert arms_rows(record)[1]["behind"] == 0.05
    assert tables_of(record, "arms")[0].rows[1][4] == "5.0"


def test_candidates_are_told_apart_by_what_differs_and_the_rest_is_said_once(many: ChoiceRecord) -> None:
    table, _ = tables_of(many, "candidates")
    titles = [column.title for column in table.columns]
    assert titles == [
        "candidate", "template", "model", "solved examples", "chat", "chat variables", "items", "forwards"
    ]  # fmt: skip
    assert [row[0] for row in table.rows] == [each.name for each in many.candidates]
    assert table.rows[1][1:6] == ["answer", "SmolLM2-135M-Instruct", "8", "yes", "enable_thinking = no"]
    assert "The same for all: label words: its own." in choice_markdown(many, OUT)
    table, _ = tables_of(records.best_of_all(), "candidates")
    assert [column.title for column in table.columns] == ["candidate", "items", "forwards"]
    assert "It has: template: prompt-1; " in choice_markdown(records.only_one(), OUT)


def test_long_names_are_whole_in_the_table_of_candidates() -> None:
    table, _ = tables_of(records.hostile(), "candidates")
    assert records.INJECTION in table.rows[0][0]
    assert [len(row[0]) for row in table.rows[4:6]] == [300, 300]


def test_what_the_leader_asks_stands_there_to_the_letter(many: ChoiceRecord) -> None:
    """Its template, and the words of each label with their blanks; without labels that the choices are the items'."""
    leader = next(each for each in many.candidates if each.name == many.leader.candidate)
    _, table = tables_of(many, "candidates")
    assert [list(row) for row in table.rows] == [list(pair) for pair in leader.label_words.items()]
    assert leader.template in choice_markdown(many, OUT)
    others = tuple(each.model_copy(update={"label_words": {}}) for each in many.candidates)
    assert "choices of the items" in choice_markdown(many.model_copy(update={"candidates": others}), OUT)


# The picture


@of_every_ending
def test_bars_and_ticks_are_those_of_the_record(make: Make) -> None:
    """Against a loop over its arms."""
    record = make()
    shown = show_candidates(record, 40)
    bars = {row["name"]: row for row in bar_rows(record).iter_rows(named=True)}
    ticks = {
        (row["name"], row["out_after"]): row["rules"].split(", ") for row in tick_rows(record).iter_rows(named=True)
    }
    for candidate in record.candidates:
        own = [arm for arm in record.arms if arm.candidate == candidate.name]
        bar = bars[shown[candidate.name]]
        assert bar["n"] == candidate.num_items
        is_in = any(arm.out_after is None for arm in own)
        assert bar["standing"] == ("leads" if record.arms[0] in own else "in" if is_in else "out")
        for arm in own:
            if arm.out_after is None:
                assert arm.rule in bar["rules_in"].split(", ")
            else:
                assert arm.rule in ticks[shown[candidate.name], arm.out_after]
    assert sum(map(len, ticks.values())) == sum(arm.out_after is not None for arm in record.arms)
    assert len(bars) == len(record.candidates)


@of_every_ending
def test_a_chart_is_valid_small_and_in_the_colours_of_the_page(make: Make) -> None:
    record = make()
    figure = elimination_figure(record)
    assert (figure is None) == (record.num_looked_at == 0)
    if figure is None:
        return
    alt.LayerChart.from_dict(figure.spec, validate=True)
    rows = [row for data in figure.spec["datasets"].values() for row in data]
    assert 0 < len(rows) <= 300
    assert not re.search(r'"(?:fill|stroke|color)": ?"(?!var\(--)', json.dumps(figure.spec))
    assert len(figure.table.rows) == min(MAX_DRAWN, len(record.candidates))


def test_of_very_many_candidates_the_first_are_drawn() -> None:
    """Those of the leader and of the arms that were out last."""
    record = records.make_record(records.offer(60, 2, gap=0.05))
    figure = elimination_figure(record)
    assert figure is not None
    assert figure.title == "Items that each candidate was scored on; the first 30 of 60."
    drawn = [row[0] for row in figure.table.rows]
    assert drawn == [each.name for each in ranked_candidates(record)[:MAX_DRAWN]]
    ticks = next(data for data in figure.spec["datasets"].values() if "rules" in data[0])
    assert {row["name"] for row in ticks} <= set(drawn)


def test_the_sentence_of_the_picture_counts_those_that_were_done_with(many: ChoiceRecord) -> None:
    figure = elimination_figure(many)
    assert figure is not None
    early = [each.num_items for each in many.candidates if each.num_items < many.num_looked_at]
    assert figure.sentence.startswith(
        f"{len(early)} of 20 candidates were done with before the last of 1,800 items, half"
    )
    half = int(re.findall(r"after ([\d,]+) or fewer", figure.sentence)[0].replace(",", ""))
    assert sum(n <= half for n in early) >= len(early) / 2
    assert sum(n < half for n in early) <= len(early) / 2
    none_out = elimination_figure(records.out_of_items())
    assert none_out is not None
    assert none_out.sentence == "Every candidate was scored on the 420 items that were looked at."


# Markdown, page, JSON


def test_140_arms_are_a_page_under_1_2_megabytes_and_60_kilobytes_of_markdown(many: ChoiceRecord) -> None:
    assert len(many.arms) == 140
    assert len(choice_page(many, OUT).encode()) < 1_200_000
    assert len(choice_markdown(many, OUT).encode()) < 60_000


def test_names_of_300_letters_do_not_make_either_much_longer(many: ChoiceRecord) -> None:
    """Where every name of 140 arms and 20 candidates is as long as that."""
    long = {each.name: f"{each.name} {'x' * 300} {number}" for number, each in enumerate(many.candidates)}
    candidates = [
        each.model_copy(update={"name": long[each.name], "prompt": long[each.name], "model": long[each.name]})
        for each in many.candidates
    ]
    arms = [arm.model_copy(update={"candidate": long[arm.candidate]}) for arm in many.arms]
    record = many.model_copy(update={"candidates": tuple(candidates), "arms": tuple(arms)})
    assert len(choice_page(record, OUT).encode()) < 1_200_000
    assert len(choice_markdown(record, OUT).encode()) < 60_000


@of_every_ending
def test_the_page_is_whole_and_every_table_as_wide_as_its_header(make: Make) -> None:
    page = page_of(make())
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for table in page.all("table"):
        header, *rows = table.all("tr")
        assert table.all("caption")[0].text
        assert {len(row.all("th", "td")) for row in rows} == {len(header.all("th"))}


def test_markup_in_names_stays_text_on_the_page() -> None:
    """No element comes of it; the chart has it as data."""
    page = page_of(records.hostile())
    plain = page_of(records.make_record(records.offer(7, 3)))
    scripts = [[script.attributes for script in each.all("script")] for each in (page, plain)]
    assert scripts[0] == scripts[1]
    assert not page.all("b")
    assert any(header.text.startswith("answer </script><script>") for header in page.all("th"))
    names = {row.get("name") for rows in find_data(page, "chart-data")["datasets"].values() for row in rows}
    assert any("</script>" in (name or "") for name in names)


def test_markup_in_names_stays_text_in_markdown() -> None:
    """No tag but those of what is folded, no cell and no line that a name opens, nothing that moves a cursor."""
    markdown = choice_markdown(records.hostile(), OUT)
    assert all(c.isprintable() or c == "\n" for c in markdown)
    tags = re.findall(r"<[^ >]*>", re.sub(r"`[^`\n]*`", "", markdown))  # code is text
    assert set(tags) <= {"<details>", "</details>", "<summary>", "</summary>"}
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1


def test_the_json_is_the_record() -> None:
    """Read back it is the same, and it is ASCII whatever a name holds."""
    for make in MAKERS:
        record = make()
        text = choice_json(record)
        assert text.isascii()
        assert text.endswith("}\n")
        assert ChoiceRecord.model_validate_json(text) == record


def test_the_same_record_gives_the_same_bytes(many: ChoiceRecord) -> None:
    again = ChoiceRecord.model_validate_json(choice_json(many))
    for show in (choice_markdown, choice_page):
        assert show(many, OUT) == show(again, OUT)


def test_markdown_ends_with_where_the_files_are() -> None:
    last = choice_markdown(records.best_of_all(), "s3://bucket/out").splitlines()[-1]
    assert last == "In s3://bucket/out: choice/choice.json, choice/choice.md, choice/choice.html, choice/run.toml."
    undecided = choice_markdown(records.out_of_budget(), "o").splitlines()[-1]
    assert undecided == "In o: choice/choice.json, choice/choice.md, choice/choice.html."


def test_where_no_rule_went_out_only_bars_are_drawn() -> None:
    record = records.make_record(records.offer(2, 1, gap=0.0), num_items=5)
    assert tick_rows(record).is_empty()
    figure = elimination_figure(record)
    assert figure is not None
    assert [layer["mark"]["type"] for layer in figure.spec["layer"]] == ["bar", "text"]
