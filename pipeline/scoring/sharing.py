"""What parts of items have in common, forwarded once: prefixes that many go on from, and trees that hold a few.

In alphabetical order prompts that begin alike are neighbours. What begins too many of them for one tree is kept as a
prefix (a few-shot head); few of them become one tree (a passage with its questions).

Invariant: each part is in one tree; which one depends on the items and the budget alone. Sections come in alphabetical
order of their prefixes, so that going from one to the next forwards no token of a prefix twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise

from pipeline.scoring.packed import TokenTree, make_tree
from pipeline.scoring.parts import ItemPart
from pipeline.scoring.strings import Ids, num_common

# What so large a share of the parts begins with is a prefix however short; the others leave it where they depart.
_NEARLY_ALL = 0.9
# Other prefixes save at least these shares, of a batch and of what follows them, as each breaks a batch off.
_MIN_SAVED_BATCHES, _MIN_SAVED = 1 / 16, 0.05
# Attention within a tree is dense: its cells grow with the square of its width.
_MAX_WIDTH = 2048
# A part joins a tree where each token saved makes up for at most so many more cells. By the operations of a layer a
# token is worth 6 cells or more for each hidden unit. Measured on a model of 160: up to here nothing is lost.
_CELLS_PER_TOKEN = 2048


@dataclass(slots=True)
class _Section:
    """A prefix and the parts that go on from it or, at a lower depth, from a beginning of it."""

    prefix: Ids
    has_children: bool = False
    places: list[int] = field(default_factory=list)


class InOrder:
    """Parts in alphabetical order, and what each has in common with the one before it."""

    def __init__(self, parts: Sequence[ItemPart], *, notebook: bool) -> None:
        self.parts, self.notebook = _sort(parts), notebook
        self.common = [0]  # tokens of prompts
        self.common_labels = [0]  # forwarded tokens that labels begin with, after one prompt
        num_last = 0 if notebook else 1  # tokens of a branch that are not forwarded
        for left, right in pairwise(self.parts):
            self.common.append(num_common(left.prompt, right.prompt, self.common[-1]))
            self.common_labels.append(_num_nodes_shared(left, right, num_last) if left.prompt == right.prompt else 0)
        # At most: labels may begin alike.
        self.num_nodes = [sum(map(len, part.branches)) - num_last * len(part.branches) for part in self.parts]
        self.num_items = len({part.index for part in parts})
        new = (self.width(place, depth) for place, depth in enumerate(self.common))
        self._num_before = [0, *accumulate(new)]  # of each place: tokens of those before it

    def width(self, place: int, depth: int) -> int:
        """The tokens after `depth` of the part at `place`, at most."""
        return len(self.parts[place].prompt) - depth + self.num_nodes[place]

    def width_of_all(self, first: int, last: int, depth: int) -> int:
        """The tokens after `depth` of the parts [first, last) in one tree, at most."""
        return self.width(first, depth) + self._num_before[last] - self._num_before[first + 1]


def _num_nodes_shared(left: ItemPart, right: ItemPart, num_last: int) -> int:
    """How many tokens their first branches have in common, of those that are forwarded in both."""
    one, other = min(left.branches), min(right.branches)
    return num_common(one[: len(one) - num_last], other[: len(other) - num_last])


def _sort(parts: Sequence[ItemPart]) -> list[ItemPart]:
    """In alphabetical order; a long head that all have is not compared again and again."""
    head = num_common(min(part.prompt for part in parts), max(part.prompt for part in parts))
    return sorted(parts, key=lambda part: (part.prompt[head:], min(part.branches)))


def make_trees(ordered: InOrder, batch_tokens: int) -> list[TokenTree]:
    """The trees of all parts, none larger than a batch where it can be: section by section, longest first in each."""
    sections, depths = _find_sections(ordered, batch_tokens)
    trees = []
    for number, section in enumerate(sections):
        for places in _find_families(ordered, section.places, depths, batch_tokens):
            family = tuple(ordered.parts[place] for place in places)
            trees.append(make_tree(family, section.prefix, depths[places[0]], number, notebook=ordered.notebook))
    return sorted(trees, key=lambda tree: (*tree.order, tree.parts[0].index))


# --- what many begin with -------------------------------------------------------------------------------------------


def _find_sections(ordered: InOrder, batch_tokens: int) -> tuple[list[_Section], list[int]]:
    """The prefixes with their parts, and how many tokens of its section's prefix each part sees."""
    root = _Section(())
    sections, depths = [root], [0] * len(ordered.parts)
    section_of = [root] * len(ordered.parts)
    waiting = [(0, len(ordered.parts), root)]
    while waiting:  # not recursive: prompts may go on from each other thousands of times
        first, last, section = waiting.pop()
        if last - first < 2:
            continue
        shared = min(ordered.common[first + 1 : last])
        is_nearly_all = ordered.num_items > 1 and last - first >= _NEARLY_ALL * len(ordered.parts)
        width = ordered.width_of_all(first, last, len(section.prefix))
        if not is_nearly_all and width <= min(_MAX_WIDTH, batch_tokens):
            continue  # a tree takes all of it
        num_saved = (shared - len(section.prefix)) * (last - first - 1)
        pays = num_saved >= _MIN_SAVED_BATCHES * batch_tokens and num_saved >= _MIN_SAVED * width
        if num_saved and (is_nearly_all or pays):
            section.has_children = True
            section = _Section(ordered.parts[first].prompt[:shared])
            sections.append(section)
            for place in range(first, last):
                section_of[place] = section
                depths[place] = min(shared, len(ordered.parts[place].prompt) - 1)  # a token of its own is left
        begins = [first, *(place for place in range(first + 1, last) if ordered.common[place] == shared), last]
        waiting += [(begin, end, section) for begin, end in pairwise(begins)]
    return _gather(sections, section_of), depths


