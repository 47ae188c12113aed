"""What a run would do: `labelscore run --plan`.

Invariant: the items and what is stored are read as the run reads them; nothing is scored, no weights are loaded (but to
find out a dtype, once: half.py), and the output is left as it was found, but for what killed processes left half
written.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.job import Job, Planned, Scored
from pipeline.record import record_run
from pipeline.remarks import remarks_on_data, remarks_on_plan
from pipeline.reporting.run_facts import run_differences
from pipeline.sharding import count_characters
from pipeline.storing.files import Output
from pipeline.storing.manifest import DatasetRecord, Manifest, ModelRecord

# Of what may differ between two runs, what makes a score another one.
STALE = ("model", "model revision", "dtype", "solved examples", "chat template", "texts cut at")
ENOUGH_TEXTS = 100  # for a rate: fewer are scored before a model has warmed up
STALE_OF_PROMPT = ("template of ", "boundary of ", "label words of ", "version of ", "solved examples of ")


@dataclass(frozen=True, slots=True)
class Stale:
    """Prompts of the last run that are to be scored anew: `what` differs, and its values then and now."""

    what: str
    last: str
    now: str


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A prompt, or a task, and how many texts are to be scored for it; those with one fingerprint share them."""

    name: str
    fingerprint: str
    num_missing: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to do; texts are counted once for each prompt.

    `stale`: why prompts of the last run are scored anew. `items_per_second` is that of the last run, where it scored
    something with the same model in the same way, and `seconds` what scoring takes at that rate, without start-up.
    """

    out: str
    dataset: DatasetRecord
    model: ModelRecord
    prompts: tuple[PlannedPrompt, ...]
    num_missing: int
    num_stored: int
    num_shards: int
    num_characters: int
    workers: int
    stale_prompts: tuple[str, ...]
    stale: tuple[Stale, ...]
    items_per_second: float | None
    seconds: float | None


def look_ahead(config: RunConfig, tell: Callable[[str], None]) -> Outlook:
    """Pull and plan as a run does. `tell` is called with each remark. Raises what these steps raise."""
    output = Output(config.output)
    with output.lock(tell, looks_only=True):
        job = Job(config, output, looks_only=True)
        pulled = job.pull()
        for remark in remarks_on_data(job, pulled):
            tell(remark)
        planned = job.plan(pulled)
        for remark in remarks_on_plan(planned):
            tell(remark)
        now, last = record_run(job, pulled, planned, Scored()), pulled.last.manifest
        anew = _scored_anew(last, now)
        rate = _rate(last, now) if last and planned.num_missing else None
        return Outlook(
            out=str(output),
            dataset=now.dataset,
            model=now.model,
            prompts=_prompts(planned, now),
            num_missing=planned.num_missing,
            num_stored=planned.num_stored,
            num_shards=len(planned.shards),
            num_characters=round(sum(count_characters(planned.shards))),
            workers=config.workers,
            stale_prompts=anew,
            stale=_reasons(last, now, anew) if last and anew else (),
            items_per_second=rate,
            seconds=planned.num_missing / rate if rate else None,
        )


def _prompts(planned: Planned, now: Manifest) -> tuple[PlannedPrompt, ...]:
    missing = Counter[str]()
    for shard in planned.shards:
        missing[shard.prompt] += shard.stop - shard.start
    if any(prompt.task for prompt in now.prompts):  # one prompt asks all of them
        stored = [(each.prompt.name, each.fingerprint.digest) for each in planned.store.prompts]
    else:
        stored = [(prompt.name, prompt.fingerprint) for prompt in now.prompts]
    return tuple(PlannedPrompt(name, digest, missing[name]) for name, digest in stored)


def _scored_anew(last: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """The prompts that the last run had, too, and whose scores of then are none of those that are wanted now."""
    before = {prompt.name: prompt.fingerprint for prompt in last.prompts} if last else {}
    return tuple(p.name for p in now.prompts if before.get(p.name, p.fingerprint) != p.fingerprint)


def _reasons(last: Manifest, now: Manifest, anew: tuple[str, ...]) -> tuple[Stale, ...]:
    own = {start + f"'{name}'" for start in STALE_OF_PROMPT for name in anew}
    found = tuple(Stale(*row) for row in run_differences(last, now) if row[0] in STALE or row[0] in own)
    return found or (Stale("texts of solved examples, tokenizer or adapter", "others", "these"),)


def _rate(last: Manifest, now: Manifest) -> float | None:
    """The last run's texts a second, if it scored enough to tell and nothing that is known to change it has changed."""
    settings = ("workers", "batch_tokens", "notebook_rule")
    is_alike = last.model.device == now.model.device and last.dataset.name == now.dataset.name
    # In a fingerprint are the model, its dtype, and the prompt with its solved examples and where texts are cut.
    is_alike &= {prompt.fingerprint for prompt in last.prompts} == {prompt.fingerprint for prompt in now.prompts}
    is_alike &= all(last.config.get(name) == now.config.get(name) for name in settings)
    is_alike &= last.config.get("tensor_parallel", 1) == now.config.get("tensor_parallel", 1)
    is_alike &= last.config.get("compile", "auto") == now.config.get("compile", "auto")
    is_alike &= (last.counts.scored or 0) >= ENOUGH_TEXTS
    return last.scoring.items_per_second if is_alike else None
