"""Source cards by name or path."""

from __future__ import annotations

from pathlib import Path

import yaml

from pi05_train.config.convert import build
from pi05_train.errors import UserError
from pi05_train.resources import resource
from pi05_train.samples.card import SourceCard, check_card


def read_card(name: str) -> SourceCard:
    """A card by its name in data_mixtures/source, or by the path of its file."""
    path = Path(name) if name.endswith(".yaml") else resource("data_mixtures") / "source" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (resource("data_mixtures") / "source").glob("*.yaml"))
        raise UserError("source card", got=name, expected=f"a file, or one of {known}", do="correct the name")
    try:
        content = yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        got = " ".join(str(error).split())
        raise UserError(f"source card {path}", got=got, expected="YAML", do="correct it") from error
    card = build(SourceCard, content, f"source card {path.name}")
    check_card(card)
    return card
