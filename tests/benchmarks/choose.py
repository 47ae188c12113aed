"""Choosing a prompt and rule with an error bound: how often the race errs and what it costs, on real scores.

Invariant: the scores are those of a real `labelscore run`, the race is the shipped one, and the section is written only
where it errs no more often than its bound allows.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.choose_report import MARGIN, costs, equals, errors, grid, others
from tests.benchmarks.choose_scores import OWN_MODEL, Scored, prompt_names, read, score
from tests.benchmarks.results import RESULTS, command_line, write_section

TITLE = "Choosing a prompt and rule"
COMMAND = "python -m tests.benchmarks.choose"
NUM_BUILT_IN = 5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=OWN_MODEL, help="what `labelscore run --model` takes")
    parser.add_argument("--items", type=int, default=7_600)
    parser.add_argument("--prompts", type=int, default=20, help="the first so many of choose.toml")
    parser.add_argument("--repetitions", type=int, default=1_000, help="races of a kind; what is slow gets fewer")
    parser.add_argument("--out", type=Path, help="keep the run's output here; what it holds is not scored again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        out = (options.out or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out").absolute()
        out.parent.mkdir(parents=True, exist_ok=True)
        prompts = prompt_names()[: options.prompts]
        done = score(options.model, options.items, prompts, out)
        scored = read(out, prompts)
    name = options.model = done.manifest["model"]["name"]  # of a folder its name
    title = TITLE if name == OWN_MODEL else f"{TITLE}, {name}"
    body = "\n\n".join(sections(scored, options.repetitions))
    write_section(title, command_line(COMMAND, parser, options), body, options.results)


def sections(scored: Scored, repetitions: int) -> Iterator[str]:
    sets = [scored.of_first(NUM_BUILT_IN), scored] if scored.num_prompts > NUM_BUILT_IN else [scored]
    yield facts(scored)
    yield errors(sets, repetitions)
    yield equals(sets[0], repetitions)
    yield costs(sets, max(1, repetitions // 5))
    yield grid(scored, max(1, repetitions // 10))
    yield from others(sets, max(1, repetitions // 4))


def facts(scored: Scored) -> str:
    """What there is to choose from, and how near the best its rivals are."""
    accuracies = scored.accuracies
    best = int(accuracies.argmax())
    near = int((accuracies > accuracies[best] - MARGIN).sum())
    return (
        f"{scored.num_items:,} items, {scored.num_prompts} prompts (`choose.toml`) under every rule that looks at one "
        f"item alone, {len(accuracies)} arms, accuracies {100 * accuracies.min():.1f} to {100 * accuracies.max():.1f} "
        f"%. The best is {scored.names[best]}. Less than {100 * MARGIN:g} points below it, itself included: {near}."
    )


if __name__ == "__main__":
    main()
