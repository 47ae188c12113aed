"""A choice from what is offered to what it came to: block after block of items, then the winner on fresh ones.

The flow calls the steps and scores what they plan (flows/choose.py).

Invariant: which items are scored under which prompts depends on what is offered, on the seed and on the answers alone;
so a choice that was killed anywhere goes on where it was, and ends as it would have.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.choice_config import ChoiceConfig
from pipeline.choosing.judging import judge
from pipeline.choosing.order import OrderedItems
from pipeline.choosing.race import BATCH, Race
from pipeline.choosing.record import Ending, FreshRecord
from pipeline.job import Planned, check_pending, texts_of_shard
from pipeline.offered import Offered
from pipeline.reading.model import ModelRef
from pipeline.record import record_prompt
from pipeline.reporting.agreement import Arm
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.reporting.stats import wilson_interval
from pipeline.sharding import ScoringSpec, cut_shards
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt
from pipeline.storing.store import Store

FRESH_ITEMS = 400  # the winner's figure: within 5 points, 95 times in 100
LOOK_AHEAD = 10  # a block is a tenth of the items before it: few are scored in vain, and few blocks are small


@dataclass(frozen=True, slots=True)
class Block:
    """Items [start, stop) of the order, and the candidates (indices) that they are scored under."""

    start: int
    stop: int
    candidates: tuple[int, ...]


class Choosing:
    """A choice in progress. The caller holds the output's lock."""

    def __init__(self, config: ChoiceConfig, output: Output, offered: Offered) -> None:
        self.config, self.output, self.offered = config, output, offered
        self.num_items = len(offered.order.rows)
        prompts = [number for number in range(len(offered.candidates)) for _ in offered.rules]
        self.race = Race(prompts, config.within / 100, self.num_items if config.these_alone else None)
        self.ending: Ending = "named"
        self.num_scored = 0  # texts x prompts that were not stored before
        self._scored_to = np.zeros(len(offered.candidates), np.int64)  # (candidates,): items that were looked at
        self.fresh: FreshRecord | None = None
        self.num_fresh_forwards = 0  # of fresh items, beyond what the race had scored
        hash_columns = {stored.prompt.hash_column for stored in offered.target.prompts}
        self._items = OrderedItems(offered.items, offered.order, hash_columns)
        self._stores: dict[str, Store] = {}
        self._started = time.perf_counter()

    @property
    def num_forwards(self) -> int:
        """Items x prompts that were looked at, stored ones too, with the content-free texts."""
        return sum(self.num_forwards_of(number) for number in range(len(self._scored_to)))

    @property
    def seconds(self) -> float:
        """Since the choice began."""
        return time.perf_counter() - self._started

    @property
    def num_all(self) -> int:
        """What all items under all candidates would be."""
        return sum(self.num_items + candidate.num_content_free for candidate in self.offered.candidates)

    def num_forwards_of(self, number: int) -> int:
        """Those of one candidate."""
        num_items = int(self._scored_to[number])
        return num_items + self.offered.candidates[number].num_content_free if num_items else 0

    def next_block(self) -> Block | None:
        """What is to be scored next; None where the race is over, and `ending` says why."""
        running, start = tuple(self.race.running.tolist()), self.race.num_items
        num_left = self.num_items - start
        if self.race.named is not None or not num_left:
            self.ending = "named" if self.race.named is not None else "no more items"
            return None
        # Where there are several models each block loads each of them anew: then blocks double.
        ahead = start if len({self._model(number) for number in running}) > 1 else start // LOOK_AHEAD
        size, affordable = max(BATCH, ahead // BATCH * BATCH), self._affordable(running)
        if affordable < min(BATCH, num_left):
            self.ending = "budget"
            return None
        if affordable < num_left:
            size = min(size, affordable // BATCH * BATCH)
        return Block(start, start + min(size, num_left), running)

    def fresh_block(self) -> Block | None:
        """Items that took no part in the race, for the winner; None where none is left or can be paid for."""
        start = self.race.num_items
        if self.race.named is None:
            return None
        (number,) = winner = (int(self.race.prompts[self.race.named]),)
        paid = max(0, int(self._scored_to[number]) - start)  # the block in which the race ended was scored to its end
        num_fresh = min(FRESH_ITEMS, self.num_items - start, paid + self._affordable(winner))
        return Block(start, start + num_fresh, winner) if num_fresh else None

    def _affordable(self, candidates: Sequence[int]) -> int:
        """How many more items the budget has for all of these candidates."""
        if self.config.budget is None:
            return self.num_items
        new = sum(self.offered.candidates[n].num_content_free for n in candidates if not self._scored_to[n])
        return max(0, self.config.budget - self.num_forwards - new) // len(candidates)

    def plan(self, block: Block) -> Iterator[Planned]:
        """For one model after the other, what of the block has to be scored; the last one's must be stored by then.

        Raises InputError for a text whose message a chat template changes.
        """
        run, items = self.config.run, self._write_items(block)
        for name, numbers in groupby(block.candidates, self._model):
            candidates = [self.offered.candidates[number] for number in numbers]
            store = self._store(name)
            store.narrow([candidate.stored for candidate in candidates])
            shards, num_missing, num_wanted = [], 0, 0
            for candidate in candidates:
                pending = store.pending(items, candidate.stored, extra_texts=CONTENT_FREE_TEXTS)
                prompt, answer = candidate.stored.prompt, candidate.setting.config.chat_answer or ""
                check_pending(candidate.target, prompt, pending.path, answer)
                size = run.shard_size or texts_of_shard(candidate.target.model.device)
                part = f"of items {block.start:,} to {block.stop:,}"  # of each block others, for whoever counts by name
                shards += [replace(s, name=f"{s.name} {part}") for s in cut_shards(prompt.name, pending.path, size)]
                num_missing, num_wanted = num_missing + pending.num_missing, num_wanted + pending.num_wanted
            self.num_scored += num_missing
            yield Planned(store, self._spec(name), tuple(shards), num_missing, num_wanted - num_missing, ())

    def look(self, block: Block) -> None:
        """Let the race see the answers to a block, batch after batch, until it is over."""
        self._scored_to[list(block.candidates)] = block.stop
        answers = self._answers(block)
        unseen = np.zeros(block.stop - block.start, bool)
        right = np.array([answers.get(arm, unseen) for arm in self.offered.arms])
        for first in range(0, right.shape[1], BATCH):
            self.race.add(right[:, first : first + BATCH])
            if self.race.named is not None:
                break

    def look_at_fresh(self, block: Block) -> None:
        """Count how many of the fresh items the winner is right on."""
        (number,) = block.candidates
        self.num_fresh_forwards = max(0, block.stop - int(self._scored_to[number]))
        self._scored_to[number] += self.num_fresh_forwards
        assert self.race.named is not None
        right = self._answers(block)[self.offered.arms[self.race.named]]
        ends = wilson_interval(int(right.sum()), len(right))
        self.fresh = FreshRecord(num_items=len(right), num_right=int(right.sum()), low=ends.low, high=ends.high)

    def _answers(self, block: Block) -> Mapping[Arm, np.ndarray]:
        """Whether each arm of the block's candidates is right on its items."""
        answers: dict[Arm, np.ndarray] = {}
        items = self._write_items(block)
        for name, numbers in groupby(block.candidates, self._model):
            store, prompts = self._store(name), [self.offered.candidates[number].stored for number in numbers]
            store.narrow(prompts)
            answers |= judge(store, [record_prompt(stored) for stored in prompts], self.offered.rules, items)
        return answers

    def end_plans(self) -> None:
        """The choice is published: what was scored for it is nothing unfinished."""
        for store in self._stores.values():
            store.end_plans()

    def _model(self, number: int) -> str:
        return self.offered.candidates[number].setting.model

    def _store(self, model: str) -> Store:
        if model not in self._stores:
            ref = self._ref(model)
            self._stores[model] = Store(self.output, self._prompts(model), ref.name, ref.revision)
        return self._stores[model]

    def _ref(self, model: str) -> ModelRef:
        return next(c.target.model for c in self.offered.candidates if c.setting.model == model)

    def _prompts(self, model: str) -> list[StoredPrompt]:
        return [candidate.stored for candidate in self.offered.candidates if candidate.setting.model == model]

    def _spec(self, model: str) -> ScoringSpec:
        """For all prompts of the model, so that its workers can stay as they are from block to block."""
        run = self.config.run
        writers = tuple(map(self._store(model).writer, self._prompts(model)))
        ref = self._ref(model)
        return ScoringSpec(
            ref, writers, run.max_text_tokens, False, run.batch_tokens, run.tensor_parallel, run.compile == "on"
        )

    def _write_items(self, block: Block) -> Path:
        """The items of a block, with what its candidates know them by."""
        path, candidates = self.output.work / "block.parquet", [self.offered.candidates[n] for n in block.candidates]
        known = {stored.prompt.name: stored.prompt.hash_column for stored in self.offered.target.prompts}
        hashes = {c.stored.prompt.hash_column: known[c.offer.key] for c in candidates}
        self._items.write(path, block.start, block.stop, hashes)
        return path
