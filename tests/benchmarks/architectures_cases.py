"""Which cases the sweep has for each model type.

Invariant: a case is a name, what is asked of the configuration, and a dtype; it is left out where it changes nothing.
"""

from dataclasses import dataclass

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.benchmarks.architectures_shrink import Variant, tiny_config


@dataclass(frozen=True, slots=True)
class Case:
    variant: Variant
    dtype: str = "float32"


CASES = {
    "float32": Case(Variant()),
    "bfloat16": Case(Variant(), "bfloat16"),
    "wide window": Case(Variant(window=100)),
    "beyond limits": Case(Variant(limited=True)),
    "longrope": Case(Variant(rope="longrope")),
    "dynamic": Case(Variant(rope="dynamic")),
}
_FAMILIES = {  # with these positions: those that have checkpoints with them, and some that allow them
    "longrope": ("llama", "phi3", "phimoe", "minicpm3", "qwen2", "mistral"),
    "dynamic": ("llama", "qwen2", "mistral", "gemma", "gpt_neox"),
}


def list_cases(names: list[str] | None, cases: list[str]) -> list[tuple[str, str]]:
    """(model type, case), case by case; without those that change nothing about a model."""
    return [
        (name, case)
        for case in cases
        for name in names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if name in _FAMILIES.get(case, (name,)) and _changes(name, CASES[case].variant)
    ]


def _changes(name: str, variant: Variant) -> bool:
    """Whether the variant makes another configuration than the plain small one."""
    if variant == Variant():
        return True
    try:
        return tiny_config(name, variant).to_dict() != tiny_config(name, Variant()).to_dict()
    except Exception:  # whatever the class raises: the plain case tells it
        return False
