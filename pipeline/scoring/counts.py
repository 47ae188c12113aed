"""What a scorer counts; known without torch, as results of shards and of runs hold it."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counts:
    """What a scorer has done so far. Padding is not among the forwarded tokens.

    trie_tokens: the nodes of the trie over all sequences of a call, the least that had to be forwarded.
    """

    items: int = 0
    batches: int = 0
    forwarded_tokens: int = 0
    trie_tokens: int = 0
    padding_tokens: int = 0
    read_positions: int = 0
    out_of_memory: int = 0

    def take(self, others: "Counts") -> None:
        """Add others, which are zero afterwards."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(others, field.name))
            setattr(others, field.name, 0)
