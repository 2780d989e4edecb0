from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from pi05_train.convert.formats import FORMATS, opener
from pi05_train.errors import UserError

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "convert.md"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_opens_a_path_with_options_and_is_in_the_guide(name: str) -> None:
    assert list(inspect.signature(opener(name)).parameters) == ["path", "options"]
    assert f"| `{name}` |" in GUIDE.read_text()


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="format: got 'zarr', expected one of lerobot, rlds"):
        opener("zarr")
