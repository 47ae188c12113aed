"""A model that was found: where it lies, and what it is.

Invariant: two models with equal `weights`, `tokenizer`, `dtype`, `adapter` and `fix` give the same scores.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.reading.adapter import Adapter


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that is on this machine, and its identity. Making one loads no weights."""

    name: str  # hub id, or the directory's name
    path: Path  # directory with config and weights, of the base where there is an adapter; a GGUF is a file
    revision: str  # hub commit, or "sha256:" and 16 digits of the weights hash
    weights: str  # identity for fingerprints: the weights hash, or id@commit; of a GGUF always its hash
    tokenizer: str  # sha256 over the tokenizer's files
    device: str
    dtype: str
    context_tokens: int
    trust_remote_code: bool
    fix: str | None = None  # what moved the scores of such models: those of before are not used again
    adapter: Adapter | None = None
    tokenizer_path: Path | None = None  # its directory where it is not that of the weights
    quantised: str | None = None  # how its files keep the weights in few bits
    dtype_note: str | None = None  # why it is scored in another dtype than a person may expect

    @property
    def weights_dtype(self) -> str:
        """The dtype to load its weights in: to FP8 they are rounded from there (pipeline/scoring/fp8.py)."""
        return "bfloat16" if self.dtype == "fp8" else self.dtype
