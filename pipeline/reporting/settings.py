"""What a run's configuration adds to its other facts: solved examples, chat template, the cut.

Invariant: a setting that a run did not use is not told, so an ordinary run has no facts here.
"""

from pipeline.storing.manifest import Settings


def setting_facts(settings: Settings) -> list[tuple[str, str]]:
    """Name and value of each setting that changed what the model read."""
    draw = "the first rows" if settings.shots_draw == "first" else f"seed {settings.seed}"
    shots = f"{settings.num_shots:,}, from {settings.shots_split}, {draw}" if settings.num_shots else ""
    cut = "" if settings.max_text_tokens is None else f"{settings.max_text_tokens:,} tokens"
    found = [
        ("Solved examples", shots),
        ("Chat template", "yes" if settings.chat_template else ""),
        ("Articles cut at", cut),
    ]
    return [(name, value) for name, value in found if value]
