"""The main job on real input: the whole AG News test split with five prompts, every rule, and what that says.

Invariant: the counts on the first 400 rows are held against an independent count of correct predictions, where there is
one of the model; the section is written only where they agree (with fewer than 400 rows nothing can be held against
them). What it says of the figures is made from them, and no speed is told of what an earlier call has scored.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis import load_run
from pipeline.bundled import MODELS
from pipeline.reporting.agreement import AgreementCounter, Arm
from pipeline.reporting.comparisons import all_pairs, compare_pairs
from pipeline.storing.layout import MARKDOWN, METRICS
from tests.benchmarks import inputs
from tests.benchmarks.command import CommandRun, run_labelscore
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "The main job on the whole AG News test split"
COMMAND = "python -m tests.benchmarks.main_job"
OWN_MODEL = "agnews-tiny-gemma"  # in the shared folder
PROMPTS = ("topic", "topic-science", "detailed", "described", "answer")
RULE = "sum"
COUNTED_ITEMS = 400
NOTEBOOK_LOSS = 22  # points, of 50 items with Gemma-2B: 68 % with `topic`, 46 % with `topic-science`


class Counted(NamedTuple):
    """Right of the first 400 rows in float32 without truncation, by prompt and rule, counted independently.

    `margin`: how many items apart the counts may be.
    """

    right: Mapping[tuple[str, str], int]
    margin: int


def _counted(*right: int, margin: int, **others: int) -> Counted:
    under_sum = {(prompt, RULE): count for prompt, count in zip(PROMPTS, right, strict=True)}
    return Counted(under_sum | {("answer", rule): count for rule, count in others.items()}, margin)


COUNTED = {
    OWN_MODEL: _counted(301, 271, 302, 103, 333, margin=1),
    # By transformers' own tokenizer for the GGUF, which does not take digits one by one as the model's does. That
    # changes the ids of one of these rows, and no prediction.
    "smollm2": _counted(219, 238, 203, 187, 237, mean_token=270, margin=1),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=OWN_MODEL, help="what `labelscore run --model` takes")
    parser.add_argument("--items", type=int, default=7_600)
    parser.add_argument(
        "--out", type=Path, help="keep the run's output here; what it already holds is not scored again"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        out = (options.out or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out").absolute()
        out.parent.mkdir(parents=True, exist_ok=True)
        done = run_job(options.model, options.items, out)
        run = load_run(out)
        predictions = run.predictions.select("item_id", "prompt", "rule", "correct").collect()
        metrics = pl.read_parquet(run.folder / METRICS).filter(metric="accuracy")
    name = options.model = done.manifest["model"]["name"]  # of a folder its name
    compared = compare_prompts(predictions, PROMPTS)
    body = [_facts(done), *held(predictions, name, options.items), _accuracies(metrics, predictions)]
    body += [f"What the report says first (rule `{RULE}`):", verdict(run.folder), conclude(compared, metrics)]
    title = TITLE if name == OWN_MODEL else f"{TITLE}, {name}"
    write_section(title, command_line(COMMAND, parser, options), "\n\n".join(body), options.results)


def compare_prompts(predictions: pl.DataFrame, prompts: Sequence[str]) -> pl.DataFrame:
    """All pairs of these prompts under RULE, as in the report; no text stands in this split twice."""
    own = predictions.filter(rule=RULE).sort("item_id")
    arms = [Arm(prompt, RULE) for prompt in prompts]
    right = np.stack([own.filter(prompt=prompt)["correct"].to_numpy() for prompt in prompts])
    counter = AgreementCounter(arms)
    counter.add(right, np.ones(right.shape[1], np.int32), np.arange(right.shape[1], dtype=np.uint64))
    return compare_pairs(all_pairs(counter.finish(), arms), len(arms) * (len(arms) - 1) // 2)


def verdict(folder: Path) -> str:
    """The headline and the sentences below it, as they stand in the run's report.md."""
    summary = (folder / MARKDOWN).read_text(encoding="utf-8").partition("## Summary\n\n")[2]
    headline, sentences = summary.split("\n\n")[:2]
    return "\n".join([f"- {headline}", sentences])


def run_job(model: str, num_items: int, out: Path) -> CommandRun:
    """`labelscore run` over the first rows with all five prompts."""
    folder = inputs.shared_folder()
    given = folder / "models" / OWN_MODEL if model == OWN_MODEL else Path(model)
    others = [option for prompt in PROMPTS[1:] for option in ("--prompt", prompt)]
    is_name = model in MODELS or not given.exists()
    found = model if is_name else given.absolute()  # the run is started in the project's root
    data = folder / "data/ag_news_test.parquet"
    return run_labelscore(data, found, PROMPTS[0], out, *others, "--limit", str(num_items))


