"""Which arms are right about which items, from scores in the store, by the tables and the code that a run's report has.

Invariant: an item's answers under one prompt do not depend on what else is judged with it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.reporting.agreement import Arm
from pipeline.reporting.predictions import predict
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.storing.files import Output
from pipeline.storing.manifest import PromptRecord
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store


def judge(store: Store, prompts: Sequence[PromptRecord], rules: Sequence[str], items: Path) -> Mapping[Arm, np.ndarray]:
    """For each arm (items,) bool, in the order of an items file with gold labels; `prompts` are those of the store.

    Raises RunError where an item has no scores.
    """
    items.with_suffix("").mkdir(exist_ok=True)
    folder = Output(items.with_suffix(""), create=False)  # a scratch folder, not where outputs lie
    write_tables(folder, store, items, CONTENT_FREE_TEXTS, notebook=False)
    answers = predict(folder, prompts, rules).sort("item_id").partition_by(["prompt", "rule"], as_dict=True)
    return {Arm(prompt, rule): rows["correct"].to_numpy() for (prompt, rule), rows in answers.items()}
