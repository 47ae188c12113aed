"""Stopping on request: the first Ctrl-C or SIGTERM lets the current batch finish, a second one does not wait.

Invariant: outside `stop_requests` signals behave as Python and Prefect have them.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from pipeline.stopping import restored, stop_on

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def lose_no_ctrl_c() -> None:
    """Send a Ctrl-C again that fell into a finalizer, where Python prints the KeyboardInterrupt and goes on.

    Called in the main thread.
    """
    main = threading.get_ident()

    def send_again(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # A little later, because here it would be lost as well; to the main thread itself, which may be waiting.
            threading.Timer(0.01, signal.pthread_kill, [main, signal.SIGINT]).start()
        else:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = send_again


def stop_requests() -> AbstractContextManager[Callable[[], bool]]:
    """Yield a function that says whether a stop was asked for since the block was entered.

    In a run that Prefect's runner started, signals stay the runner's: it tells cancellation from a crash by them.
    """
    owned_by_runner = bool(os.environ.get("PREFECT__FLOW_RUN_ID"))
    return nullcontext(lambda: False) if owned_by_runner else stop_on(SIGNALS)


def restored_signals() -> AbstractContextManager[None]:
    """Whatever the block does to the handlers of SIGINT and SIGTERM, put them back after it."""
    return restored(SIGNALS)
