"""Kill the commands and their servers at random instants, over and over, in batches that are kept in a tracked record.

    python -m tests.flows.kill_harness --until 1000
    python -m tests.flows.kill_harness --kills 50 --seed 7

The first goes on where the record ends, with one seed after the other; the second is one batch.

Invariant: a batch follows from its seed and size alone, whatever was killed before it; it is recorded once it is whole.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tests.flows import kill_local, kill_servers
from tests.flows.kill_lab import Lab, Outcome
from tests.flows.kill_record import RECORD, Batch, add_batch, is_there, read_record, this_commit, write_page
from tests.flows.runs import Nursery, quiet_server

BATCH = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing to kill: its share of the kills, how many on one output, how it is done, and that in words."""

    share: int
    chain: int
    kill: Callable[[Lab, random.Random, Path, int], None]
    about: str


KINDS = {
    "run": Kind(14, 5, kill_local.RUN, "`labelscore run`, each of a chain over 8 more items than the one before"),
    "publication": Kind(10, 5, kill_local.PUBLICATION, "a run that has nothing to score, as its tables are published"),
    "report": Kind(7, 7, kill_local.REPORT, "`labelscore report`, under another rule each time"),
    "prune": Kind(
        7,
        2,
        kill_local.PRUNE,
        "`labelscore prune`: no file of the finished run and none of an unfinished one may go, all others must at last",
    ),
    "compare": Kind(4, 4, kill_local.COMPARE, "`labelscore compare --html`: the page is all there or not at all"),
    "verify": Kind(3, 3, kill_local.VERIFY, "`labelscore verify`: no file is changed"),
    "s3": Kind(2, 4, kill_servers.S3, "runs into a bucket, from two machines in turns"),
    "s3 server": Kind(
        1,
        2,
        kill_servers.S3_SERVER,
        "the S3 server of a run, which comes back with what it held: the run ends, well or in one line",
    ),
    "run with its server": Kind(1, 2, kill_servers.EMBEDDED_RUN, "a run with its embedded Prefect server"),
    "embedded server": Kind(
        1, 2, kill_servers.EMBEDDED_SERVER, "the embedded Prefect server alone: its run ends, well or in one line"
    ),
    "serve": Kind(
        1,
        2,
        kill_servers.kill_serve,
        "`labelscore serve` alone: no process stays, no run is `Running` for ever, and a new `serve` goes on",
    ),
}


# A batch


def shares(num_kills: int) -> dict[str, int]:
    """How many of so many kills are of each kind: at least one where there is room, the rest by their shares."""
    whole = sum(kind.share for kind in KINDS.values())
    least = int(num_kills >= len(KINDS))
    found = {name: max(least, num_kills * kind.share // whole) for name, kind in KINDS.items()}
    names = list(KINDS)
    while (left := num_kills - sum(found.values())) != 0:
        name = names[abs(left) % len(names)] if left > 0 else max(found, key=lambda name: found[name])
        found[name] += 1 if left > 0 else -1
    return found


def chains(num_kills: int, seed: int) -> list[tuple[str, int]]:
    """What is killed and how often on one output, in the order of the batch."""
    found = []
    for name, num in shares(num_kills).items():
        while num > 0:
            found.append((name, min(num, KINDS[name].chain)))
            num -= found[-1][1]
    random.Random(seed).shuffle(found)
    return found


def campaign(lab: Lab, num_kills: int, seed: int, only: str | None = None) -> Outcome:
    """Kill `num_kills` times, and check what is left. Prints a line for each kill."""
    outcome = Outcome()
    lab = replace(lab, outcome=outcome)
    todo = [(only, num_kills)] if only else chains(num_kills, seed)
    for number, (name, num) in enumerate(todo):
        started, folder = time.monotonic(), lab.folder / f"{seed}-{number}-{name.replace(' ', '-')}"
        KINDS[name].kill(lab, random.Random(f"{seed} {number}"), folder, num)
        outcome.seconds[name] = outcome.seconds.get(name, 0) + time.monotonic() - started
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


# Batches


@contextmanager
def open_lab() -> Iterator[Lab]:
    """A lab with servers of its own; all that it started ends with it."""
    with (
        tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder,
        quiet_server(Path(folder, "prefect")) as env,
        closing(Nursery(env)) as nursery,
        ExitStack() as running,
    ):
        yield Lab(Path(folder), env, nursery, running)


def kill_batch(lab: Lab, num_kills: int, seed: int, commit: str) -> Batch:
    """One batch, whole."""
    started = time.monotonic()
    outcome = campaign(lab, num_kills, seed)
    kills: dict[str, dict[str, int]] = {}
    for (kind, where), times in sorted(outcome.killed.items()):
        kills.setdefault(kind, {})[where] = times
    return Batch(
        seed=seed,
        commit=commit,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        seconds=round(time.monotonic() - started, 1),
        kills=kills,
        seconds_of={kind: round(seconds, 1) for kind, seconds in sorted(outcome.seconds.items())},
        ended_first=outcome.ended_first,
        undisturbed=outcome.undisturbed,
        wrong=outcome.wrong,
    )


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit("stopped; the batch that was not whole counts for nothing")


def main() -> int:
    """Do batches as asked for on the command line and record them; exit code 1 where something was wrong.

    With an --until that is reached only the page is written anew.
    """
    parser = argparse.ArgumentParser(description="Kill labelscore at random instants and check what is left.")
    parser.add_argument("--kills", type=int, default=BATCH, help=f"kills of a batch ({BATCH})")
    parser.add_argument("--seed", type=int, help="of one batch; by default the next one")
    parser.add_argument("--only", choices=KINDS, help="kill this kind alone, and record nothing")
    parser.add_argument("--until", type=int, metavar="TOTAL", help="batches until the record has so many kills")
    parser.add_argument("--record", type=Path, default=RECORD, help="the record; its page lies beside it")
    given = parser.parse_args()
    if given.seed is not None and given.until is not None:
        parser.error("give --seed or --until: one batch, or all that follow")
    commit, known = this_commit(), read_record(given.record)
    seed = given.seed if given.seed is not None else max((batch.seed for batch in known), default=0) + 1
    if is_there(given.record, seed, commit):
        parser.error(f"seed {seed} has its batch at {commit}; give another --seed")
    signal.signal(signal.SIGTERM, _stop)
    if given.only:
        with open_lab() as one:
            outcome = campaign(one, given.kills, seed, given.only)
        print("\n".join(outcome.wrong) or "nothing was wrong")
        return 1 if outcome.wrong else 0
    done = sum(batch.num_kills for batch in known)
    wanted = done + given.kills if given.until is None else given.until
    num_wrong = 0
    with ExitStack() as opened:
        lab = opened.enter_context(open_lab()) if done < wanted else None
        while lab and done < wanted:
            batch = kill_batch(lab, given.kills, seed, commit)
            add_batch(given.record, batch)
            num_wrong, done, seed = num_wrong + len(batch.wrong), done + batch.num_kills, seed + 1
            print("\n".join([*batch.wrong, f"batch {batch.seed}: {batch.num_kills} kills, {done} in all"]), flush=True)
            write_page(given.record, {name: kind.about for name, kind in KINDS.items()})
    write_page(given.record, {name: kind.about for name, kind in KINDS.items()})  # with the remarks written since
    return 1 if num_wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