def _gather(sections: list[_Section], section_of: list[_Section]) -> list[_Section]:
    """The sections that no other goes on from, with all parts: what leaves a prefix early goes along with one of them.

    In alphabetical order each prefix comes right before those that go on from it.
    """
    sections = sorted(sections, key=lambda section: section.prefix)
    following = {id(section): right for section, right in pairwise(sections)}
    for place, section in enumerate(section_of):
        while section.has_children:
            section = following[id(section)]
        section.places.append(place)
    return [section for section in sections if section.places]


# --- what a few begin with ------------------------------------------------------------------------------------------


def _find_families(ordered: InOrder, places: list[int], depths: list[int], batch_tokens: int) -> list[list[int]]:
    """Neighbours that are better off in one tree, within a batch."""
    families = [[places[0]]]
    width = ordered.width(places[0], depths[places[0]])  # of the last family
    for place in places[1:]:
        depth, last = depths[place], families[-1][-1]
        num_saved = ordered.common[place] + ordered.common_labels[place] - depth
        alone = ordered.width(place, depth)
        together = width + alone - num_saved
        is_next = place == last + 1 and depth == depths[last] and num_saved > 0
        pays = together**2 - width**2 - alone**2 <= num_saved * _CELLS_PER_TOKEN
        if is_next and pays and together <= min(_MAX_WIDTH, batch_tokens):
            families[-1].append(place)
            width = together
        else:
            families.append([place])
            width = alone
    return families


# --- the least that must be forwarded -------------------------------------------------------------------------------


def count_distinct(ordered: InOrder) -> int:
    """The nodes of the trie over all sequences of all items, without the last token of a label that nothing needs."""
    parts, common, notebook = ordered.parts, ordered.common, ordered.notebook
    num_distinct = first = 0
    while first < len(parts):
        prompt = parts[first].prompt
        end = first + 1
        while end < len(parts) and common[end] >= len(prompt):  # it begins with the prompt
            end += 1
        num_distinct += len(prompt) - common[first]
        if end == first + 1:
            num_distinct += _count_paths(parts[first].branches, notebook)
        else:  # branches meet those of prompts that go on from this one, and of no others
            rest = [(part.prompt[len(prompt) :], part.branches) for part in parts[first:end]]
            num_distinct += _count_paths(tuple(way + branch for way, branches in rest for branch in branches), notebook)
        first = end
    return num_distinct


@lru_cache(maxsize=64)
def _count_paths(branches: tuple[Ids, ...], notebook: bool) -> int:
    """The distinct beginnings of branches; cached, because items mostly have the same labels."""
    paths = sorted({branch if notebook else branch[:-1] for branch in branches})
    return sum(map(len, paths)) - sum(num_common(left, right) for left, right in pairwise(paths))
