"""The scheduler hands out everything once, within the budget, and takes back what did not fit."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.scheduler import Scheduled, Scheduler


@dataclass(frozen=True)
class Tokens:
    """A sequence of which nothing but its length matters."""

    index: int
    num_tokens: int

    @property
    def order(self) -> tuple[int, int]:
        return 0, -self.num_tokens

    def split(self) -> list["Tokens"]:
        return []


def num_fitting(sequences: Iterable[Tokens], max_tokens: int) -> int:
    """As many as have together at most `max_tokens`."""
    sizes = [sequence.num_tokens for sequence in sequences]
    return max(1, *(n for n in range(len(sizes) + 1) if sum(sizes[:n]) <= max_tokens))


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def scheduler_of(sizes: list[int], max_tokens: int, num_lanes: int = 1, max_running: int = 1) -> Scheduler[Tokens]:
    sequences = [Tokens(index, size) for index, size in enumerate(sorted(sizes, reverse=True))]
    return Scheduler(sequences, num_fitting, max_tokens=max_tokens, num_lanes=num_lanes, max_running=max_running)


def lengths(batch: Scheduled[Tokens]) -> list[int]:
    return [sequence.num_tokens for sequence in batch.sequences]


@given(sizes=SIZES, memory=st.integers(30, 90), num_lanes=st.integers(1, 3))
def test_every_sequence_is_done_once_whatever_fits(sizes: list[int], memory: int, num_lanes: int) -> None:
    """Where the memory takes so many tokens over all that run: no more run at once than may, and nothing is lost."""
    scheduler = scheduler_of(sizes, 200, num_lanes, 2 * num_lanes)
    running: deque[Scheduled[Tokens]] = deque()
    done: list[int] = []
    while scheduler.num_waiting or running:
        while (batch := scheduler.schedule(len(running))) is not None:
            running.append(batch)
        assert len(running) <= 2 * num_lanes
        together = sum(sum(lengths(batch)) for batch in running)
        first = running.popleft()
        if together > memory:
            scheduler.put_back(first, sum(lengths(first)))
        else:
            done += [sequence.index for sequence in first.sequences]
    assert sorted(done) == list(range(len(sizes)))


@given(sizes=SIZES, max_tokens=st.integers(1, 60))
def test_batches_are_full_and_longest_first(sizes: list[int], max_tokens: int) -> None:
    """In one lane each batch takes all that fits, and the batches in turn are the sequences in their order."""
    scheduler = scheduler_of(sizes, max_tokens)
    waiting = sorted(sizes, reverse=True)
    while (batch := scheduler.schedule()) is not None:
        found = lengths(batch)
        assert found == waiting[: len(found)]
        waiting = waiting[len(found) :]
        assert len(found) == 1 or sum(found) <= max_tokens
        assert not waiting or len(found) == 5 or sum(found) + waiting[0] > max_tokens
    assert not waiting


def test_the_last_batches_get_smaller_in_lanes() -> None:
    """A lane's share of what is left, down to an eighth of the budget."""
    scheduler = scheduler_of([1] * 120, max_tokens=5, num_lanes=30)
    sizes = []
    while (batch := scheduler.schedule()) is not None:
        sizes.append(sum(lengths(batch)))
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1], sum(sizes)) == (4, 1, 120)


def test_what_did_not_fit_comes_again_in_its_order_in_smaller_batches() -> None:
    """The budget becomes half of what was tried, and batches after it run alone."""
    scheduler = scheduler_of([8, 7, 6, 5, 4, 3], 100, num_lanes=2, max_running=4)
    first = scheduler.schedule(0)
    assert first is not None
    assert lengths(first) == [8, 7]  # a lane's share of 33 tokens
    second = scheduler.schedule(1)
    assert second is not None
    assert not second.is_alone
    assert scheduler.put_back(first, 15)
    assert scheduler.max_tokens == 7
    assert not scheduler.put_back(second, sum(lengths(second)))
    assert scheduler.max_tokens == 7
    assert scheduler.schedule(1) is None
    again = []
    while (batch := scheduler.schedule(0)) is not None:
        assert batch.is_alone
        again += lengths(batch)
    assert again == [8, 7, 6, 5, 4, 3]


def test_one_sequence_that_did_not_fit_beside_others_leaves_the_budget() -> None:
    """It may fit alone; where it was alone, only a smaller budget is left to try."""
    scheduler = scheduler_of([9, 9], 10, max_running=2)
    beside = scheduler.schedule(0)
    assert beside is not None
    assert not scheduler.put_back(beside, 9)
    assert scheduler.max_tokens == 10
    alone = scheduler.schedule(0)
    assert alone is not None
    assert scheduler.put_back(alone, 9)
    assert scheduler.max_tokens == 4
