"""Ray itself: imported, started on this machine or joined where RAY_ADDRESS says, and left.

Invariant: of a Ray that was started here nothing is left after the block, whatever of it hangs; a cluster is left as it
was found.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from flows.deadline import ASKED
from flows.processes import descendants, kill
from flows.ray_address import ADVICE, check_address
from flows.stopping import restored_signals
from pipeline.errors import InputError, RunError
from pipeline.reading.devices import kind_of

GPUS = ("cuda", "xpu")  # what Ray counts as GPUs
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would make an environment for its actors
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray 3 will do; Ray 2 warns about it
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a late call shall fail, not start Ray anew
    "RAY_task_events_report_interval_ms": "0",  # for a dashboard, which is not started; they cost the workers' cores
}
# A raylet or a head that hangs lets Ray wait for minutes, a stopped actor for seconds. Where nothing hangs it is gone
# in one or two; while it still leaves it must not be started again, as for the next model of a choice.
SECONDS_TO_LEAVE, SECONDS_TO_LEAVE_ON_STOP = 20.0, 2.0


@dataclass(frozen=True, slots=True)
class Room:
    """What the pool gets: so many workers, threads of each, and what Ray reserves for each.

    `is_own`: Ray was started for this run, so that there is room for every actor at once.
    """

    num_workers: int
    num_threads: int
    resources: dict[str, int]
    is_own: bool


@contextmanager
def open_cluster(num_workers: int, device: str, num_ranks: int) -> Iterator[tuple[Any, Room]]:
    """The module `ray`, connected, and the room there is. One wanted worker means all that a cluster has room for.

    A worker has so many ranks, each with a GPU of its own, all on one machine; on CPUs they share the worker's threads.
    Raises InputError without the extra 'ray', for a device with a number, with fewer GPUs than ranks, or where no
    cluster answers, RunError where Ray does not start.
    """
    if device not in (kind := kind_of(device), "cpu"):
        raise InputError(f"device {device}: on Ray each worker has a device of its own; use --device {kind}")
    ray = import_ray()
    is_own = not names_cluster()
    check_cluster()
    others = descendants()
    try:
        yield ray, start_ray(ray, num_workers, device, num_ranks, os.environ.get("RAY_ADDRESS"))
    finally:
        helpers = descendants() - others
        leaving = threading.Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(SECONDS_TO_LEAVE_ON_STOP if ASKED.is_set() else SECONDS_TO_LEAVE)
        if is_own:
            kill(helpers | (descendants() - others))


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, which is not there to be started."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def check_cluster() -> None:
    """Raises InputError where RAY_ADDRESS names a cluster and none answers, or Ray is not installed."""
    if names_cluster():
        check_address(os.environ["RAY_ADDRESS"], import_ray)


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


def start_ray(ray: Any, wanted: int, device: str, num_ranks: int, address: str | None) -> Room:
    """Start Ray here or join the cluster at `address`. Raises as `open_cluster` does."""
    import torch

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
            raise RunError(f"{what}: {error}; {ADVICE}") from error
    total = ray.cluster_resources()
    if kind_of(device) in GPUS:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(int(machine.get("GPU", 0)) // num_ranks for machine in machines)
        what = f"times {num_ranks} GPUs on a machine" if num_ranks > 1 else "GPUs"
        resources = {"num_gpus": num_ranks}
    else:
        if address:
            num_threads = max(1, min(own_threads, int(total.get("CPU", 0)) // wanted))
        room, what, resources = int(total.get("CPU", 0)) // num_threads, "CPU slots", {"num_cpus": num_threads}
    num_workers = room if address and wanted == 1 else wanted
    if not 1 <= num_workers <= room:
        raise InputError(f"{num_workers} workers need as many {what}, and Ray has {room}; choose --workers to fit")
    return Room(num_workers, num_threads, resources, is_own=not names_cluster())
