"""Many workers on Ray: actors that each keep a model loaded, on this machine or on the cluster of RAY_ADDRESS.

Invariant: a shard is done once the actor that scored it has stored it. An actor that dies takes with it no more than
the shards it had in hand; others score these, and a new actor takes its place until it has died too often in a row.
"""

import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.tasks import Task

from flows.scoring_actor import ScoringActor
from flows.stopping import restored_signals
from pipeline.errors import InputError, Interrupted, LabelscoreError, RunError
from pipeline.shard import ScoringSpec, Shard, ShardResult, read_texts

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would make an environment for its actors
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray 3 will do; Ray 2 warns about it
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a late call shall fail, not start Ray anew
}
DEATHS_IN_A_ROW = 4  # an actor is started again three times
DEATHS_OF_A_SHARD = 4  # then the shard is what kills
SHARDS_IN_HAND = 2  # one is scored, the next encoded meanwhile
SECONDS_BETWEEN_LOOKS = 1.0

log = logging.getLogger("labelscore")
quiet_log = logging.getLogger("labelscore.shards")  # for lines that a progress bar stands for on a terminal


@contextmanager
def open_ray(spec: ScoringSpec, num_workers: int, should_stop: Callable[[], bool]) -> Iterator["RayWorkers"]:
    """A pool of actors, of which one at least has its model loaded; after the block they are gone.

    Raises InputError without the extra 'ray' or with fewer GPUs than workers, RunError where Ray does not start.
    """
    ray = import_ray()
    try:
        num_workers, num_threads, resources = start_ray(ray, num_workers, spec.model.device)
        # Restarts are ours: only a new actor that has loaded its model gets shards.
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": SHARDS_IN_HAND + 2, **resources}
        make_actor = partial(ray.remote(**options)(ScoringActor).remote, ray.put(spec), num_threads)
        with closing(RayWorkers(ray, num_workers, make_actor, should_stop)) as workers:
            workers.wait_for_one()
            yield workers
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The module `ray`, told to keep to itself. Raises InputError where it is not installed."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError(
            "several workers need Ray: pip install 'labelscore[ray]' (or leave out --workers and RAY_ADDRESS)"
        ) from None
    with suppress(ImportError, AttributeError):
        import ray._private.worker

        # What became of an actor is told in a line of ours; Ray prints a page of it to standard output.
        ray._private.worker._worker_logs_enabled = False
    return ray


