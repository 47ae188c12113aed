"""What was run, on what, when and with what, as a report and a comparison of two runs tell it.

Invariant: plain text; a setting that a run did not use has no fact, so an ordinary run has none of them.
"""

from datetime import datetime

from pipeline.reporting.formats import count_of, parameters
from pipeline.reporting.places import are_tasks
from pipeline.reporting.report import Report
from pipeline.storing.manifest import Manifest, PromptRecord, Settings

NONE = "none"
LIBRARIES = {"torch": "torch", "transformers": "transformers", "lm_eval": "lm-evaluation-harness"}  # can move a score
MAX_TASKS = 4  # named among the facts


def short_facts(report: Report) -> list[tuple[str, str]]:
    """What was run on what, as far as a reader decides by it: name and value of each fact that is known."""
    manifest, data = report.manifest, report.manifest.dataset
    facts = [
        ("Tasks", _describe_tasks(report)) if report.has_tasks else ("Data set", f"{data.name}, split {data.split}"),
        ("Items", _describe_items(report)),
        ("Model", manifest.model.name),
        *setting_facts(manifest.config),
        ("Finished", f"{datetime.fromisoformat(manifest.finished):%Y-%m-%d %H:%M %Z}".strip()),
    ]
    return [(name, value) for name, value in facts if value]


def other_facts(report: Report) -> list[tuple[str, str]]:
    """The rest, for whoever wants to make the figures again."""
    manifest = report.manifest
    data, model = manifest.dataset, manifest.model
    size = f"{parameters(model.num_parameters)}, " if model.num_parameters else ""
    facts = [
        ("Size and type", f"{size}{model.dtype} on {model.device}"),
        ("Rule", report.headline_rule),
        ("lm-evaluation-harness", manifest.libraries.get("lm_eval", "") if report.has_tasks else ""),
        ("Scored in this run", _describe_scoring(manifest)),
        ("Model revision", model.revision),
        ("Data revision", data.revision or ""),
        ("Run", manifest.run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _describe_tasks(report: Report) -> str:
    names = [prompt.name for prompt in report.manifest.prompts]
    more = f" and {len(names) - MAX_TASKS:,} more" if len(names) > MAX_TASKS else ""
    return ", ".join(names[:MAX_TASKS]) + more


def _describe_items(report: Report) -> str:
    data, num_without = report.manifest.dataset, report.manifest.dataset.num_items - report.num_gold
    parts = [f"{data.num_items:,}"]
    if data.num_rows is not None and data.num_rows != data.num_items:
        parts = [f"{count_of(data.num_items, data.num_rows)} rows"]
    if data.num_rejected:
        parts.append(f"{data.num_rejected:,} rejected")
    if report.has_gold and num_without:
        parts.append(f"{num_without:,} without a gold label")
    return ", ".join(parts)


def _describe_scoring(manifest: Manifest) -> str:
    num_scored, seconds = manifest.counts.scored, manifest.scoring.seconds
    if not num_scored or not seconds:
        return "nothing: all scores were stored"
    rate = num_scored / seconds
    what = "items" if are_tasks(manifest.prompts) else "texts x prompts"
    return f"{num_scored:,} {what} in {seconds:,.1f} s ({rate:,.1f} a second)"


def setting_facts(settings: Settings) -> list[tuple[str, str]]:
    """Name and value of each setting that changed what the model read; empty for an ordinary run."""
    draw = "the first rows" if settings.shots_draw == "first" else f"seed {settings.seed}"
    turns = ", as turns" if settings.shots_as_turns else ""
    how = f"from {settings.shots_split}, {draw}{turns}"
    if settings.task:
        how = f"as each task draws them, seed {settings.seed}"
    found = {
        "Solved examples": f"{settings.num_shots:,}, {how}" if settings.num_shots else "",
        "Rows kept": ", ".join(f"{column} = {value}" for column, value in settings.where.items()),
        "Chat template": _chat_facts(settings) if settings.chat_template else "",
        "Texts cut at": f"{settings.max_text_tokens:,} tokens" if settings.max_text_tokens is not None else "",
    }
    return [(name, value) for name, value in found.items() if value]


def _chat_facts(settings: Settings) -> str:
    """That a chat template was used, with its variables and how the answer begins."""
    given = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.chat.items()
    ]
    dated = [f"today is {settings.chat_date}"] if settings.chat_date else []
    begun = [f'the answer begins "{settings.chat_answer}"'] if settings.chat_answer else []
    return ", ".join(["yes", *given, *dated, *begun])


def run_differences(a: Manifest, b: Manifest) -> list[tuple[str, str, str]]:
    """Model, data, settings and prompts (or tasks) of the same name, as far as two runs differ, and in what."""
    shared = {prompt.name for prompt in a.prompts} & {prompt.name for prompt in b.prompts}
    facts_a, facts_b = (_facts(manifest, shared) for manifest in (a, b))
    found = ((what, facts_a.get(what, NONE), facts_b.get(what, NONE)) for what in facts_a | facts_b)
    return [(what, of_a, of_b) for what, of_a, of_b in found if of_a != of_b]


def _facts(manifest: Manifest, shared: set[str]) -> dict[str, str]:
    data, model = manifest.dataset, manifest.model
    facts = {
        "model": model.name,
        "model revision": model.revision,
        "dtype": model.dtype,
        "device": model.device,
        "data set": data.name,
        "split": data.split,
        "data revision": data.revision or NONE,
        **{name.lower(): value for name, value in setting_facts(manifest.config)},
        "rule of the run": manifest.config.rule or manifest.headline_rule,
        "tasks" if are_tasks(manifest.prompts) else "prompts": ", ".join(prompt.name for prompt in manifest.prompts),
        "labelscore": manifest.labelscore,
        **{called: manifest.libraries.get(name, NONE) for name, called in LIBRARIES.items()},
    }
    for prompt in (prompt for prompt in manifest.prompts if prompt.name in shared):
        facts[f"template of '{prompt.name}'"] = prompt.template
        facts[f"boundary of '{prompt.name}'"] = prompt.boundary
        facts[f"label words of '{prompt.name}'"] = _describe_words(prompt)
        if prompt.task is not None:
            facts[f"version of '{prompt.name}'"] = prompt.task.version
            drawn = "" if prompt.task.seed is None else f", seed {prompt.task.seed}"
            facts[f"solved examples of '{prompt.name}'"] = f"{prompt.task.num_shots}{drawn}"
    return facts


def _describe_words(prompt: PromptRecord) -> str:
    if prompt.has_choices:
        return describe_choices(prompt)
    return ", ".join(f"{label.name}: '{label.words}'" for label in sorted(prompt.labels, key=lambda label: label.name))


def describe_choices(prompt: PromptRecord) -> str:
    """Where the choices of a prompt's items come from, and how one is written after it."""
    columns = ", ".join(f"'{column}'" for column in prompt.choices or ())
    return f"from {columns}" + ("" if prompt.choice is None else f", each written as '{prompt.choice}'")
