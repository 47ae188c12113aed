"""What a run's configuration adds to its other facts: solved examples, chat template, the cut, the rule it named.

Invariant: a setting that a run did not use is not told, so an ordinary run has no facts here.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """What a reader must know of `config` in manifest.json; its other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rule: str | None = None
    num_shots: int = 0
    shots_split: str = "train"
    shots_draw: str = "random"
    seed: int = 0
    chat_template: bool = False
    max_text_tokens: int | None = None

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of each setting that changed what the model read."""
        draw = "the first rows" if self.shots_draw == "first" else f"seed {self.seed}"
        shots = f"{self.num_shots:,}, from {self.shots_split}, {draw}" if self.num_shots else ""
        cut = "" if self.max_text_tokens is None else f"{self.max_text_tokens:,} tokens"
        found = [
            ("Solved examples", shots),
            ("Chat template", "yes" if self.chat_template else ""),
            ("Articles cut at", cut),
        ]
        return [(name, value) for name, value in found if value]


def read_settings(manifest: Mapping[str, Any]) -> Settings:
    """The settings of a run, from its manifest as it stands."""
    return Settings.model_validate(manifest.get("config", {}))
