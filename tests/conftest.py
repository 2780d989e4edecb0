"""Fixtures shared by all rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi05_train.samples.card import SourceCard
from tests.synthetic import write_synthetic_world


@pytest.fixture(scope="session")
def synthetic_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, SourceCard]]:
    """Root folder (the cards' `shards` are relative to it) and the cards by name, one source of each kind."""
    root = tmp_path_factory.mktemp("synthetic_world")
    return root, write_synthetic_world(root)
