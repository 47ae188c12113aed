"""A rank's process: a slice of a model that scores shards with the other ranks' (pipeline/ranks.py starts it).

Invariant: it ends when its pipe closes, whatever it is doing, and for nothing else.
"""

import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pipeline.errors import Interrupted, LabelscoreError, RunError
from pipeline.ranks import (
    SECONDS_BETWEEN_LOOKS,
    Answer,
    Drain,
    Encode,
    Failure,
    Join,
    Score,
    Scored,
    Stop,
)
from pipeline.sharding import Shard, ShardResult

ORPHANED = 3  # the exit code of a rank whose pipe has closed; Python itself has no such


class Rank:
    """One rank: does what it is told, one request after the other, and answers each."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._stop = threading.Event()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Take messages as they come, also in the middle of a batch. The pipe's end is the process' end."""
        folder: Path | None = None
        with suppress(EOFError, OSError):
            while True:
                message = self._pipe.recv()
                if isinstance(message, Stop):
                    self._stop.set()
                else:
                    self._requests.put(message)
                if isinstance(message, Join):
                    folder = message.folder
        if folder:  # whoever made it may have been killed
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(ORPHANED)

    def serve(self) -> None:
        """Join the others, load the slice, and do what is asked for until the pipe closes."""
        self._answer(lambda: self._join(self._requests.get()))
        while True:
            match self._requests.get():
                case Encode(shard, texts):
                    self._scorer.encode_ahead(shard, texts)
                case Score(shard):
                    self._answer(partial(self._score, shard))
                case Drain():
                    self._answer(self._scorer.drain)

    def _answer(self, work: Callable[[], ShardResult | None]) -> None:
        from pipeline.scoring.ranks import OutOfStep

        try:
            message: Answer | Failure = Answer(work())
        except LabelscoreError as error:
            message = Failure(error, is_alone=False)
        except OutOfStep as error:
            message = Failure(RunError(str(error)), is_alone=True)
        except Exception as error:
            lines = "".join(traceback.format_exception(error))
            message = Failure(RuntimeError(f"a rank failed:\n{lines}"), is_alone=False)
        self._pipe.send(message)

    def _join(self, join: Join) -> None:
        import torch

        from pipeline.reading.sharded import load_slice
        from pipeline.scoring.ranks import join_ranks
        from pipeline.shard import ShardScorer

        torch.set_num_threads(join.num_threads)
        join_ranks(join.rank, join.spec.num_ranks, join.folder, join.spec.model.device)
        self._rank = join.rank
        self._scorer = ShardScorer(
            join.spec, load=lambda ref: load_slice(ref, join.spec.num_ranks), stores=join.rank == 0
        )

    def _score(self, shard: Shard) -> ShardResult:
        from pipeline.scoring.ranks import any_rank

        # Ranks encode at their own pace, and ask each other only between batches.
        while not self._scorer.is_encoded(shard, SECONDS_BETWEEN_LOOKS) and not self._stop.is_set():
            pass
        if any_rank(self._stop.is_set()):
            raise Interrupted(f"stopped on request before scoring {shard.name}; run the same command to go on")
        try:
            return self._scorer.score(shard, self._tell_progress, lambda: any_rank(self._stop.is_set()))
        except BaseException:
            self._scorer.drain()
            raise

    def _tell_progress(self, num_texts: int) -> None:
        if self._rank == 0:
            self._pipe.send(Scored(num_texts))


def main(arguments: Sequence[str]) -> None:
    """A rank's process; its one argument is the pipe's file descriptor."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the pipe's end is its end
    Rank(Connection(int(arguments[0]))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