def _facts(done: CommandRun) -> str:
    """What was scored by what, and how fast, as far as this call did it."""
    manifest = done.manifest
    model, counts, rate = manifest["model"], manifest["counts"], manifest["scoring"]["items_per_second"]
    size = f"{model['num_parameters'] / 1e6:,.1f} M parameters, {model['dtype']}"
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in manifest["timings"].items())
    if counts["scored"]:
        speed = f"{counts['scored']:,} texts x prompts at **{number(rate)} items/s**"
        if counts["reused"]:
            speed = f"this call scored {speed}; {counts['reused']:,} were stored before, and are in none of its times"
    else:
        speed = f"all {counts['reused']:,} texts x prompts were stored before, and this call scored none of them"
    return (
        f"{counts['items']:,} items, {model['name']} ({size}), {len(PROMPTS)} prompts: {speed}; {steps}; the whole "
        f"command {done.seconds:.0f} s."
    )


def held(predictions: pl.DataFrame, model: str, num_items: int) -> list[str]:
    """A table of right predictions beside those counted independently; nothing where there are none to hold.

    Raises SystemExit where they are too far apart.
    """
    counted = COUNTED.get(model)
    if counted is None or num_items < COUNTED_ITEMS:
        return []
    rows = []
    for (prompt, rule), expected in counted.right.items():
        found = predictions.filter(pl.col("item_id") < COUNTED_ITEMS, prompt=prompt, rule=rule)["correct"].sum()
        if abs(found - expected) > counted.margin:
            raise SystemExit(f"{prompt}, {rule}: {found} of the first 400 right, counted independently {expected}")
        rows.append([f"`{prompt}`", f"`{rule}`", found, expected])
    words = f"The counts may be {counted.margin} apart."
    return [table(["prompt", "rule", "right of the first 400", "counted independently"], rows), words]


def _accuracies(metrics: pl.DataFrame, predictions: pl.DataFrame) -> str:
    """Prompts by rules: accuracy in percent with its interval, the best of each prompt in bold."""
    rules = predictions["rule"].unique(maintain_order=True).to_list()
    rows = []
    for prompt in PROMPTS:
        found = {row["rule"]: row for row in metrics.filter(prompt=prompt).iter_rows(named=True)}
        best = max(rules, key=lambda rule: found[rule]["value"])
        rows.append([f"`{prompt}`", *(_percent(found[rule], is_best=rule == best) for rule in rules)])
    words = (
        f"Accuracy in percent with its 95 % interval, {metrics['n'].max():,} items; the best of a prompt, chosen on "
        "these very items, in bold:"
    )
    return f"{words}\n\n{table(['prompt', *(f'`{rule}`' for rule in rules)], rows)}"


def _percent(row: dict[str, Any], *, is_best: bool) -> str:
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    return f"{f'**{value}**' if is_best else value} ({low} to {high})"


def conclude(compared: pl.DataFrame, metrics: pl.DataFrame) -> str:
    """What the figures say of the notebook's conclusion, which was of the words "Science" and "Sci/Tech"."""
    (row,) = compared.filter(prompt_a="topic", prompt_b="topic-science").iter_rows(named=True)
    gain, low, high = -100 * row["difference"], -100 * row["high"], -100 * row["low"]
    done = "changes nothing" if gain == 0 else f"{'gains' if gain > 0 else 'loses'} {abs(gain):.1f} points"
    if not row["established"]:
        verdict = "that it costs or gains anything with this model is not established"
    elif gain > 0:
        verdict = "with this model the notebook's conclusion is wrong"
    else:
        same = low <= -NOTEBOOK_LOSS <= high
        verdict = (
            f"it costs here, too, {'as much' if same else 'but not as much' if low > -NOTEBOOK_LOSS else 'and more'}"
        )
    sentence = (
        f'The notebook saw "Science" instead of "Sci/Tech" lose {NOTEBOOK_LOSS} points (Gemma-2B, 50 items). Here it '
        f"{done} (95 % interval {low:+.1f} to {high:+.1f}, {row['n']:,} items): {verdict}."
    )
    return f"{sentence} {_under_other_rules(metrics)}"


def _under_other_rules(metrics: pl.DataFrame) -> str:
    """Between what the same difference lies under the other rules."""
    before, after = (dict(metrics.filter(prompt=prompt).select("rule", "value").rows()) for prompt in PROMPTS[:2])
    gains = {rule: 100 * (after[rule] - before[rule]) for rule in before if rule != RULE}
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    turns = ": its sign depends on the rule" if gains[least] < 0 < gains[most] else ""
    return (
        f"Under the other rules it is {gains[least]:+.1f} (`{least}`) to {gains[most]:+.1f} points (`{most}`){turns}."
    )


if __name__ == "__main__":
    main()
