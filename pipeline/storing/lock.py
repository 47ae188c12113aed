"""One process at a time, by a lock on an open file.

Invariant: the lock is an flock, so the kernel frees it when its holder dies, however that happens; what the file says
about its holder is for people only.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO


@contextmanager
def hold(file: IO[str], what: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Lock `file`; while another process has it, wait after one call of `on_wait` with a line that names its holder."""
    if not _try_lock(file):
        on_wait(f"{what} is in use by {_holder(file)}; waiting for it to finish")
        while not _try_lock(file):
            time.sleep(0.2)
    try:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")}))
        file.flush()
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a forked child has inherited the file


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    """Who holds the lock, from what the holder wrote into the file."""
    try:
        file.seek(0)
        holder = json.loads(file.read())
        return f"process {int(holder['pid'])} (since {holder['started']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
