"""How a report was made: where it ends, with the words that it used.

Invariant: one entry for each word that a heading of a table uses and a reader may not know.
"""

from collections.abc import Sequence

from pipeline.reporting.document import Block, Definitions, Folded, Paragraph, Section, Subheading, Verbatim
from pipeline.reporting.report import Report
from pipeline.reporting.run_facts import describe_choices, other_facts, setting_facts
from pipeline.reporting.tasks import harness_name
from pipeline.storing.layout import HISTORY, ITEMS, MANIFEST, PRIORS, REPORT_FILES, SCORES, TASKS
from pipeline.storing.manifest import PromptRecord

MAX_TEMPLATES = 8_000  # characters of all templates that report.md shows
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
    ("ECE", "Expected calibration error: the mean distance between confidence and accuracy over 15 bins. Beside it "
            "what it would be on so many items if each confidence were true: on average, and at most 95 times in 100."),
    ("Brier", "The mean squared distance between softmax and gold label, summed over labels; 0 to 2, 0 is best."),
    ("At 50 %", "The accuracy on the half of the items with the highest confidence; likewise 80 % and 90 %."),
    ("Label mass", "The probability that the model gives to all label words together, on average. Where it is small, "
                   "the model would rather have said something else."),
    ("Behind", "The leader's accuracy less this one's, on the same items."),
    ("p", "McNemar's score test of a difference, times the number of pairs that are compared, at most 1."),
    ("Shown 8 times in 10 from", "The smallest true difference that these items would establish with a power of 80 %."),
)  # fmt: skip

OF_CLASSES = {"q and p_cf", "Balanced", "Label mass"}
CHOICE_TERMS = tuple((name, words) for name, words in CLASS_TERMS if name not in OF_CLASSES)

REPEAT_TERMS = (
    ("Effective number", "As how many independent items those count that share texts: (sum w)^2 / sum w^2 over texts "
                         "with w items each (Kish). Wilson's intervals are for so many."),
    ("Design effect", "By how much the variance of a difference grows because all items of a text speak together."),
)  # fmt: skip


def how_made(report: Report) -> Section:
    """What made the scores, each prompt to the letter, the words used, and the files."""
    blocks: list[Block] = [Definitions(other_facts(report), facts=True)]
    blocks += [Paragraph(line) for line in _making_lines(report)]
    if report.has_tasks:
        blocks.append(Paragraph(_tasks_line(report)))
    else:
        blocks += _templates(report.manifest.prompts)
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


def _templates(prompts: Sequence[PromptRecord]) -> list[Block]:
    """Every prompt to the letter; folded where they are long together, and then on the page alone."""
    blocks = [block for prompt in prompts for block in _template(prompt)]
    num_chars = sum(len(prompt.template) for prompt in prompts)
    if num_chars <= MAX_TEMPLATES:
        return blocks
    note = f"{len(prompts):,} with {num_chars:,} characters; {MANIFEST} has them, too"
    return [Folded("Templates of the prompts", note, blocks, page_only=True)]


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
    return blocks
