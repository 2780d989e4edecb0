"""Cards by name or path: one YAML file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pi05_train.errors import UserError
from pi05_train.resources import resource


def shipped(kind: str) -> list[str]:
    """Names of the cards in data_mixtures/`kind`."""
    return sorted(path.stem for path in (resource("data_mixtures") / kind).glob("*.yaml"))


def read_content(kind: str, name: str) -> tuple[Any, str]:
    """The YAML of a card, by its name in data_mixtures/`kind` or by the path of its file, and what errors call it."""
    path = Path(name) if name.endswith(".yaml") else resource("data_mixtures") / kind / f"{name}.yaml"
    try:
        return yaml.safe_load(path.read_text()), f"{kind} card {path.name}"
    except OSError:
        known = f"a file, or one of {shipped(kind)}"
        raise UserError(f"{kind} card", got=repr(name), expected=known, do="correct the name") from None
    except (ValueError, yaml.YAMLError) as error:
        got = " ".join(str(error).split())
        raise UserError(f"{kind} card {path}", got=got, expected="YAML", do="correct it") from error
