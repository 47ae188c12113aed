"""What attention is asked for in one layer, and who answers: layouts, each of some trees side by side in the flat row.

Invariant: a layout answers for the trees that lie at its place in the row, and sees no others.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Asked(NamedTuple):
    """One layer's attention over a flat row: queries (tokens, heads, size), keys and values (tokens, key heads, size).

    prefix: keys and values (tokens, key heads, size) that trees may go on from. at_reads: of the queries there are
    those alone whose logits are read. window: how many tokens a query sees at most, itself among them, counted in a
    sequence of its own. sinks: (heads,) logits of a key that nothing is taken from (GPT-OSS). kernels: where to say
    what it ran on; None where nobody asks. weights: the dtype of the layer's own, if it has any.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    prefix: tuple[Tensor, Tensor] | None
    scaling: float
    at_reads: bool = False
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    kernels: set[str] | None = None
    weights: torch.dtype | None = None


class Layout(Protocol):
    """Trees that see the same first `depth` tokens of the prefix, with tensors to be had on the model's device."""

    @property
    def depth(self) -> int: ...
    @property
    def num_reads(self) -> int: ...

    def attend(self, asked: Asked, first_read: int) -> Tensor:
        """(tokens or reads of the layout, heads, value size); its reads are the queries from `first_read` on.

        Raises NotImplementedError for what it cannot honour.
        """
