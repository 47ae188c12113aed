"""A tiny Llama in a folder, for whoever reads models."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.reading.tiny import save_llama


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("kept") / "llama")


@pytest.fixture
def llama(kept: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(kept, tmp_path / "llama"))
