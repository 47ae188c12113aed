"""Many workers on Ray: actors that each keep a model loaded, on this machine or on the cluster of RAY_ADDRESS.

Invariant: a shard is done once the actor that scored it has stored it. An actor that dies takes with it no more than
the shards it had in hand; others score these, and a new actor takes its place until it has died too often in a row.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.tasks import Task

from flows.pulse import SECONDS_BETWEEN_LOOKS, Hung, Pulse, Usual
from flows.ray_cluster import Room, open_cluster
from flows.shard_queue import ShardQueue
from pipeline.errors import Interrupted, LabelscoreError, RunError
from pipeline.sharding import ScoringSpec, Shard, ShardResult, read_texts

DEATHS_IN_A_ROW = 4  # an actor is started again three times
DEATHS_OF_A_SHARD = 4  # then the shard is what kills
SHARDS_IN_HAND = 2  # one is scored, the next encoded meanwhile
CALLS_AT_ONCE = 2 * SHARDS_IN_HAND + 1  # each shard with a look at it, and a request to stop
SECONDS_TO_FINISH = 3.5  # a batch, once a stop was asked for; leaving Ray has to fit into a run's deadline, too

log = logging.getLogger("labelscore")
quiet_log = logging.getLogger("labelscore.shards")  # for lines that a progress bar stands for on a terminal


@contextmanager
def open_ray(spec: ScoringSpec, num_workers: int, should_stop: Callable[[], bool]) -> Iterator["RayWorkers"]:
    """A pool of actors, of which one at least has its model loaded; after the block they are gone.

    Raises what `open_cluster` and loading a model raise.
    """
    from flows.scoring_actor import ScoringActor  # with torch, which a run that has nothing to score never loads

    with open_cluster(num_workers, spec.model.device, spec.num_ranks) as (ray, room):
        # Restarts are ours: only a new actor that has loaded its model gets shards.
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": CALLS_AT_ONCE, **room.resources}
        make_actor = partial(ray.remote(**options)(ScoringActor).remote, ray.put(spec), room.num_threads)
        with closing(RayWorkers(ray, room, make_actor, should_stop)) as workers:
            workers.wait_for_one()
            yield workers


@dataclass(eq=False)
class Worker:
    """A place in the pool, and the actor that has it now."""

    number: int
    actor: Any = None
    ready: bool = False  # the actor has its model loaded
    num_in_hand: int = 0
    num_deaths: int = 0  # since a shard was last finished here
    retired: bool = False


class RayWorkers:
    """The pool. Each shard is a Prefect task in a thread of this process that waits for its actor."""

    def __init__(self, ray: Any, room: Room, make_actor: Callable[[], Any], should_stop: Callable[[], bool]) -> None:
        self._ray = ray
        self._has_room = room.is_own
        self._usual = Usual()
        self._make_actor = make_actor
        self._stop_requested = should_stop
        self._ending = False  # no more shards are begun, and those in hand end with their batches
        self._error: LabelscoreError | None = None
        self._changed = threading.Condition()
        self._workers = [Worker(number) for number in range(1, room.num_workers + 1)]
        for worker in self._workers:
            self._start_actor(worker)

    def wait_for_one(self) -> None:
        """Wait for the first loaded model. Raises Interrupted on a request to stop, and what loading raises."""
        self._wait_for(lambda: next((worker for worker in self._workers if worker.ready), None))

    def score(
        self, shards: list[Shard], score_shard: Task[..., ShardResult], advance: Callable[[int], None]
    ) -> Iterator[ShardResult]:
        """Hand out the shards, dearest first, as many at a time as the actors can have in hand."""
        waiting, running = ShardQueue(shards, len(self._workers)), set[PrefectFuture[ShardResult]]()
        try:
            while waiting or running:
                while waiting and len(running) < SHARDS_IN_HAND * len(self._workers):
                    running.add(score_shard.submit(self, waiting.pop(), advance))
                done = next(as_completed(list(running)))
                running.remove(done)
                yield done.result()
        except Exception:
            self._ending = True
            wait(list(running), timeout=SECONDS_TO_FINISH)
            raise

    def score_one(self, shard: Shard, advance: Callable[[int], None]) -> ShardResult:
        """Score a shard on a free actor, and on another one if that dies.

        Raises what scoring raises, and RunError once the shard has seen too many actors die, or none is left.
        """
        texts = read_texts(shard)  # of a slice Ray sends the slice, not all that it was cut from
        for _ in range(DEATHS_OF_A_SHARD):
            worker, actor = self._take()
            try:
                result = self._follow(actor, shard, texts, advance)
            except (self._ray.exceptions.RayError, Hung) as error:
                if isinstance(cause := getattr(error, "cause", None), LabelscoreError):
                    raise cause from None
                self._raise_if_stopping()
                reason = _reason(error)
                self._bury(worker, actor, error)
            else:
                worker.num_deaths = 0
                return result
            finally:
                self._give_back(worker)
        raise RunError(
            f"{DEATHS_OF_A_SHARD} workers died or hung while they scored {shard.name} (the last: {reason}); "
            "what is finished is kept; try a smaller --shard-size or --batch-tokens"
        )

    def close(self) -> None:
        """End all actors, and wait for the threads that wait for them."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for worker in self._workers:
            self._kill(worker.actor)
        with self._changed:
            self._changed.wait_for(lambda: not any(worker.num_in_hand for worker in self._workers), SECONDS_TO_FINISH)

    def _take(self) -> tuple[Worker, Any]:
        def take() -> tuple[Worker, Any] | None:
            free = [worker for worker in self._workers if worker.ready and worker.num_in_hand < SHARDS_IN_HAND]
            if not free:
                return None
            worker = min(free, key=lambda worker: worker.num_in_hand)
            worker.num_in_hand += 1
            return worker, worker.actor

        taken: tuple[Worker, Any] = self._wait_for(take)
        return taken

    def _wait_for(self, find: Callable[[], Any]) -> Any:
        """The first result of `find` that is not None; it is called under the lock.

        Raises Interrupted once a stop was requested, and what went wrong for the whole pool.
        """
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                self._raise_if_stopping()
                if (found := find()) is not None:
                    return found
                self._changed.wait(SECONDS_BETWEEN_LOOKS)

    def _give_back(self, worker: Worker) -> None:
        with self._changed:
            worker.num_in_hand -= 1
            self._changed.notify_all()

    def _follow(self, actor: Any, shard: Shard, texts: pa.Table, advance: Callable[[int], None]) -> ShardResult:
        """Have the actor score the shard, and show how far it is. Raises Hung where it does not get on."""
        call, num_shown = actor.score.remote(shard, texts), 0
        pulse, stopped_at = Pulse(self._ray, actor, self._usual), None
        try:
            while not self._ray.wait([call], timeout=0.2 if stopped_at else SECONDS_BETWEEN_LOOKS)[0]:
                if (num_scored := pulse.look(shard.name)) is not None:
                    advance(num_scored - num_shown)
                    num_shown = num_scored
                if self._is_stopping():
                    if stopped_at is None:
                        actor.stop.remote()
                        stopped_at = time.monotonic()
                    elif time.monotonic() - stopped_at > SECONDS_TO_FINISH:
                        self._raise_if_stopping()
            result: ShardResult = self._ray.get(call)
        except BaseException:
            advance(-num_shown)  # another actor begins from the start
            raise
        advance(result.num_texts - num_shown)
        return result

    def _is_stopping(self) -> bool:
        return self._ending or self._stop_requested()

    def _raise_if_stopping(self) -> None:
        if self._is_stopping():
            raise Interrupted(
                "stopped on request while scoring; what is finished is kept, run the same command to go on"
            )

    def _start_actor(self, worker: Worker) -> None:
        context = contextvars.copy_context()  # with the run's, which Prefect's log handler asks for
        threading.Thread(target=context.run, args=(self._bring_up, worker), daemon=True).start()

    def _bring_up(self, worker: Worker) -> None:
        """Start an actor and wait until it has loaded its model, however long the cluster takes to have room for it."""
        actor = None
        try:
            actor = worker.actor = self._make_actor()
            loading = actor.load.remote()
            pulse = Pulse(self._ray, actor, self._usual, is_loading=True, has_room=self._has_room)
            while not self._ray.wait([loading], timeout=SECONDS_BETWEEN_LOOKS)[0] and not self._ending:
                pulse.look()
            if self._ending:
                return
            seconds = self._ray.get(loading)
        except Exception as error:
            if isinstance(cause := getattr(error, "cause", None), LabelscoreError):
                with self._changed:
                    self._error = cause
                    self._changed.notify_all()
            elif not self._ending:
                self._bury(worker, actor, error)
            return
        quiet_log.info("worker %d has loaded the model (%.1f s)", worker.number, seconds)
        with self._changed:
            worker.ready = True
            self._changed.notify_all()

    def _bury(self, worker: Worker, actor: Any, error: Exception) -> None:
        """Start another actor in place of one that died or hangs, unless this place has seen too many in a row."""
        reason, is_hung = _reason(error), isinstance(error, Hung)
        with self._changed:
            if worker.actor is not actor:  # the other shard that it had in hand has told it already
                return
            worker.actor, worker.ready = None, False
            worker.num_deaths += 1
            worker.retired = worker.num_deaths >= DEATHS_IN_A_ROW
            if all(worker.retired for worker in self._workers):
                self._error = RunError(
                    f"all workers died or hung {DEATHS_IN_A_ROW} times in a row (the last: {reason}); what is "
                    "finished is kept; see to the memory of the machines and run the same command to go on"
                )
            self._changed.notify_all()
        what = "hangs" if is_hung else "died"
        log.warning("worker %d %s (%s)%s", worker.number, what, reason, "" if worker.retired else "; starting another")
        self._kill(actor)  # Ray ends its process for good, after some seconds also where it was stopped
        if not worker.retired:
            self._start_actor(worker)

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it may be dead already, and Ray gone
            if actor is not None:
                self._ray.kill(actor)


def _reason(error: Exception) -> str:
    """The first line of what Ray says, or of the exception in the actor."""
    cause = getattr(error, "cause", None)
    lines = str(cause if isinstance(cause, Exception) else error).splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0]}" if isinstance(cause, Exception) else lines[0]
