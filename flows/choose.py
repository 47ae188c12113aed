"""The Prefect flow of `labelscore choose`: what is offered, block after block, the winner on fresh items, the result.

Invariant: as in flows/run.py Prefect keeps nothing that is needed later. Scores are in the output's store as they are
made, and which ones are made next follows from them.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.hooks import hooks_of, report_failed_choice
from flows.patience import be_patient, keep_result
from flows.run import RETRIES, score_shard, shard_log
from flows.shown import ShownProgress, show_markdown, show_page, show_table
from flows.stopping import stop_requests
from flows.terminal import ChoosingProgress, choosing_progress
from flows.workers import Workers, open_workers
from pipeline.choice import Block, Choosing
from pipeline.choice_config import ChoiceConfig
from pipeline.choice_record import publish_choice, record_choice
from pipeline.choosing.record import ChoiceRecord
from pipeline.choosing.rows import arms_rows
from pipeline.choosing.shown import choice_markdown
from pipeline.choosing.words import count_words
from pipeline.errors import Interrupted
from pipeline.job import Planned
from pipeline.offered import Offered, read_offered
from pipeline.reading.model import ModelRef
from pipeline.remarks import remarks_on_target
from pipeline.reporting.formats import short_percent
from pipeline.storing.files import Output
from pipeline.storing.layout import CHOICE_PAGE

log = logging.getLogger("labelscore")


@flow(
    name="labelscore-choose",
    flow_run_name="{config.title}",
    on_failure=hooks_of(report_failed_choice),
    on_crashed=hooks_of(report_failed_choice),
)
def choose_prompt(config: ChoiceConfig) -> ChoiceRecord:
    """Find a prompt and a rule within a margin of the best of those offered, and score only what that takes.

    What is scored stays in the output's store. Returns what the choice came to.
    """
    if log.level == logging.NOTSET:  # a run that Prefect started: there is no command line that asked for our lines
        log.setLevel(logging.INFO)
    be_patient()
    output = Output(config.output)
    with output.lock(log.warning):
        choosing = Choosing(config, output, offer(config, output))
        with (
            stop_requests() as should_stop,
            choosing_progress(config.budget) as show,
            Scoring(choosing, should_stop, show) as scoring,
        ):
            while block := choosing.next_block():
                scoring.score(block)
                look(choosing, block)
                scoring.show()
            if block := choosing.fresh_block():
                scoring.score(block)
                choosing.look_at_fresh(block)
        record = record_choice(choosing)
        publish(choosing, record)
    publish_artifacts(output, record)
    keep_result(record)
    return record


@task(name="offer", task_run_name="offer for {config.source}", **RETRIES)
def offer(config: ChoiceConfig, output: Output) -> Offered:
    """Resolve the data set, the models and the prompts, and draw the order of the items."""
    offered = read_offered(config, output)
    told = dict.fromkeys(
        remark
        for candidate in offered.candidates
        for remark in remarks_on_target(candidate.target, config.run.shots_split)
    )
    for remark in (*told, *offered.summary.remarks):
        log.warning("%s", remark)
    rejected = f", rejected {count_words(num, 'row')}" if (num := offered.summary.num_rejected) else ""
    log.info(
        "%s under %s: %s; %s%s",
        count_words(len(offered.candidates), "candidate"),
        count_words(len(offered.rules), "rule"),
        count_words(len(offered.arms), "arm"),
        count_words(len(offered.order.rows), "item"),
        rejected,
    )
    return offered


# Not tried again: what the race has seen it would see twice.
look = task(name="look", task_run_name="look at items {block.start} to {block.stop}", cache_policy=NO_CACHE)(
    Choosing.look
)
publish = task(name="publish", **RETRIES)(publish_choice)


class Scoring:
    """Scores blocks on workers that stay, with their model loaded, until another model is asked for."""

    def __init__(self, choosing: Choosing, should_stop: Callable[[], bool], show: ChoosingProgress) -> None:
        self._choosing, self._should_stop, self._show = choosing, should_stop, show
        self._running, self._workers = ExitStack(), cast(Workers, None)
        self._model: ModelRef | None = None  # that the workers have loaded
        self._told = set[str]()
        self._shown = ShownProgress(choosing.output, "choose-progress", "candidates out of the race")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def score(self, block: Block) -> None:
        """Score what of a block is not stored, and wait until it is. Raises Interrupted on a request to stop."""
        for planned in self._choosing.plan(block):
            if self._should_stop():
                raise Interrupted("stopped on request; what was scored is kept, run the same command to go on")
            self._tell(*map(str, planned.store.findings))
            if planned.shards:
                for result in self._open(planned).score(list(planned.shards), score_shard, self._show.advance):
                    self._tell(*result.lines)

    def _open(self, planned: Planned) -> Workers:
        if self._model != planned.spec.model:
            self._running.close()
            num_workers = self._choosing.config.run.workers
            opened = open_workers(planned.spec, planned.shards[0], num_workers, self._should_stop)
            self._workers, self._model = self._running.enter_context(opened), planned.spec.model
        return self._workers

    def _tell(self, *lines: str) -> None:
        """Each line once."""
        for line in lines:
            if line not in self._told:
                log.warning("%s", line)
                self._told.add(line)

    def show(self) -> None:
        """How far the race is, in the terminal, in the log and, now and then, in Prefect's UI."""
        state = describe_race(self._choosing)
        self._show.describe(state)
        shard_log.info("%s", state)
        is_in, is_last = self._choosing.race.is_in, self._choosing.race.named is not None
        self._shown.update(
            100.0 if is_last else 100.0 * (~is_in).sum() / max(1, len(is_in) - 1), state, is_last=is_last
        )


def describe_race(choosing: Choosing) -> str:
    """Such as `1,250 items: 3 of 20 candidates and 9 of 140 arms left, 14,020 forwards (9 % of all)`."""
    race, candidates = choosing.race, choosing.offered.candidates
    forwards = f"{choosing.num_forwards:,} forwards ({short_percent(choosing.num_forwards / choosing.num_all)} of all)"
    return (
        f"{count_words(race.num_items, 'item')}: {len(race.running)} of {len(candidates)} candidates and "
        f"{race.is_in.sum()} of {len(race.is_in)} arms left, {forwards}"
    )


def publish_artifacts(output: Output, record: ChoiceRecord) -> None:
    """Show the result in Prefect's UI: what was found, the table of arms, and where the page lies."""
    show_markdown(output, "choice", "choice", choice_markdown(record, str(output)))
    show_table(output, "arms", "prompts under rules", arms_rows(record))
    show_page(output, CHOICE_PAGE, "choice-page")
