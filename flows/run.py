"""The Prefect flow: resolve, pull, plan, score in shards, publish, report.

Invariant: Prefect orders, retries, names and shows the steps and keeps nothing that is needed later. What is done and
what is left is read from the output's files, so a run that was killed anywhere goes on where it was.
"""

import logging
import time
from typing import Any, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from flows.hooks import report_failure
from flows.stopping import stop_requests
from flows.terminal import scoring_progress
from flows.workers import Workers, open_workers
from pipeline.config import RunConfig
from pipeline.errors import LabelscoreError
from pipeline.job import Job
from pipeline.reporting.report import Report
from pipeline.shard import Shard, ShardResult
from pipeline.storing.files import Output
from pipeline.storing.layout import MANIFEST, MARKDOWN, PAGE

SECONDS_BETWEEN_UPDATES = 10  # of the progress artifact: each is a request that the scoring waits for

log = logging.getLogger("labelscore")
shard_log = logging.getLogger("labelscore.shards")  # one line a shard: the terminal has a progress bar instead


def is_worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step may succeed when tried again; a user's mistake or an understood failure will not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, Exception) and not isinstance(error, LabelscoreError)


RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
}


@flow(
    name="labelscore",
    flow_run_name="{config.dataset} with {config.model}",
    on_failure=[report_failure],
    on_crashed=[report_failure],
)
def score_dataset(config: RunConfig) -> tuple[Report, list[str]]:
    """Score every label of every article of a data set with a causal language model, and report accuracy.

    Articles that the output already holds under the same model, prompt and settings are not scored again. Returns the
    report and the names of the files written.
    """
    if log.level == logging.NOTSET:  # a run that Prefect started: there is no command line that asked for our lines
        log.setLevel(logging.INFO)
    output = Output(config.output)
    with output.lock(log.warning):
        job = Job(config, output)
        pull(job)
        plan(job)
        if job.shards:
            score_shards(job)
        publish(job)
        report = write_report(job)
    publish_artifacts(job, report)
    return report, sorted([*job.files, MANIFEST])


@task(name="pull", task_run_name="pull {job.config.dataset}", **RETRIES)
def pull(job: Job) -> None:
    """Resolve the data set and the model, and stream the articles into the output's work folder."""
    job.pull()
    for remark in job.remarks:
        log.warning("%s", remark)
    items, rejected = job.pulled.num_items, job.pulled.num_rejected
    log.info("pulled %s", f"{items:,} articles" + (f", rejected {rejected:,}" if rejected else ""))


@task(name="plan", **RETRIES)
def plan(job: Job) -> None:
    """Find what is not stored yet under the model, prompts and settings, and cut it into shards."""
    job.plan()
    for finding in job.findings:
        log.warning("%s", finding)
    for prompt, num_texts in job.redrawn:
        log.warning(
            "prompt '%s' has other solved examples than in the last run: %s texts are scored again",
            prompt,
            f"{num_texts:,}",
        )
    if job.shards:
        log.info("%s to score (articles x prompts), %s stored already", f"{job.num_missing:,}", f"{job.num_stored:,}")
    else:
        log.info("nothing to score: all %s (articles x prompts) are stored already", f"{job.num_stored:,}")


def score_shards(job: Job) -> None:
    """Score the planned shards on the configured number of workers; what is scored is stored as it goes.

    Raises Interrupted when a stop was requested; what was scored until then is kept.
    """
    artifact = _progress_artifact()
    with (
        stop_requests() as should_stop,
        open_workers(job, should_stop) as workers,
        scoring_progress(job.num_missing) as advance,
        job.timed("score"),
    ):
        job.start_scoring()
        shown, told = time.monotonic(), False
        for result in workers.score(job.shards, score_shard, advance):
            job.finish_shard(result)
            if result.path_reason and not told:
                log.warning("the slower path, a row for each label: %s", result.path_reason)
                told = True
            shard_log.info("%s", job.progress_line())
            if time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:
                update_progress_artifact(artifact, 100 * job.num_scored / job.num_missing)
                shown = time.monotonic()
    update_progress_artifact(artifact, 100.0)


@task(name="score", task_run_name="score {shard.name}", **RETRIES)
def score_shard(workers: Workers, shard: Shard, advance: Any) -> ShardResult:
    """Score one shard on a free worker."""
    return workers.score_one(shard, advance)


@task(name="publish", **RETRIES)
def publish(job: Job) -> None:
    """Replace the published tables by this run's."""
    job.publish()


@task(name="report", **RETRIES)
def write_report(job: Job) -> Report:
    """Compute predictions and figures from the published tables, and write the report."""
    return job.report()


def _progress_artifact() -> UUID:
    return cast(UUID, create_progress_artifact(progress=0.0, key="labelscore-progress", description="texts scored"))


def publish_artifacts(job: Job, report: Report) -> None:
    """Show the result in Prefect's UI: the report, the table of figures, and where the page lies."""
    markdown = job.output.read_bytes(MARKDOWN).decode()
    create_markdown_artifact(markdown=markdown, key="labelscore-report", description=str(job.output))
    columns = ["prompt", "rule", "accuracy", "low", "high", "num_correct", "num_gold"]
    create_table_artifact(table=report.summary.select(columns).to_dicts(), key="labelscore-accuracy")
    page = job.output.path(PAGE)
    link = f"{job.output}/{PAGE}" if job.output.remote else page.resolve().as_uri()
    create_link_artifact(link=link, link_text="report.html", key="labelscore-page")
