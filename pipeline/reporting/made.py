"""How a report was made: where it ends, with the words that it used.

Invariant: one entry for each word that a heading of a table uses and a reader may not know.
"""

import polars as pl

from pipeline.reporting.document import Block, Definitions, Paragraph, Section, Subheading, Verbatim, make_table
from pipeline.reporting.formats import exact, text
from pipeline.reporting.report import Report
from pipeline.reporting.run_facts import describe_choices, setting_facts
from pipeline.reporting.tasks import harness_name
from pipeline.storing.layout import HISTORY, ITEMS, MANIFEST, PRIORS, REPORT_FILES, SCORES, TASKS
from pipeline.storing.manifest import PromptRecord

FILES = (SCORES, ITEMS, PRIORS, *REPORT_FILES, HISTORY, MANIFEST)

CLASS_TERMS = (
    ("Label score", "The log-likelihood of a label's words after the prompt (natural logarithm): where rules start."),
    ("Rule", "How the label scores of an item become one prediction; the rules used are listed under Rules."),
    ("q and p_cf", "q is the softmax over labels of logprob. p_cf is the mean of exp(logprob) after the content-free "
                   "texts \"\", \"N/A\" and \"[MASK]\", made to sum to one over the labels."),
    ("95 % interval", "Wilson's score interval. It is about the items as a sample, not about other data sets."),
    ("Confidence", "The softmax over the labels of the rule's scores, for the label that won."),
    ("Margin", "The winning score minus the second, in the units of the rule."),
    ("Balanced", "Balanced accuracy: the mean recall of the classes."),
    ("ECE", "Expected calibration error: the mean distance between confidence and accuracy over 15 bins; 0 is best."),
    ("Brier", "The mean squared distance between softmax and gold label, summed over labels; 0 to 2, 0 is best."),
    ("At 50 %", "The accuracy on the half of the items with the highest confidence; likewise 80 % and 90 %."),
    ("Label mass", "The probability that the model gives to all label words together, on average. Where it is small, "
                   "the model would rather have said something else."),
    ("SE", "The standard error of the difference, paired: the items that both sides get right cancel."),
    ("p, p (Holm)", "McNemar's exact p-value, as it is, and raised for the number of comparisons in its family by "
                    "Holm's method."),
)  # fmt: skip

OF_CLASSES = {"q and p_cf", "Balanced", "Label mass"}
CHOICE_TERMS = tuple((name, words) for name, words in CLASS_TERMS if name not in OF_CLASSES)

REPEAT_TERMS = (
    ("Effective number", "As how many independent items those count that share texts: (sum w)^2 / sum w^2 over texts "
                         "with w items each (Kish). Wilson's intervals are for so many."),
    ("Texts for A, for B", "The distinct texts with more items right under A, or under B. Where texts repeat, p is the "
                           "exact sign test of these two numbers."),
)  # fmt: skip


def how_made(report: Report) -> Section:
    """What made the scores, each prompt to the letter, the words used, and the files."""
    blocks: list[Block] = [Paragraph(line) for line in _making_lines(report)]
    if report.has_tasks:
        blocks.append(Paragraph(_tasks_line(report)))
    else:
        blocks += [block for prompt in report.manifest.prompts for block in _template(prompt)]
    terms = CHOICE_TERMS if report.has_choices else CLASS_TERMS
    terms += REPEAT_TERMS if report.repeats else ()
    names = [name for name in FILES if name != PRIORS] + [TASKS] if report.has_tasks else FILES
    files = f"In {report.out}: {', '.join(names)}."
    blocks += [Subheading("Words used here"), Definitions(terms), Subheading("Files"), Paragraph(files)]
    return Section("made", "How this was made", blocks)


def _making_lines(report: Report) -> list[str]:
    """What made the scores: versions, as far as the manifest names them, and what was read beside the templates."""
    versions = {"labelscore": report.manifest.labelscore, **report.manifest.libraries}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    settings = "; ".join(f"{name.lower()}: {value}" for name, value in setting_facts(report.manifest.config))
    lines = [f"Made with {named}."] if named else []
    if settings:
        below = "" if report.has_tasks else " The templates below stand without this."
        lines.append(f"{settings[:1].upper()}{settings[1:]}.{below}")
    return lines


def _tasks_line(report: Report) -> str:
    return (
        f"Documents, prompts, solved examples and choices are those that {harness_name(report.manifest)} makes of each "
        "task. The model's scores of its requests are ours, each continuation encoded after its context in its way "
        "(boundary: harness); its metrics are what it makes of these scores."
    )


def _template(prompt: PromptRecord) -> list[Block]:
    is_apart = prompt.boundary == "separate"
    how = "alone and appended to the prompt" if is_apart else "together with the prompt, as one string"
    blocks: list[Block] = [
        Subheading(f"Prompt {prompt.name}"),
        Verbatim(f"Template of {prompt.name}", prompt.template),
        Paragraph(f"Label words are encoded {how} (boundary: {prompt.boundary}).", note=True),
    ]
    if prompt.has_choices:
        return [*blocks, Paragraph(f"They are the choices of each item: {describe_choices(prompt)}.", note=True)]
    words = pl.DataFrame([(label.name, label.words) for label in prompt.labels], ["label", "words"], orient="row")
    fields = (("label", text, "label"), ("label words", exact, "words"))
    return [*blocks, make_table(f"Label words of {prompt.name}", words, fields)]
