"""Made-up token sequences in the shapes of well-known tasks: what their items share, and how long it is.

Invariant: seeded; tokens are drawn from [3, vocabulary), so that little is shared by accident.
"""

import random
from collections.abc import Callable

from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences


class _Draw:
    def __init__(self, vocabulary: int) -> None:
        self._random = random.Random(0)
        self._vocabulary = vocabulary

    def size(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def ids(self, least: int, most: int | None = None) -> Ids:
        size = self.size(least, most or least)
        return tuple(self._random.randrange(3, self._vocabulary) for _ in range(size))

    def shuffle(self, items: list[TokenSequences]) -> list[TokenSequences]:
        self._random.shuffle(items)
        return items


def _item(prompt: Ids, choices: tuple[Ids, ...]) -> TokenSequences:
    return TokenSequences(prompt, choices, tuple(map(len, choices)), False)


def news(num: int, vocabulary: int) -> list[TokenSequences]:
    """A head and fixed labels, as AG News has: nothing else is shared."""
    draw = _Draw(vocabulary)
    head, labels = draw.ids(38), ((5,), (6,), (7,), (8, 9, 10))
    return [_item(head + draw.ids(15, 80), labels) for _ in range(num)]


def yes_or_no(num: int, vocabulary: int) -> list[TokenSequences]:
    """Passages with 1 to 6 questions each, answered yes or no, as BoolQ has; `num` passages."""
    draw, items = _Draw(vocabulary), []
    for _ in range(num):
        passage = (2, *draw.ids(100, 300))
        items += [_item((*passage, 11, *draw.ids(8, 20), 12), ((5,), (6,))) for _ in range(draw.size(1, 6))]
    return draw.shuffle(items)


def reading(num: int, vocabulary: int) -> list[TokenSequences]:
    """Passages with 4 or 5 questions of 4 choices each, as RACE has; `num` passages."""
    draw, items = _Draw(vocabulary), []
    for _ in range(num):
        passage = (2, *draw.ids(200, 400))
        for _ in range(draw.size(4, 5)):
            choices = tuple(draw.ids(3, 12) for _ in range(4))
            items.append(_item((*passage, 11, *draw.ids(8, 20), 12), choices))
    return draw.shuffle(items)


def few_shot(num: int, vocabulary: int) -> list[TokenSequences]:
    """Three heads of 600 tokens that begin alike, with `num` items in all, answered by a letter, as MMLU has."""
    draw = _Draw(vocabulary)
    begin = (2, *draw.ids(9))
    heads = [begin + draw.ids(590) for _ in range(3)]
    return draw.shuffle([_item(heads[i % 3] + draw.ids(50, 110), ((5,), (6,), (7,), (8,))) for i in range(num)])


def endings(num: int, vocabulary: int) -> list[TokenSequences]:
    """Four long endings to each beginning, as HellaSwag has."""
    draw = _Draw(vocabulary)
    return [_item((2, *draw.ids(20, 60)), tuple(draw.ids(15, 40) for _ in range(4))) for _ in range(num)]


def gaps(num: int, vocabulary: int) -> list[TokenSequences]:
    """A sentence with either of two names in its gap, as WinoGrande has: contexts differ, what is scored does not."""
    draw, items = _Draw(vocabulary), []
    for _ in range(num):
        begin, context, scored = (2, *draw.ids(10, 20)), draw.ids(2, 6), draw.ids(3, 10)
        branches = tuple((name, *context, *scored) for name in draw.ids(2))
        items.append(TokenSequences(begin, branches, (len(scored),) * 2, False))
    return items


def contexts(num: int, vocabulary: int) -> list[TokenSequences]:
    """No prompt: each of two choices has a long context of its own, which another item may share."""
    draw, items = _Draw(vocabulary), []
    for _ in range(num // 2):
        first, second = draw.ids(40, 80), draw.ids(40, 80)
        for _ in range(2):
            scored = draw.ids(2, 5), draw.ids(2, 5)
            items.append(TokenSequences((), (first + scored[0], second + scored[1]), tuple(map(len, scored)), False))
    return draw.shuffle(items)


SHAPES: dict[str, tuple[Callable[[int, int], list[TokenSequences]], int]] = {
    "news": (news, 150),
    "yes_or_no": (yes_or_no, 30),
    "reading": (reading, 12),
    "few_shot": (few_shot, 180),
    "endings": (endings, 60),
    "gaps": (gaps, 100),
    "contexts": (contexts, 60),
}
