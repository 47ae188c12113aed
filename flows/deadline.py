"""A stop that was asked for has a deadline: what has not ended by then, this process and its children, is ended hard.

Invariant: nothing that hangs delays it. A signal writes to a pipe in the moment it comes, whatever the main thread is
doing (Python's own handlers wait until it gets back to Python), and a thread that does nothing else reads there.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from flows.processes import Process, descendants, kill
from flows.stopping import SIGNALS

SECONDS_TO_STOP = 7.0  # after the first request
SECONDS_AFTER_SECOND = 2.0  # a second one ends a run that can still be ended in good order
EXIT_CODE = 1  # as of a run that stopped in good order
# What a thread waits for by the module it waits in, the innermost that is listed; None: what called it says more.
WAITS = {
    "fsspec.asyn": "the object store",
    "s3fs": "the object store",
    "flows.ray_workers": "the workers on Ray",
    "flows.ray_cluster": "Ray",
    "ray": "Ray",
    "flows.embedded": "the embedded Prefect server",
    "prefect.futures": None,
    "prefect": "the Prefect server",
    "datasets": "the data set",
    "huggingface_hub": "the hub",
}
ASKED = threading.Event()  # in this process somebody asked to stop


@contextmanager
def stop_in_time() -> Iterator[None]:
    """From the first SIGINT or SIGTERM in the block the process has SECONDS_TO_STOP left, also after the block.

    The signals' own handlers are left as they are: they end the run in good order where they can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # Or a signal to a child that was forked would be written here, too, and count as one to us.
    os.register_at_fork(after_in_child=partial(signal.set_wakeup_fd, -1))
    threading.Thread(target=_watch, args=(reading,), name="deadline", daemon=True).start()
    try:
        yield
    finally:
        if not ASKED.is_set():
            signal.set_wakeup_fd(before)
            os.close(writing)  # which ends the thread


def _watch(reading: int) -> None:
    deadline, seen = float("inf"), set[Process]()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reading], [], [], min(left, 3600))[0]:
            continue
        numbers = os.read(reading, 1024)
        if not numbers:
            os.close(reading)
            return
        for _ in (number for number in numbers if number in SIGNALS):
            deadline = min(deadline, time.monotonic() + (SECONDS_AFTER_SECOND if ASKED.is_set() else SECONDS_TO_STOP))
            ASKED.set()
            seen |= descendants()  # those whose parent ends first are nobody's children at the end
    _end_hard(seen)


def _end_hard(seen: set[Process]) -> None:
    words = (
        f"labelscore: error: stopped on request, and ended hard as {_waits_for()} did not answer or end in time; what "
        "is stored is kept, run the same command to go on\n"
    )
    show_cursor = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    telling = threading.Thread(target=os.write, args=(2, (show_cursor + words).encode()), daemon=True)
    telling.start()
    telling.join(0.5)  # whoever should read it may be what hangs
    kill(seen | descendants())
    os._exit(EXIT_CODE)


def _waits_for() -> str:
    """What the run waits for: the object store where any thread does, else what the main thread is in."""
    frames = sys._current_frames()
    places = {ident: _place(frame) for ident, frame in frames.items() if ident != threading.get_ident()}
    if "the object store" in places.values():
        return "the object store"
    return places.get(threading.main_thread().ident or 0) or "this process"


def _place(frame: FrameType | None) -> str | None:
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        known = next((key for key in WAITS if name == key or name.startswith(f"{key}.")), None)
        if known and WAITS[known]:
            return WAITS[known]
        if name.partition(".")[0] == "pipeline":
            return f"the step in {name}"
        frame = frame.f_back
    return None
