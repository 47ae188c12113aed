"""A finished choice as a document: what it came to, how it went, all that was offered, and how it was made.

Invariant: made from the record alone; what is said is decided here, once, and a page and Markdown only set it.
"""

from datetime import datetime

from pipeline.choosing.picture import elimination_figure
from pipeline.choosing.race import ALPHA, BATCH
from pipeline.choosing.record import ChoiceRecord
from pipeline.choosing.tables import arms_section, candidates_section
from pipeline.choosing.words import count_words, find_choice, margin_words, offered_words, source_words
from pipeline.reporting import document as doc
from pipeline.storing.layout import CHOICE_MANIFEST, CHOICE_MARKDOWN, CHOICE_PAGE, CHOICE_RUN

TERMS = (
    ("Candidate", "A prompt as it was offered: a template with label words, on a model, with so many solved examples, "
                  "as a chat or not."),
    ("Rule", "How the label scores of an item become one prediction. All rules of a candidate cost one forward."),
    ("Arm", "A candidate under a rule: what is chosen among."),
    ("Named", "The arm that was chosen: no other is better by the margin or more."),
    ("In", "Not out: it may be the best."),
    ("Out", "It is not the best."),
    ("Right", "The share of the items that the arm was scored on, which are the first ones of the random order."),
    ("Points behind", "How many points of per cent less the arm has right than the leader, on the items that both were "
                      "scored on."),
    ("Forward", "A prompt over an item: through the model or, where it was scored before, out of the store."),
    ("Fresh items", "Those after the last one of the race, in the same random order. Their interval is Wilson's."),
)  # fmt: skip


def choice_document(record: ChoiceRecord, out: str) -> doc.Document:
    """All there is to show of a choice in the output `out`."""
    title = f"{count_words(len(record.candidates), 'candidate')} on {source_words(record)}"
    made = (_elimination(record), arms_section(record), candidates_section(record), _how_made(record, out))
    sections = [_summary(record, out), *(section for section in made if section is not None)]
    return doc.Document("labelscore choose", title, sections)


def _summary(record: ChoiceRecord, out: str) -> doc.Section:
    found = find_choice(record, out)
    facts = [
        ("Offered", offered_words(record)),
        ("Margin", margin_words(record)),
        ("Items", _items_words(record)),
        ("Finished", f"{datetime.fromisoformat(record.finished):%Y-%m-%d %H:%M %Z}".strip()),
    ]
    headline, sentences = doc.Headline(found.verdict, found.words), doc.Bullets(found.sentences)
    return doc.Section("summary", "Summary", [headline, sentences, doc.Definitions(facts, facts=True)])


def _items_words(record: ChoiceRecord) -> str:
    num_rows, num_items = record.items.num_rows, record.items.num_items
    return f"{num_items:,}" if num_rows == num_items else f"{num_items:,} texts of {count_words(num_rows, 'row')}"


def _elimination(record: ChoiceRecord) -> doc.Section | None:
    figure = elimination_figure(record)
    return None if figure is None else doc.Section("elimination", "How it went", [doc.Figures([figure])])


def _how_made(record: ChoiceRecord, out: str) -> doc.Section:
    files = [CHOICE_MANIFEST, CHOICE_MARKDOWN, CHOICE_PAGE, *([CHOICE_RUN] if record.ending == "named" else [])]
    blocks: list[doc.Block] = [
        doc.Definitions(_facts(record), facts=True),
        doc.Paragraph(_method(record)),
        doc.Subheading("Words used here"),
        doc.Definitions(TERMS),
        doc.Subheading("Files"),
        doc.Paragraph(f"In {out}: {', '.join(files)}."),
    ]
    return doc.Section("made", "How this was made", blocks)


def _facts(record: ChoiceRecord) -> list[tuple[str, str]]:
    """For whoever wants to make it again; a fact that is not known is left out."""
    facts = [
        ("Data set", source_words(record)),
        ("Data revision", record.dataset.revision or ""),
        ("Budget", "none" if record.budget is None else count_words(record.budget, "forward")),
        ("Seed of the order", str(record.seed)),
        ("Asked about", "these items alone" if record.of_these_alone else "texts like these"),
        ("Took", f"{record.seconds:,.1f} s"),
        ("labelscore", record.labelscore),
    ]
    return [(name, value) for name, value in facts if value]


def _method(record: ChoiceRecord) -> str:
    """How the states came about, with the numbers of this choice."""
    bound = 2 * (len(record.arms) - 1) / ALPHA
    if not bound:
        return "One arm was offered, so there was no race."
    of_these = " and among so many items (Waudby-Smith and Ramdas, 2024)" if record.of_these_alone else ""
    return (
        f"Distinct texts were scored in a random order, {BATCH} at a time, each by all candidates that still had an "
        "arm in. Of each pair of arms a bettor stakes on every item that the first is right more often, at odds that "
        f"are fair where it is not{of_these}; what all rivals of an arm make of 1 is the evidence against it. At "
        f"{bound:,.0f}, that is 2 (arms \N{MINUS SIGN} 1) / {ALPHA:g}, the arm is out. Named is the arm that reaches "
        "it against every other, together with the evidence that the other is not better by the margin. Any of this "
        "is wrong in 5 choices of 100 at the most, whenever one looks and stops (Ville, 1939)."
    )
