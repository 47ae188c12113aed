"""What a finished choice is handed out as: JSON, Markdown and a page.

Invariant: all of it is made from the record alone; the rows of a table are `rows.arms_rows`.
"""

import json

from pipeline.choosing.document import choice_document
from pipeline.choosing.record import ChoiceRecord
from pipeline.reporting.markdown import render_markdown
from pipeline.reporting.page import render_page


def choice_json(record: ChoiceRecord) -> str:
    """The record: what `labelscore choose --json` prints and choice.json holds; data/README.md lists its keys.

    In ASCII, so that every terminal shows it and a name with half a character in it is written, too.
    """
    return json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def choice_markdown(record: ChoiceRecord, out: str) -> str:
    """choice.md of the output `out`, and what Prefect shows."""
    return render_markdown(choice_document(record, out))


def choice_page(record: ChoiceRecord, out: str) -> str:
    """choice.html of the output `out`."""
    return render_page(choice_document(record, out))
