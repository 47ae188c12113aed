"""A batch arrives on a device as it was laid out: each tensor with its numbers, shape and dtype, all else as it is."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.scoring.packed import PackedBatch, Unmasked, pack
from pipeline.scoring.padded import PaddedBatch, make_rows, pad
from pipeline.scoring.parts import split_items
from pipeline.scoring.sharing import InOrder, make_trees
from pipeline.scoring.transfers import send
from tests.pipeline.scoring.items import make_items

ELSEWHERE = torch.device("meta")
ITEMS = make_items(seed=5, num_items=4, labels=((5,), (5, 6), (5, 7, 8, 9), (10, 11)))


def masked() -> PackedBatch:
    return pack(make_trees(InOrder(split_items(ITEMS), notebook=True), 500))


def unmasked() -> PackedBatch:
    return pack(make_trees(InOrder(split_items(ITEMS), notebook=True), 500), None, Unmasked(None))


def padded() -> PaddedBatch:
    return pad(make_rows(split_items(ITEMS), notebook=True))


@pytest.mark.parametrize("make", [masked, unmasked, padded])
def test_a_batch_arrives_as_it_is(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one device here, so the way to another one is left out: what would go there comes back at once."""
    batch, sent = make(), []
    to = Tensor.to

    def arrive(tensor: Tensor, *given: Any, **how: Any) -> Tensor:
        if given[0] != ELSEWHERE:
            return to(tensor, *given, **how)
        sent.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "to", arrive)
    there = send(batch, ELSEWHERE)
    assert len(sent) == 1, "one transfer"
    assert same(batch, there) > 10


def test_shapes_and_dtypes_are_those_of_the_batch_on_another_device() -> None:
    batch = unmasked()
    there = send(batch, ELSEWHERE)
    assert (there.ids.device.type, there.ids.shape, there.ids.dtype) == ("meta", batch.ids.shape, torch.int64)
    assert {layout.key_ends.dtype for layout in there.layouts} == {torch.int32}  # type: ignore[attr-defined]
    assert there.indices == batch.indices
    assert there.prefix.keys is batch.prefix.keys


def same(here: Any, there: Any) -> int:
    """How many values the two hold, all of them equal."""
    assert type(here) is type(there)
    if isinstance(here, Tensor):
        assert here.dtype == there.dtype
        assert here.shape == there.shape
        assert torch.equal(here, there)
        return here.numel()
    if isinstance(here, tuple):
        assert len(here) == len(there)
        return sum(map(same, here, there))
    if is_dataclass(here):
        return sum(same(getattr(here, each.name), getattr(there, each.name)) for each in fields(here))
    assert here == there
    return 1
