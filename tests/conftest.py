"""Fixtures shared by all rooms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pi05_train.samples.card import SourceCard
from tests.synthetic import write_synthetic_world


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' cache is not that of whoever runs them; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def synthetic_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, SourceCard]]:
    """Root folder (the cards' `shards` are relative to it) and the cards by name, one source of each kind."""
    root = tmp_path_factory.mktemp("synthetic_world")
    return root, write_synthetic_world(root)
