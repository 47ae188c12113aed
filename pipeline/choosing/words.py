"""What a choice came to, in words: what is named or left, what its figure is, what it cost and what it is about.

Invariant: the 95 % are said of the states of arms alone (`race`), never of a share or a difference that was seen on the
way; a share of the winner that may be relied on comes from items that took no part.
"""

import shlex
from collections.abc import Sequence

from pipeline.choosing.names import show_arm, show_candidates, show_name
from pipeline.choosing.race import BATCH
from pipeline.choosing.record import ArmRecord, ChoiceRecord
from pipeline.choosing.rows import behind_share, right_share
from pipeline.reporting.findings import Findings
from pipeline.reporting.formats import interval, num_points, percent, short_percent
from pipeline.storing.layout import CHOICE_RUN
from pipeline.wording import with_split

MAX_SOURCE = 120  # characters of a data set's name
MAX_NAMED = 5  # arms named in one sentence
SURE = "with 95 % confidence however often one looked"


def find_choice(record: ChoiceRecord, out: str) -> Findings:
    """What there is to say of a choice in the output `out`, the most important first."""
    verdict, words = _decided(record) if record.ending == "named" else _undecided(record)
    sentences = [
        *_fresh_lines(record),
        *_lines_of_left(record),
        *_advice_lines(record),
        _cost_line(record),
        *_about_lines(record),
        *_left_out_lines(record),
        *_caution_lines(record),
        *_command_lines(record, out),
    ]
    return Findings(verdict, words, sentences)


def count_words(number: int, noun: str) -> str:
    """Such as `1 item`, `1,150 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def margin_words(record: ChoiceRecord) -> str:
    return f"{record.within:g} point{'' if record.within == 1 else 's'}"


def offered_words(record: ChoiceRecord) -> str:
    """Such as `35 arms: 5 candidates under 7 rules`; the rules of one candidate may not do for another."""
    num_rules = len({arm.rule for arm in record.arms})
    each = "" if len(record.arms) == num_rules * len(record.candidates) else "up to "
    under = f"{count_words(len(record.candidates), 'candidate')} under {each}{count_words(num_rules, 'rule')}"
    return f"{count_words(len(record.arms), 'arm')}: {under}"


def source_words(record: ChoiceRecord) -> str:
    """Such as `fancyzhx/ag_news (test)`."""
    return show_name(with_split(record.dataset.name, record.dataset.split), MAX_SOURCE)


# The verdict


def _decided(record: ChoiceRecord) -> tuple[str, str]:
    name, num_arms = show_arm(record.leader, show_candidates(record)), len(record.arms)
    if num_arms == 1:
        return f"{name} is all that was offered", "there was nothing to choose among."
    after = f"after {_looked_words(record)}"
    num_others = len(record.left) - 1
    if record.of_these_alone and record.num_looked_at == record.items.num_items:
        level = f"; level with it: {count_words(num_others, 'other')}" if num_others else ""
        return f"{name} is the best of {num_arms:,} offered", f"{SURE}, {after}{level}."
    if not num_others:
        return f"{name} is the best of {num_arms:,} offered", f"{SURE}, {after}."
    other = "1 other is" if num_others == 1 else f"{num_others:,} others are"
    may = f"{other} not out and may be better, by less than {margin_words(record)}."
    return f"{name} is within {margin_words(record)} of the best of {num_arms:,} offered", f"{SURE}, {after}; {may}"


def _undecided(record: ChoiceRecord) -> tuple[str, str]:
    num_left, num_arms = len(record.left), len(record.arms)
    which = f"all {num_arms:,} that were offered" if num_left == num_arms else f"{num_left:,} of {num_arms:,}"
    verdict = f"Not decided, {which} are left"
    if not record.num_looked_at:
        first = f"the first {count_words(min(BATCH, record.items.num_items), 'item')} take under all candidates"
        return verdict, f"the budget is less than {first}, so nothing is known of any."
    looked, is_over = _looked_words(record), record.ending == "budget"
    words = f"the budget ends after {looked}" if is_over else f"after {looked} there are no more"
    words += "; each of them may be the best"
    if num_out := num_arms - num_left:
        others = "the other one is not" if num_out == 1 else f"the {num_out:,} others are not"
        words += f", and {others}, {SURE}"
    return verdict, f"{words}."


def _looked_words(record: ChoiceRecord) -> str:
    if record.num_looked_at == record.items.num_items:
        return "1 item" if record.num_looked_at == 1 else f"all {record.num_looked_at:,} items"
    return f"{record.num_looked_at:,} of {record.items.num_items:,} items"


# The sentences


def _lines_of_left(record: ChoiceRecord) -> list[str]:
    """Those that are not out beside the leader, which were all scored on the same items."""
    names, others = show_candidates(record), record.left[1:]
    if not others or not record.num_looked_at:
        return []
    named = [f"{show_arm(arm, names)} ({_behind_words(arm)})" for arm in others[:MAX_NAMED]]
    if len(others) > MAX_NAMED:
        named.append(f"{len(others) - MAX_NAMED:,} more")
    listed = _listed(named)
    if record.ending == "named":
        return [f"Still in beside it: {listed}."]
    leads = f"{show_arm(record.leader, names)} leads with {percent(right_share(record.leader))} right"
    return [f"These are left: {leads}, then {listed}."]


def _behind_words(arm: ArmRecord) -> str:
    behind = behind_share(arm)
    if not behind:
        return "level with it"
    return f"{num_points(abs(behind))} {'behind' if behind > 0 else 'ahead'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _advice_lines(record: ChoiceRecord) -> list[str]:
    """What would decide it: to look on is no new chance of a mistake, which is what the bound is for."""
    if record.ending == "named":
        return []
    if record.ending == "budget":
        return [
            "The same command with a larger --budget goes on from here, and the 95 % still hold; "
            "a wider --within asks for less."
        ]
    if record.of_these_alone:
        return ["A wider --within asks for less."]
    return [
        "More items or a wider --within may decide it; --these-alone asks which is best on these items alone, "
        "and needs no more than they are."
    ]


def _fresh_lines(record: ChoiceRecord) -> list[str]:
    """The leader's figure from items that took no part, or why there is none."""
    if fresh := record.fresh:
        share = percent(fresh.num_right / fresh.num_items)
        who = "it" if record.ending == "named" else show_arm(record.leader, show_candidates(record))
        items = f"{count_words(fresh.num_items, 'fresh item')} that took no part in the choice"
        return [f"On {items} {who} gets {share} right ({interval(fresh.low, fresh.high)})."]
    if record.ending != "named":
        return []
    why = "the budget has no room for it"
    if record.num_looked_at == record.items.num_items:
        why = "no item is left that took no part in the choice"
    return [f"There is no figure of it from fresh items: {why}."]


