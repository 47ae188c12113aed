"""What differs between two runs, from their manifests: whoever compares their figures must know what was changed.

Invariant: plain text; a fact that both runs share is left out.
"""

from typing import NamedTuple

from pipeline.analysis import Run
from pipeline.reporting.run_facts import setting_facts
from pipeline.storing.manifest import Manifest, PromptRecord

NONE = "none"
LIBRARIES = ("torch", "transformers")  # those that can move a score


class Difference(NamedTuple):
    """One fact of two runs, and its value in each."""

    what: str
    a: str
    b: str


def run_differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """Model, data, settings and prompts of the same name, as far as they differ."""
    shared = {prompt.name for prompt in a.manifest.prompts} & {prompt.name for prompt in b.manifest.prompts}
    facts_a, facts_b = (_facts(run.manifest, shared) for run in (a, b))
    found = (Difference(what, facts_a.get(what, NONE), facts_b.get(what, NONE)) for what in facts_a | facts_b)
    return tuple(difference for difference in found if difference.a != difference.b)


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
        "prompts": ", ".join(prompt.name for prompt in manifest.prompts),
        "labelscore": manifest.labelscore,
        **{name: manifest.libraries.get(name, NONE) for name in LIBRARIES},
    }
    common = [prompt for prompt in manifest.prompts if prompt.name in shared]
    return facts | {what: value for prompt in common for what, value in _prompt(prompt).items()}


def _prompt(prompt: PromptRecord) -> dict[str, str]:
    words = ", ".join(f"{label.name}: '{label.words}'" for label in sorted(prompt.labels, key=lambda label: label.name))
    return {
        f"template of '{prompt.name}'": prompt.template,
        f"boundary of '{prompt.name}'": prompt.boundary,
        f"label words of '{prompt.name}'": words,
    }