def start_ray(ray: Any, wanted: int, device: str) -> tuple[int, int, dict[str, int]]:
    """Start Ray here or join the cluster of RAY_ADDRESS: (workers, threads of each, what Ray reserves for each).

    One wanted worker means all that the cluster has room for. Raises as `open_ray` does.
    """
    import torch

    address = os.environ.get("RAY_ADDRESS")
    own_threads = torch.get_num_threads()
    num_threads = max(1, own_threads // wanted)
    # A cluster knows its processors better than we do. Without "local" Ray would join one that happens to run here.
    here = {"address": "local", "num_cpus": wanted * num_threads, "include_dashboard": False}
    place: dict[str, Any] = {} if address else here
    with restored_signals():  # Ray's would end the process at once on SIGTERM, where the run stops in good order
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **place)
        except Exception as error:
            what = f"no Ray cluster answers at RAY_ADDRESS={address}" if address else "Ray does not start"
            raise RunError(f"{what}: {error}; start one with 'ray start --head', or unset RAY_ADDRESS") from error
    total = ray.cluster_resources()
    if device == "cuda":
        room, what, resources = int(total.get("GPU", 0)), "GPUs", {"num_gpus": 1}
    else:
        if address:
            num_threads = max(1, min(own_threads, int(total.get("CPU", 0)) // wanted))
        room, what, resources = int(total.get("CPU", 0)) // num_threads, "CPU slots", {"num_cpus": num_threads}
    num_workers = room if address and wanted == 1 else wanted
    if not 1 <= num_workers <= room:
        raise InputError(f"{num_workers} workers need as many {what}, and Ray has {room}; choose --workers to fit")
    return num_workers, num_threads, resources


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

    def __init__(
        self, ray: Any, num_workers: int, make_actor: Callable[[], Any], should_stop: Callable[[], bool]
    ) -> None:
        self._ray = ray
        self._make_actor = make_actor
        self._stop_requested = should_stop
        self._ending = False  # no more shards are begun, and those in hand end with their batches
        self._error: LabelscoreError | None = None
        self._changed = threading.Condition()
        self._workers = [Worker(number) for number in range(1, num_workers + 1)]
        for worker in self._workers:
            self._start_actor(worker)

    def wait_for_one(self) -> None:
        """Wait for the first loaded model. Raises Interrupted on a request to stop, and what loading raises."""
        self._wait_for(lambda: next((worker for worker in self._workers if worker.ready), None))

    def score(
        self, shards: list[Shard], score_shard: Task[..., ShardResult], advance: Callable[[int], None]
    ) -> Iterator[ShardResult]:
        """Hand out the shards in order, as many at a time as the actors can have in hand."""
        waiting, running = deque(shards), set[PrefectFuture[ShardResult]]()
        try:
            while waiting or running:
                while waiting and len(running) < SHARDS_IN_HAND * len(self._workers):
                    running.add(score_shard.submit(self, waiting.popleft(), advance))
                done = next(as_completed(list(running)))
                running.remove(done)
                yield done.result()
        except Exception:
            self._ending = True
            wait(list(running))
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
            except self._ray.exceptions.RayError as error:
                if isinstance(cause := getattr(error, "cause", None), LabelscoreError):
                    raise cause from None
                self._raise_if_stopping()
                reason = _reason(error)
                self._bury(worker, actor, reason)
            else:
                worker.num_deaths = 0
                return result
            finally:
                self._give_back(worker)
        raise RunError(
            f"{DEATHS_OF_A_SHARD} workers died while they scored {shard.name} (the last: {reason}); "
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
            self._changed.wait_for(lambda: not any(worker.num_in_hand for worker in self._workers), timeout=10)

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
        """Have the actor score the shard, and show how far it is."""
        call, num_shown = actor.score.remote(shard, texts), 0
        try:
            while not self._ray.wait([call], timeout=SECONDS_BETWEEN_LOOKS)[0]:
                num_scored = self._ray.get(actor.num_scored.remote(shard.name))
                advance(num_scored - num_shown)
                num_shown = num_scored
                if self._is_stopping():
                    actor.stop.remote()
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
        """Start an actor and wait, however long the cluster takes, until it has loaded its model."""
        actor = None
        try:
            actor = worker.actor = self._make_actor()
            seconds = self._ray.get(actor.load.remote())
        except Exception as error:
            if isinstance(cause := getattr(error, "cause", None), LabelscoreError):
                with self._changed:
                    self._error = cause
                    self._changed.notify_all()
            elif not self._ending:
                self._bury(worker, actor, _reason(error))
            return
        quiet_log.info("worker %d has loaded the model (%.1f s)", worker.number, seconds)
        with self._changed:
            worker.ready = True
            self._changed.notify_all()

    def _bury(self, worker: Worker, actor: Any, reason: str) -> None:
        """Start another actor in place of a dead one, unless this place has seen too many die in a row."""
        with self._changed:
            if worker.actor is not actor:  # the other shard that it had in hand has told it already
                return
            worker.actor, worker.ready = None, False
            worker.num_deaths += 1
            worker.retired = worker.num_deaths >= DEATHS_IN_A_ROW
            if all(worker.retired for worker in self._workers):
                self._error = RunError(
                    f"all workers died {DEATHS_IN_A_ROW} times in a row (the last: {reason}); what is finished is "
                    "kept; see to the memory of the machines and run the same command to go on"
                )
            self._changed.notify_all()
        log.warning("worker %d died (%s)%s", worker.number, reason, "" if worker.retired else "; starting another")
        self._kill(actor)
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