def _cost_line(record: ChoiceRecord) -> str:
    parts = [f"It took {count_words(record.num_forwards, 'forward')} (a prompt over an item each)"]
    if record.num_all:
        share = short_percent(record.num_forwards / record.num_all)
        under = "the candidate" if len(record.candidates) == 1 else f"all {len(record.candidates):,} candidates"
        items = "1 item" if record.items.num_items == 1 else f"all {record.items.num_items:,} items"
        parts.append(f"{share} of what {items} under {under} would take")
    if record.num_fresh_forwards:
        parts.append(f"{record.num_fresh_forwards:,} of them for the figure from fresh items")
    if record.num_scored < record.num_forwards:
        which = f"{record.num_scored:,}" if record.num_scored else "none"
        parts.append(f"{which} of them had to be made, as the others were stored or repeat")
    return f"{'; '.join([', '.join(parts[:2]), *parts[2:]])}."


def _about_lines(record: ChoiceRecord) -> list[str]:
    num_items = count_words(record.items.num_items, "item")
    if len(record.arms) == 1:
        return []
    if record.of_these_alone:
        if record.items.num_items == 1:
            return ["The 95 % are about this item alone, not about others like it."]
        return [f"The 95 % are about these {num_items} alone, not about others like them."]
    sample = f"{num_items} {'is' if record.items.num_items == 1 else 'are'} a sample"
    return [f"The 95 % are about distinct texts like these, of which the {sample}, and not about these alone."]


def _left_out_lines(record: ChoiceRecord) -> list[str]:
    items = record.items
    parts = [
        (items.num_rejected, f"{count_words(items.num_rejected, 'broken row')}"),
        (items.num_without_gold, f"{count_words(items.num_without_gold, 'row')} without a gold label"),
        (items.num_disputed, f"{count_words(items.num_disputed, 'text')} with different gold labels in different rows"),
        (items.num_repeats, f"{count_words(items.num_repeats, 'row')} with a text that was there before"),
    ]
    found = [words for number, words in parts if number]
    counts = " Each text counts once here; a run counts its rows." if items.num_repeats else ""
    return [f"Left out: {_listed(found)}.{counts}"] if found else []


def _caution_lines(record: ChoiceRecord) -> list[str]:
    """What the figures of the race are not."""
    share = right_share(record.leader)
    if len(record.arms) == 1 or not share:
        return []
    return [
        "Differences are of the items that both were scored on and carry no interval: the 95 % are of what is named, "
        f"in or out. The {percent(share)} that the leader has right in the race are flattered by its being picked."
    ]


def _command_lines(record: ChoiceRecord, out: str) -> list[str]:
    if record.ending != "named":
        return []
    file, limit = f"{out}/{CHOICE_RUN}", record.config.get("run", {}).get("limit")
    which = f"the first {count_words(limit, 'row')}" if limit else "all items"
    if "://" in out:
        return [f"To score {which} with it, fetch {file} and give it to labelscore run."]
    return [f"To score {which} with it: labelscore run {shlex.quote(file)}"]
