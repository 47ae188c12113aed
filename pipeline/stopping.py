"""Stopping on request: the first signal lets the current batch finish, a second one does not wait.

Invariant: after the block the handlers of signals are what they were.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on(signals: Sequence[signal.Signals]) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of these signals came since the block was entered.

    Outside the main thread, where no signal comes, nothing changes.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    with restored(signals):
        for number in signals:
            signal.signal(number, ask)
        yield requested.is_set


@contextmanager
def restored(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Whatever the block does to the handlers of these signals, put them back after it."""
    handlers = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
