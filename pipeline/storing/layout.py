"""Where everything lies in an output: names of files and folders, and the columns of the tables.

OUT/manifest.json names the folder of the last finished run, OUT/runs/ID/, which holds all its files under the names
below; links in OUT/ lead to them. OUT/store/ is what they are made from.

Invariant: names are relative, with forward slashes; a schema says its version and what its columns mean in the file's
own metadata.
"""

import re
from collections.abc import Iterable

from pipeline.storing import dictionary
from pipeline.storing.dictionary import make_schema

# Of the manifest. From 2 on parts tell more in their names and a score table may have several files: a labelscore that
# reads up to 1 would put such parts aside, and read the first file alone. It refuses both.
SCHEMA_VERSION = 2

# A run's files, in its folder.
SCORES, ITEMS, REJECTED = "scores/scores.parquet", "items.parquet", "rejected.parquet"
PRIORS, HISTORY, MANIFEST = "priors.parquet", "history.parquet", "manifest.json"
PREDICTIONS, METRICS = "report/predictions.parquet", "report/metrics.parquet"
MARKDOWN, PAGE, SUMMARY = "report/report.md", "report/report.html", "report/summary.md"
TASKS = "tasks.parquet"  # what lm-evaluation-harness makes of the scores of its tasks
TABLES = (SCORES, ITEMS, REJECTED, PRIORS, TASKS)  # what is made from the store
REPORT_FILES = (PREDICTIONS, METRICS, MARKDOWN, PAGE, SUMMARY)  # what is made from these
RUN_FILES = (*TABLES, HISTORY, *REPORT_FILES)
SCORES_FOLDER = "scores"
_MORE_SCORES = re.compile(r"scores/scores_\d{5}\.parquet")  # of a large table, from the second file on
RUNS = "runs"  # the folder of run folders
RUN_FOLDER = re.compile(r"runs/\d{8}T\d{6}-[0-9a-f]{8}(?=/|$)")  # one of them: when it was begun, and its own digits
CURRENT = "current"  # a link to the folder of the last finished run; those of its files in OUT/ lead through it
COPIED = (HISTORY, MARKDOWN, PAGE, SUMMARY)  # what stands in OUT/ on an object store, where there are no links

ITEM_CHOICES = "item_choices"  # the column of items.parquet that has an item's own choices, in order
TASK = "task"  # the column of items.parquet that has an item's task, in a run of tasks
DOCUMENTS = 10**9  # there an item's id is so many times a hash of its task, and the document's number in it
NORMS = ("norm_chars", "norm_bytes")  # columns of the score table: what `norm_sizes` says of the label words

# The last choice, beside the last run.
CHOICE = "choice"
CHOICE_MANIFEST, CHOICE_MARKDOWN, CHOICE_PAGE, CHOICE_RUN = CHOICE_FILES = (
    "choice/choice.json",
    "choice/choice.md",
    "choice/choice.html",
    "choice/run.toml",  # the configuration of a run that scores everything with what was chosen
)
CHOICE_PLAN = "choice/plan.json"  # what is offered to a choice that is not finished

# The store.
STORE, SET_ASIDE = "store", "store/set-aside"
FOLDER = re.compile(r"[0-9a-f]{16}")  # what was scored under one fingerprint
# The hash of its bytes; generation and number of texts, which a listing tells so: parts of before lack them.
PART = re.compile(r"store/[0-9a-f]{16}/([0-9a-f]{64})(?:-(\d+)-(\d+))?\.parquet")
PLAN = "plan.json"  # what a run set out to score


# The columns of the tables, in order, and what each row group is sorted by.

ITEMS_SCHEMA = make_schema(dictionary.ITEMS, "item_id")
REJECTED_SCHEMA = make_schema(dictionary.REJECTED)
SCORES_SCHEMA = make_schema(dictionary.SCORES, "item_id, prompt, label_id")
PRIORS_SCHEMA = make_schema(dictionary.PRIORS)
TASKS_SCHEMA = make_schema(dictionary.TASKS)
PREDICTIONS_SCHEMA = make_schema(dictionary.PREDICTIONS, "rule, item_id, prompt")
METRICS_SCHEMA = make_schema(dictionary.METRICS)
HISTORY_SCHEMA = make_schema(dictionary.HISTORY)


def nth_scores(number: int) -> str:
    """The name of a file of the score table, counted from 1; the names sort as they count."""
    return SCORES if number == 1 else f"scores/scores_{number:05d}.parquet"


def score_files(names: Iterable[str]) -> list[str]:
    """Those of the names that are files of the score table, in its order."""
    return sorted(name for name in names if name == SCORES or _MORE_SCORES.fullmatch(name))


def is_table(name: str) -> bool:
    """Whether a run has a table of this name that is made from the store."""
    return name in TABLES or bool(_MORE_SCORES.fullmatch(name))


def is_run_file(name: str) -> bool:
    """Whether a run has a file of this name in its folder, its manifest among them."""
    return is_table(name) or name in RUN_FILES or name == MANIFEST


def norm_sizes(words: str) -> tuple[int, int]:
    """The characters and UTF-8 bytes of label words without one leading blank: `norm_chars` and `norm_bytes`.

    That blank is the delimiter between prompt and choice, which lm-evaluation-harness does not count.
    """
    choice = words.removeprefix(" ")
    return len(choice), len(choice.encode())
