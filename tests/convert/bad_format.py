"""What a format is tested with when its files are bad."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi05_train.convert.source import Options

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """A good small source of a format, of several units, and what may be wrong with such a source."""

    name: str
    kind: str
    write: Callable[[Path], Path]
    """Into a folder; returns what is converted."""
    faults: Mapping[str, tuple[Damage, str | dict[str, int]]]
    """Fault to the damage (of what is converted), and the sentence that refuses it or what is dropped."""
    dataset: str = ""

    def options(self, path: Path) -> Options:
        dataset = str(path.parent / "annotations.json") if self.name == "annotations" else self.dataset
        return Options("toy", self.kind, horizon=4, image_size=32, dataset=dataset)


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """The content after `change`, which returns another content or changes the one it gets."""
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))
