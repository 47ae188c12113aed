"""What the manifest records of a run, gathered from its steps.

Invariant: nothing here decides or computes anything that another module does not say.
"""

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.job import Job, Planned, Pulled, Scored
from pipeline.pull import PullSummary
from pipeline.reading.dataset import Dataset
from pipeline.reading.gold import Classes
from pipeline.reading.model import count_parameters
from pipeline.storing.fingerprint import StoredPrompt
from pipeline.storing.manifest import (
    ChatRecord,
    CountsRecord,
    DatasetRecord,
    LabelRecord,
    Manifest,
    ModelRecord,
    PromptRecord,
    ScoringRecord,
    Settings,
    ShotsRecord,
    digest_of_shots,
)
from pipeline.target import Target

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "polars", "numpy", "prefect")


def record_run(job: Job, pulled: Pulled, planned: Planned, scored: Scored) -> Manifest:
    """The manifest of a run whose scores are complete; its folder, files and timings come with publication."""
    config, target, summary, model = job.config, pulled.target, pulled.summary, pulled.target.model
    seconds = job.timings.get("score", 0.0)
    return Manifest(
        labelscore=importlib.metadata.version("labelscore"),
        run_id=job.run_id,
        started=job.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        headline_rule=config.rule,
        config=Settings.model_validate({**config.model_dump(mode="json"), "seed": config.draw_seed}),
        dataset=record_dataset(target, summary, config.subset),
        shots=ShotsRecord(num_left_out=target.shots.num_left_out) if config.num_shots else None,
        model=ModelRecord(
            name=model.name,
            revision=model.revision,
            weights=model.weights,
            adapter=model.adapter.digest if model.adapter else None,
            dtype=model.dtype,
            device=model.device,
            num_parameters=count_parameters(model),
            demonstration=target.is_demonstration,
        ),
        chat=_record_chat(target),
        prompts=_record_prompts(target, config.published),
        counts=CountsRecord(
            items=summary.num_items,
            texts=planned.num_missing + planned.num_stored,
            scored=scored.num_texts,
            reused=planned.num_stored,
        ),
        scoring=ScoringRecord(
            path=scored.path,
            path_reason=scored.path_reason,
            kernels=scored.kernels,
            forwarded_tokens=scored.counts.forwarded_tokens,
            trie_tokens=scored.counts.trie_tokens,
            padding_tokens=scored.counts.padding_tokens,
            seconds=seconds,
            items_per_second=scored.num_texts / seconds if seconds else None,
        ),
        remarks=(
            *(() if isinstance(target.dataset, Dataset) else target.dataset.remarks),
            *filter(None, [scored.remark]),
        ),
        libraries={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in (*LIBRARIES, *(["lm_eval"] if config.task else []))},
        },
    )


def record_dataset(target: Target, summary: PullSummary, subset: str | None) -> DatasetRecord:
    """The data set, and what was read of it."""
    return DatasetRecord(
        name=target.dataset.name,
        location=target.dataset.location,
        subset=subset,
        split=target.dataset.split,
        revision=target.dataset.revision,
        num_rows=summary.num_rows_read,
        num_items=summary.num_items,
        num_rejected=summary.num_rejected,
        max_choices=summary.max_choices,
        label_names=target.golds.names if isinstance(target.golds, Classes) else (),
    )


def _record_chat(target: Target) -> ChatRecord | None:
    """What is recorded of the chat template, if it is used: of a data set's prompts, or of tasks' own messages."""
    if target.chat_date is None and not any(stored.prompt.chat for stored in target.prompts):
        return None
    trims = {stored.prompt.name: stored.prompt.chat.trim for stored in target.prompts if stored.prompt.chat}
    return ChatRecord(date=target.chat_date, trims={name: trim for name, trim in trims.items() if trim})


def _record_prompts(target: Target, published: Mapping[str, float]) -> tuple[PromptRecord, ...]:
    """A record for each prompt; in a run of tasks for each task, which all have the one prompt."""
    records = tuple(record_prompt(stored, published.get(stored.prompt.name)) for stored in target.prompts)
    if isinstance(target.dataset, Dataset):
        return records
    tasks = target.dataset.records()
    return tuple(records[0].model_copy(update={"name": name, "task": task}) for name, task in tasks.items())


def record_prompt(stored: StoredPrompt, published_accuracy: float | None = None) -> PromptRecord:
    """A prompt as a manifest has it."""
    prompt = stored.prompt
    return PromptRecord(
        name=prompt.name,
        template=prompt.template,
        boundary=prompt.boundary,
        labels=tuple(LabelRecord(id=label.id, name=label.name, words=label.words) for label in prompt.labels),
        fingerprint=stored.fingerprint.digest,
        shots=digest_of_shots(prompt.solved),
        columns=prompt.slot_columns,
        choices=prompt.choice_columns if prompt.has_choices else None,
        choice=prompt.choice if prompt.has_choices else None,
        published_accuracy=published_accuracy,
    )
