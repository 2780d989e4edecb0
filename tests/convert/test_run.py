from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pi05_train.convert.run import convert
from pi05_train.convert.source import Options
from tests.convert.fake_source import open_source

OPTIONS = Options("fake", "CE", horizon=4, image_size=64, heldout=0.3)


def written(path: Path, lengths: list[int], **content: Any) -> Path:
    path.write_text(json.dumps({"lengths": lengths, **content}))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_bytes_from_any_number_of_workers(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", [3, 5, 1, 4])
    one = convert(open_source, source, tmp_path / "one" / "fake", OPTIONS, samples_per_shard=4)
    two = convert(open_source, source, tmp_path / "two" / "fake", OPTIONS, samples_per_shard=4, workers=2)
    assert one == two
    assert files(tmp_path / "one") == files(tmp_path / "two")
    print(one)
