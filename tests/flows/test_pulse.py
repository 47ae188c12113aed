"""When an actor is given up, look by look; that real ones are is in test_hangs.py."""

from collections.abc import Iterable
from typing import Any

from flows.pulse import (
    LOOKS_TO_ANSWER,
    LOOKS_TO_ANSWER_LOADING,
    LOOKS_TO_FIRST_BATCH,
    LOOKS_TO_LOAD,
    LOOKS_TO_NEXT_BATCH,
    LOOKS_TO_START,
    TIMES_USUAL_BATCH,
    Hung,
    Pulse,
    Usual,
)


class Answers:
    """Stands for Ray and for the actor: what it answers, look by look; None where it does not."""

    def __init__(self, answers: Iterable[tuple[int, int] | None]) -> None:
        self._answers = iter(answers)
        self._next: tuple[int, int] | None = None
        self.progress = self

    def remote(self, shard: str) -> "Answers":
        return self

    def wait(self, calls: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self._next = next(self._answers)
        return ([], calls) if self._next is None else (calls, [])

    def get(self, call: Any) -> tuple[int, int] | None:
        return self._next


def looks_until_hung(answers: list[tuple[int, int] | None], usual: Usual | None = None, **options: bool) -> int | None:
    """How many looks the actor was given; None where it was not given up."""
    stand_in = Answers(answers)
    pulse = Pulse(stand_in, stand_in, usual or Usual(), **options)
    for number in range(1, len(answers) + 1):
        try:
            pulse.look("shard")
        except Hung:
            return number
    return None


def test_one_that_does_not_answer_is_given_up() -> None:
    """After half a minute, whether it had batches before or not."""
    assert looks_until_hung([None] * 1000) == LOOKS_TO_ANSWER + 1
    assert looks_until_hung([(1, 1), (2, 2), *[None] * 1000]) == 2 + LOOKS_TO_ANSWER + 1


def test_slow_answers_are_no_reason() -> None:
    """A machine under load: an answer every 20 looks, and batches."""
    assert looks_until_hung([answer for n in range(50) for answer in (*[None] * 20, (n, n))]) is None


def test_a_slow_worker_is_left_alone() -> None:
    """It may take the longest gap times twenty; before its first batch half an hour."""
    gap = LOOKS_TO_NEXT_BATCH - 10
    slow: list[tuple[int, int] | None] = [(n, n) for n in range(1, 20) for _ in range(gap)]
    assert looks_until_hung(slow) is None
    assert looks_until_hung([(0, 0)] * LOOKS_TO_FIRST_BATCH) is None


def test_a_model_may_take_hours_to_load() -> None:
    """It may be hundreds of gigabytes of a hub; but one that does not answer meanwhile hangs."""
    assert looks_until_hung([(0, 0)] * LOOKS_TO_LOAD, is_loading=True) is None
    assert looks_until_hung([(0, 0)] * 2 * LOOKS_TO_LOAD, is_loading=True) == 1 + LOOKS_TO_LOAD + 1
    assert looks_until_hung([(0, 0), *[None] * 1000], is_loading=True) == 1 + LOOKS_TO_ANSWER_LOADING + 1


def test_one_whose_batches_stop_is_given_up() -> None:
    """Though it answers: after five minutes, or twenty times what batches took in this run."""
    assert looks_until_hung([(5, 5)] * 10_000) == 1 + LOOKS_TO_NEXT_BATCH + 1
    assert looks_until_hung([(5, 5)] * 10_000, Usual(batch=100)) == 1 + TIMES_USUAL_BATCH * 100 + 1
    assert looks_until_hung([(0, 0)] * 10_000) == 1 + LOOKS_TO_FIRST_BATCH + 1


def test_one_that_waits_for_room_is_left_alone_until_it_answered() -> None:
    """On a cluster an actor may wait for hours for its processors; on a Ray of our own there is room."""
    never: list[tuple[int, int] | None] = [None] * 5000
    assert looks_until_hung(never, is_loading=True, has_room=False) is None
    assert looks_until_hung(never, is_loading=True, has_room=True) == LOOKS_TO_START + 1
    assert looks_until_hung([*never, (0, 0), *never], is_loading=True, has_room=False) is not None
