"""Whether an actor on Ray is alive: it answers, and its batches come.

Invariant: time is counted in looks of about a second that this process made, not by the clock: while it was itself
stopped, or its machine slept, no actor grew old.
"""

from dataclasses import dataclass
from typing import Any

SECONDS_BETWEEN_LOOKS = 1.0
# To answer takes an actor a look or two, whatever its model does, as threads of its own do it. What may keep it are
# some seconds of work that lets no other thread in (the ids of a huge text become Python's), and a machine with ten
# times the work that it has processors for; loading also waits for a disk or a network with the interpreter held.
LOOKS_TO_ANSWER = 30
LOOKS_TO_ANSWER_LOADING = 120
LOOKS_TO_LOAD = 4 * 3600  # a large model may come from a hub first
LOOKS_TO_START = 300  # until it answers first: it imports torch, on a cold disk beside others that do
TIMES_USUAL_ANSWER = 5
# A batch is no more than the budget of tokens, or a single item, and the longest come first: those that follow take
# as long as the first ones or less, or a few times that under load. Before its first batch an actor may compile, take
# an item of thousands of tokens through a large model on a CPU, and halve its budget for want of memory.
LOOKS_TO_NEXT_BATCH = 300
LOOKS_TO_FIRST_BATCH = 1800
TIMES_USUAL_BATCH = 20


@dataclass
class Usual:
    """What actors of this run took at most, in looks: to answer, and from one batch to the next."""

    answer: int = 0
    batch: int = 0


class Hung(Exception):
    """An actor that is there and does nothing; the message says what it did not do."""


class Pulse:
    """Looks at an actor for somebody who waits for one of its calls."""

    def __init__(self, ray: Any, actor: Any, usual: Usual, *, is_loading: bool = False, has_room: bool = True) -> None:
        """`has_room`: Ray has room for the actor at once; else until it answers first it may be waiting for that."""
        self._ray, self._actor, self._usual = ray, actor, usual
        self._is_loading, self._has_room = is_loading, has_room
        self._asked: Any = None
        self._has_answered = not is_loading
        self._num_unanswered = self._num_still = 0
        self._num_beats = -1

    def look(self, shard: str = "") -> int | None:
        """To be called about once a second: the texts of the shard that are scored, None where that is not known yet.

        Raises Hung, and what Ray raises where the actor has died.
        """
        if self._asked is None:
            self._asked = self._actor.progress.remote(shard)
        self._num_still += 1
        if not self._ray.wait([self._asked], timeout=0)[0]:
            self._num_unanswered += 1
            self._check()
            return None
        num_scored, num_beats = self._ray.get(self._asked)
        self._usual.answer = max(self._usual.answer, self._num_unanswered if self._has_answered else 0)
        self._asked, self._has_answered, self._num_unanswered = None, True, 0
        if num_beats != self._num_beats:
            self._usual.batch = max(self._usual.batch, self._num_still if self._num_beats > 0 else 0)
            self._num_beats, self._num_still = num_beats, 0
        self._check()
        return int(num_scored)

    def _check(self) -> None:
        if not self._has_answered:
            if self._has_room and self._num_unanswered > LOOKS_TO_START:
                raise Hung(f"it did not start in about {LOOKS_TO_START} seconds")
            return
        limit = max(
            LOOKS_TO_ANSWER_LOADING if self._is_loading else LOOKS_TO_ANSWER, TIMES_USUAL_ANSWER * self._usual.answer
        )
        if self._num_unanswered > limit:
            raise Hung(f"it has not answered for about {limit} seconds")
        if self._is_loading:
            what, limit = "the model was not loaded", LOOKS_TO_LOAD
        else:
            first = LOOKS_TO_NEXT_BATCH if self._num_beats > 0 else LOOKS_TO_FIRST_BATCH
            what, limit = "no batch was finished", max(first, TIMES_USUAL_BATCH * self._usual.batch)
        if self._num_still > limit:
            raise Hung(f"{what} in about {limit} seconds")
