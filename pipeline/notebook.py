"""A run in a notebook, or in any Python process: `from pipeline.notebook import run`.

Invariant: the steps of a run, under the same lock and into the same files as `labelscore run`, in this process and
beside whatever event loop it has: no server, and nothing but a few lines and a bar on standard error.
"""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.analysis import Run, load_run
from pipeline.bar import progress_bar
from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError, Interrupted
from pipeline.job import Job, Planned, Progress, Scored
from pipeline.ranks import open_scorer
from pipeline.record import record_run
from pipeline.remarks import remarks_on_data, remarks_on_plan, words_on_data, words_on_plan
from pipeline.sharding import Shard, ShardResult, score_all
from pipeline.stopping import stop_on
from pipeline.storing.files import Output

__all__ = ["Run", "load_run", "run"]


def run(config: str | Path | None = None, /, *, preset: str | None = None, **keys: Any) -> Run:
    """Score a data set, write the report, and return the finished run with its tables.

    `config` is a configuration file; `keys` are as they stand in one, and win: run(model="smollm2", limit=500). Items
    that the output holds already are not scored again. Interrupted, it keeps what was scored, and raises
    KeyboardInterrupt. Raises InputError for what is wrong with the configuration, the data or the model, RunError for
    what fails on the way.
    """
    settings = configure(config, preset, keys)
    output = Output(settings.output)
    with output.lock(say):
        job = Job(settings, output)
        pulled = job.pull()
        tell(*remarks_on_data(job, pulled), words_on_data(pulled))
        planned = job.plan(pulled)
        tell(*remarks_on_plan(planned), words_on_plan(job, planned))
        scored = score_shards(job, planned) if planned.shards else Scored()
        folder = job.tabulate(pulled, planned)
        manifest = record_run(job, pulled, planned, scored)
        job.report(folder, manifest, pulled.last)
        job.publish(planned, folder, manifest)
        return load_run(settings.output)


def configure(config: str | Path | None, preset: str | None, keys: Mapping[str, Any]) -> RunConfig:
    """The configuration of a call. Raises what `load_config` raises, and InputError for more than one worker."""
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in keys.items()}
    settings = load_config(str(config) if config else None, preset, given, place="the call").used
    if settings.workers > 1:
        raise InputError(
            f"workers = {settings.workers}: here the items are scored in this process; leave it out, or start "
            "`labelscore run` for several"
        )
    return settings


def score_shards(job: Job, planned: Planned) -> Scored:
    """Score the planned shards in this process. Raises KeyboardInterrupt where that was asked for: after a batch."""
    try:
        with stop_on([signal.SIGINT]) as should_stop:
            with job.timed("load"):
                scorer = open_scorer(planned.spec, planned.shards[0])
            with closing(scorer), progress_bar(planned.num_missing) as bar, job.timed("score"):
                progress = Progress(planned.num_missing)

                def score_one(shard: Shard) -> ShardResult:
                    return scorer.score(shard, bar.update, should_stop)

                for result in score_all(scorer, planned.shards, score_one):
                    tell(*progress.add(result))
        return progress.scored
    except Interrupted:
        raise KeyboardInterrupt("stopped; what was scored is kept, run the cell again to go on") from None


def tell(*lines: str) -> None:
    """Lines that a person should read."""
    for line in lines:
        say(line)


def say(line: str) -> None:
    """A line on standard error, without control characters: it may quote the data."""
    print("".join(c if c.isprintable() else " " for c in line), file=sys.stderr)
