"""The Prefect flow: pull, plan, score in shards, tabulate, report, publish.

Invariant: Prefect orders, retries, names and shows the steps and keeps nothing that is needed later. What is done and
what is left is read from the output's files, so a run that was killed anywhere goes on where it was.
"""

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from flows.hooks import hooks_of, report_failure
from flows.patience import be_patient, keep_result
from flows.run_logs import tell_errors_in_one_line
from flows.shown import ShownProgress, show_markdown, show_page, show_table
from flows.stopping import stop_requests
from flows.terminal import scoring_progress
from flows.workers import Workers, open_workers
from pipeline.config import RunConfig, check_given
from pipeline.errors import LabelscoreError
from pipeline.job import Job, Planned, Progress, Pulled, Scored
from pipeline.record import record_run
from pipeline.remarks import remarks_on_data, remarks_on_plan, words_on_data, words_on_plan
from pipeline.reporting.report import Report
from pipeline.sharding import Shard, ShardResult
from pipeline.storing.files import Output
from pipeline.storing.layout import MANIFEST, MARKDOWN, PAGE

log = logging.getLogger("labelscore")
shard_log = logging.getLogger("labelscore.shards")  # one line a shard: the terminal has a progress bar instead


def is_worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step may succeed when tried again; a user's mistake or an understood failure will not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, Exception) and not isinstance(error, LabelscoreError)


tell_errors_in_one_line()  # at import: Prefect checks a run's parameters, and logs what it finds, before it calls us
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
}


@flow(
    name="labelscore",
    flow_run_name="{config.title}",
    on_failure=hooks_of(report_failure),
    on_crashed=hooks_of(report_failure),
)
def score_dataset(config: RunConfig) -> tuple[Report, list[str]]:
    """Score every label of every item of a data set with a causal language model, and report accuracy.

    Items that the output already holds under the same model, prompt and settings are not scored again. Returns the
    report and the names of the files written.
    """
    if log.level == logging.NOTSET:  # a run that Prefect started: there is no command line that asked for our lines
        log.setLevel(logging.INFO)
    be_patient()
    check_given(config)
    output = Output(config.output)
    with output.lock(log.warning):
        job = Job(config, output)
        pulled = pull(job)
        planned = plan(job, pulled)
        scored = score_shards(job, planned) if planned.shards else Scored()
        folder = tabulate(job, pulled, planned)
        manifest = record_run(job, pulled, planned, scored)
        report = write_report(job, folder, manifest, pulled.last)
        manifest = publish(job, planned, folder, manifest)
        report = replace(report, manifest=manifest)
    publish_artifacts(output, folder, report)
    names = [name if output.exists(name) else f"{manifest.folder}/{name}" for name in (*manifest.files, MANIFEST)]
    keep_result(result := (report, sorted(names)))
    return result


@task(name="pull", task_run_name="pull {job.config.source}", **RETRIES)
def pull(job: Job) -> Pulled:
    """Resolve the data set and the model, and stream the items into the output's work folder."""
    pulled = job.pull()
    for remark in remarks_on_data(job, pulled):
        log.warning("%s", remark)
    log.info("%s", words_on_data(pulled))
    return pulled


@task(name="plan", **RETRIES)
def plan(job: Job, pulled: Pulled) -> Planned:
    """Find what is not stored yet under the model, prompts and settings, and cut it into shards."""
    planned = job.plan(pulled)
    for remark in remarks_on_plan(planned):
        log.warning("%s", remark)
    log.info("%s", words_on_plan(job, planned))
    return planned


def score_shards(job: Job, planned: Planned) -> Scored:
    """Score the planned shards on the configured number of workers; what is scored is stored as it goes.

    Raises Interrupted when a stop was requested; what was scored until then is kept.
    """
    shown = ShownProgress(job.output, "progress", "texts scored")
    with stop_requests() as should_stop, ExitStack() as running:
        with job.timed("load"):
            opened = open_workers(planned.spec, planned.shards[0], job.config.workers, should_stop)
            workers = running.enter_context(opened)
        with scoring_progress(planned.num_missing) as move_bar, job.timed("score"):
            progress = Progress(planned.num_missing)

            def advance(num_texts: int) -> None:
                move_bar(num_texts)
                if progress.advance(num_texts):
                    shard_log.info("%s", progress)

            for result in workers.score(list(planned.shards), score_shard, advance):
                for line in progress.add(result):
                    log.warning("%s", line)
                shard_log.info("%s", progress)
                shown.update(progress.percent)
    shown.update(100.0, is_last=True)
    return progress.scored


@task(name="score", task_run_name="score {shard.name}", **RETRIES)
def score_shard(workers: Workers, shard: Shard, advance: Any) -> ShardResult:
    """Score one shard on a free worker."""
    return workers.score_one(shard, advance)


tabulate = task(name="tabulate", **RETRIES)(Job.tabulate)
write_report = task(name="report", **RETRIES)(Job.report)
publish = task(name="publish", **RETRIES)(Job.publish)


def publish_artifacts(output: Output, folder: Output, report: Report) -> None:
    """Show the result in Prefect's UI: the report, the table of figures, and where the page lies."""
    show_markdown(output, "report", "report", folder.path(MARKDOWN).read_text(encoding="utf-8"))
    columns = ["prompt", "rule", "accuracy", "low", "high", "num_correct", "num_gold"]
    ranked = report.summary.sort("num_correct", descending=True, maintain_order=True)
    show_table(output, "accuracy", "accuracy", ranked.select(columns).to_dicts())
    show_page(output, PAGE, "page")
