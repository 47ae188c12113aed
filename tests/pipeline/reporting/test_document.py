"""One document, two renderers: each shows every text of every block, and knows nothing of what it is about."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.reporting import document as doc
from pipeline.reporting.formats import visible
from pipeline.reporting.markdown import code, escape, render_markdown
from pipeline.reporting.page import render_page
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from tests.pipeline.reporting.pages import read_html, write_hostile_report
from tests.pipeline.reporting.tables import run_and_report


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_hostile_report(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_and_report(tmp_path_factory.mktemp("bare"), 40, gold=False)


def texts_of(blocks: Sequence[doc.Block], *, drawn: bool) -> Iterator[str]:
    """Every text of these blocks; of figures what is shown where charts are `drawn`, or are not."""
    for block in blocks:
        if isinstance(block, doc.Folded):
            yield from (block.title, block.note, *texts_of(block.blocks, drawn=drawn))
        elif isinstance(block, doc.Figures):
            for figure in block.figures:
                if drawn or not figure.repeats:
                    yield from (figure.title, figure.sentence, figure.legend if drawn else "")
                    yield from texts_of([figure.table], drawn=drawn)
        elif isinstance(block, doc.Table):
            yield from (column.title for column in block.columns)
            yield from (cell for row in block.rows for cell in row)
        elif isinstance(block, doc.Definitions):
            yield from (text for pair in block.pairs for text in pair)
        elif isinstance(block, doc.Warnings | doc.Bullets):
            yield from block.sentences
        elif isinstance(block, doc.Headline):
            yield from (block.figure, block.words)
        elif isinstance(block, doc.WrongItems):
            yield from (text for item in block.rows for text in (str(item.item_id), item.gold, item.predicted))
            yield from (score.value for item in block.rows for score in item.scores)
        elif isinstance(block, doc.Items):
            yield from texts_of(block.instead, drawn=drawn)
        else:
            yield block.text


@pytest.mark.parametrize("name", ["hostile", "bare"])
def test_both_renderers_show_all_that_the_document_says(name: str, request: pytest.FixtureRequest) -> None:
    document = make_document(request.getfixturevalue(name))
    markdown, page = render_markdown(document), read_html(render_page(document)).text
    for section in document.sections:
        for text in (section.title, *texts_of(section.blocks, drawn=True)):
            assert visible(text) in page
        for text in (section.title, *texts_of(section.blocks, drawn=False)):
            assert any(shown in markdown for shown in (escape(text), code(text), " ".join(text.split())))


def test_every_cell_is_in_a_column(hostile: Report) -> None:
    """A table of a document is as wide as its header, whoever draws it."""
    document = make_document(hostile)
    for section in document.sections:
        tables = [block for block in section.blocks if isinstance(block, doc.Table)]
        for table in [*tables, *(figure.table for figure in doc.all_figures(section.blocks))]:
            assert {len(row) for row in table.rows} == {len(table.columns)}


def test_figures_that_repeat_a_table_are_left_to_the_page(tmp_path: Path) -> None:
    """Without its chart nothing of them would be new."""
    document = make_document(run_and_report(tmp_path, 60))
    shown = set(texts_of([block for section in document.sections for block in section.blocks], drawn=False))
    for section in document.sections:
        for figure in doc.all_figures(section.blocks):
            if figure.repeats:
                assert {cell for row in figure.table.rows for cell in row} <= shown
