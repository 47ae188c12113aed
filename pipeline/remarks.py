"""What a person should know of a run before its scores are made: how much there is, and lines that are no errors.

Invariant: plain text, a line each; nothing here stops a run.
"""

from collections.abc import Iterator

from pipeline.job import Job, Planned, Pulled
from pipeline.prompts import seam_note
from pipeline.target import Target
from pipeline.wording import with_split


def words_on_data(pulled: Pulled) -> str:
    """How many items there are."""
    num_rejected = pulled.summary.num_rejected
    return f"pulled {pulled.summary.num_items:,} items" + (f", rejected {num_rejected:,}" if num_rejected else "")


def words_on_plan(job: Job, planned: Planned) -> str:
    """How much is to be scored."""
    what = "different items" if job.config.task else "texts x prompts"
    if not planned.shards:
        return f"nothing to score: all {planned.num_stored:,} ({what}) are stored already"
    return f"{planned.num_missing:,} to score ({what}), {planned.num_stored:,} stored already"


def remarks_on_data(job: Job, pulled: Pulled) -> Iterator[str]:
    """How the data set, its labels, the solved examples and the prompts were read, where that may surprise."""
    yield from filter(None, [_other_data(job, pulled)])
    yield from remarks_on_target(pulled.target, job.config.shots_split)
    yield from pulled.summary.remarks
    yield from map(str, pulled.last.findings)


def remarks_on_target(target: Target, shots_split: str) -> Iterator[str]:
    """The same of what is wanted alone, whatever the output holds."""
    yield from filter(None, (*target.dataset.remarks, target.golds.remark, target.shots.remark))
    yield from target.chat_remarks
    if target.model.dtype_note:
        yield f"{target.model.name}: {target.model.dtype_note}"
    if target.shots.num_left_out:
        yield (
            f"solved examples: {target.shots.num_left_out:,} rows of {shots_split} were left out because their text is "
            "scored"
        )
    for stored in target.prompts:
        has_seam = not (stored.prompt.chat or stored.prompt.is_requests)  # markup stands between, or all is written
        note = seam_note(stored.prompt) if has_seam else None
        if note:
            yield f"prompt '{stored.prompt.name}': {note}"
        if target.dataset.label and target.dataset.label.name in stored.prompt.slot_columns:
            yield f"prompt '{stored.prompt.name}': its template has the gold label's own column in it"


def _other_data(job: Job, pulled: Pulled) -> str | None:
    """That the output held another data set until now."""
    if pulled.last.manifest is None:
        return None
    old, new = pulled.last.manifest.dataset, pulled.target.dataset
    place = (old.location or old.name, old.split, old.subset)
    if place in ((new.location, new.split, job.config.subset), (new.name, new.split, None)):
        return None
    before, after = (old.location, new.location) if old.name == new.name else (old.name, new.name)
    held, holds = with_split(str(before), old.split), with_split(str(after), new.split)
    return f"{job.output} held {held} until now; from this run on its tables and report are of {holds}"


def remarks_on_plan(planned: Planned) -> Iterator[str]:
    """What was wrong in the store, and what is scored again though it was scored before."""
    yield from map(str, planned.store.findings)
    for prompt, num_texts in planned.redrawn:
        yield (
            f"prompt '{prompt}' has other solved examples than in the last run: {num_texts:,} texts are scored again"
        )
