"""A model that is larger than one GPU: several processes, the ranks, each with a slice of it, that score together.

Every rank has its own `ShardScorer` and scores the same shards with it; rank 0 alone stores the scores. The process
that starts them is no rank: it hands out shards, and sees when one of them dies.

Invariant: no rank outlives the process that started it. Each reads from a pipe whose other end only that one holds,
and exits when the pipe closes. When one rank fails, all end.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.children import PYTHON, own_path
from pipeline.errors import Interrupted, LabelscoreError, RunError
from pipeline.reading.sharded import check_gpus
from pipeline.sharding import ScoringSpec, Shard, ShardResult

if TYPE_CHECKING:
    from pipeline.shard import ShardScorer

SECONDS_BETWEEN_LOOKS = 0.1  # for a request to stop
# From the first rank's failure to the last one's: what fails on one rank mostly fails on all, and rank 0 then stores
# what was scored.
SECONDS_TO_FAIL = 10.0
SECONDS_TO_END = 5.0
# The ranks talk on this machine alone, whatever its name resolves to.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}


@dataclass(frozen=True, slots=True)
class Join:
    """The first message to a rank: what it is one of, and where all meet."""

    spec: ScoringSpec
    rank: int
    folder: Path
    num_threads: int


@dataclass(frozen=True, slots=True)
class Encode:
    """Begin to read and encode a shard that will be scored soon."""

    shard: Shard
    texts: pa.Table | None


@dataclass(frozen=True, slots=True)
class Score:
    """Score a shard, which was encoded before, and answer with its ShardResult."""

    shard: Shard


class Drain:
    """Answer when all that was scored is on disk."""


class Stop:
    """Let the current batch be the last."""


@dataclass(frozen=True, slots=True)
class Scored:
    """So many more texts are scored; rank 0 tells it."""

    num_texts: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A request is done."""

    result: ShardResult | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request failed; `is_alone` where the other ranks are now waiting for this one."""

    error: Exception
    is_alone: bool


class RankDied(RunError):
    """A rank is gone without a word, and with it the model."""


class GroupScorer:
    """Scores shards as a `ShardScorer` does, with a model in as many slices as the specification has ranks."""

    def __init__(self, spec: ScoringSpec, first: Shard | None = None) -> None:
        """Start the ranks and wait for their slices. Raises what `check_gpus` and a ShardScorer raise."""
        check_gpus(spec.model, spec.num_ranks)
        self._spec = spec
        self._told: set[str] = set()  # shards that are being encoded, or are
        self._is_stopping = False
        self._sending = threading.Lock()  # another thread may have the next shard encoded
        self._is_busy = False  # ranks may be in the middle of something
        self._folder = tempfile.TemporaryDirectory(prefix="labelscore-")
        self._ranks: list[tuple[subprocess.Popen[bytes], Connection]] = []
        try:
            for rank in range(spec.num_ranks):
                self._ranks.append(_start(rank, spec))
            import torch  # while they do the same

            num_threads = max(1, torch.get_num_threads() // spec.num_ranks)
            self._is_busy = True
            for rank, (_, pipe) in enumerate(self._ranks):
                with suppress(OSError):  # a rank that is dead already is found so below
                    pipe.send(Join(spec, rank, Path(self._folder.name), num_threads))
            if first:
                self.encode_ahead(first)
            self._answers()
        except BaseException:
            self.close()
            raise

    def encode_ahead(self, shard: Shard, texts: pa.Table | None = None) -> None:
        """Begin to read and encode a shard that will be scored soon."""
        if shard.name not in self._told:
            self._told.add(shard.name)
            self._tell(Encode(shard, texts))

    def score(
        self,
        shard: Shard,
        on_progress: Callable[[int], None],
        should_stop: Callable[[], bool],
        texts: pa.Table | None = None,
    ) -> ShardResult:
        """As `ShardScorer.score`. Raises RankDied, too."""
        if not self._ranks:
            raise RankDied(f"the processes with slices of {self._spec.model.name} ended when one of them failed")
        self.encode_ahead(shard, texts)
        self._told.remove(shard.name)
        self._tell(Score(shard))
        result = self._answers(on_progress, should_stop)
        assert result is not None
        return result

    def drain(self) -> None:
        """Wait until all that was scored is on disk. Raises what went wrong in writing it."""
        if self._ranks:
            self._tell(Drain())
            self._answers()

    def close(self) -> None:
        """Drain where the ranks are at rest, and end them."""
        try:
            if not self._is_busy:
                self.drain()
        finally:
            self._end()

    def _end(self) -> None:
        """End the ranks, killing those that are in the middle of something."""
        for process, pipe in self._ranks:
            if self._is_busy:
                process.kill()
            pipe.close()
        for process, _ in self._ranks:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            process.kill()
            process.wait()
        self._ranks = []
        self._folder.cleanup()

    def _tell(self, message: object) -> None:
        self._is_busy = self._is_busy or not isinstance(message, Encode | Stop)
        with self._sending:
            for _, pipe in self._ranks:
                with suppress(OSError):  # a dead rank is found when its answer is waited for
                    pipe.send(message)

    def _answers(
        self, on_progress: Callable[[int], None] = lambda num: None, should_stop: Callable[[], bool] = lambda: False
    ) -> ShardResult | None:
        """Wait for all ranks' answers; returns that of rank 0. Raises a rank's error, RankDied where one is dead.

        Where another one is then left in the middle of something, it waits for one that will not come: all end.
        """
        try:
            return self._wait_for_answers(on_progress, should_stop)
        except BaseException:
            if self._is_busy:
                self._end()
            raise

    def _wait_for_answers(
        self, on_progress: Callable[[int], None], should_stop: Callable[[], bool]
    ) -> ShardResult | None:
        answers: dict[int, ShardResult | None] = {}
        failures: dict[int, Failure] = {}
        deadline = float("inf")
        pipes = {pipe: rank for rank, (_, pipe) in enumerate(self._ranks)}
        while len(answers) + len(failures) < len(pipes):
            if not self._is_stopping and should_stop():
                self._is_stopping = True
                self._tell(Stop())
            waited = [pipe for pipe, rank in pipes.items() if rank not in answers and rank not in failures]
            for pipe in wait(waited, SECONDS_BETWEEN_LOOKS):
                assert isinstance(pipe, Connection)
                match self._read(pipe, pipes[pipe]):
                    case Scored(num_texts):
                        on_progress(num_texts)
                    case Answer(result):
                        answers[pipes[pipe]] = result
                    case Failure() as failure:
                        failures[pipes[pipe]] = failure
                        is_last = failure.is_alone
                        deadline = min(deadline, 0 if is_last else time.monotonic() + SECONDS_TO_FAIL)
            if time.monotonic() > deadline and not all(isinstance(f.error, Interrupted) for f in failures.values()):
                break
        self._is_busy = len(answers) + len(failures) < len(pipes)
        if failures:
            # What a rank has no words for may be the echo of what another one understood.
            errors = [failures[rank].error for rank in sorted(failures)]
            raise min(errors, key=lambda error: not isinstance(error, LabelscoreError))
        return answers[0]

    def _read(self, pipe: Connection, rank: int) -> object:
        """A rank's next message. Raises RankDied where there will be none."""
        try:
            return pipe.recv()
        except (EOFError, OSError):
            process = self._ranks[rank][0]
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            code = process.returncode
            how = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
            raise RankDied(
                f"a process with a slice of {self._spec.model.name} (rank {rank} of {self._spec.num_ranks}) {how}; see "
                "whether memory ran short, and run the same command to go on"
            ) from None


def _start(rank: int, spec: ScoringSpec) -> "tuple[subprocess.Popen[bytes], Connection]":
    ours, theirs = Pipe()
    env = {
        **LOOPBACK,
        **os.environ,
        **own_path(),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(spec.num_ranks),
    }
    env.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # a rank whose peer dies would say so, beside our line
    if spec.model.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""  # transformers would take a GPU that is there
    with theirs:
        process = subprocess.Popen(
            [*PYTHON, "pipeline.rank", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output is for results
            pass_fds=[theirs.fileno()],
            env=env,
            start_new_session=True,  # Ctrl-C is for who started it, who lets all ranks stop behind the same batch
        )
    return process, ours


def open_scorer(spec: ScoringSpec, first: Shard | None = None) -> "ShardScorer | GroupScorer":
    """What scores with the model, loaded: this process, or ranks that it leads. Raises what either raises."""
    if spec.num_ranks > 1:
        return GroupScorer(spec, first)
    from pipeline.shard import ShardScorer  # with torch, which is loaded by the ranks alone where there are some

    return ShardScorer(spec, first)
