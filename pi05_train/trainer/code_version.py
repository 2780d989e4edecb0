"""Which code a run used."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from pi05_train.resources import PACKAGE


def code_version(root: Path = PACKAGE.parent) -> dict[str, str]:
    """Versions of package, torch and Python, and the git commit of `root` with a dirty flag ("unknown" outside git)."""
    commit, dirty = _git_state(root)
    return {
        "pi05_train": importlib.metadata.version("pi05_train"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _git_state(root: Path) -> tuple[str, str]:
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed package may lie inside somebody else's checkout, whose commit says nothing about this code.
    if top is None or Path(top).resolve() != root.resolve():
        return "unknown", "unknown"
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return commit or "unknown", "unknown" if changes is None else str(bool(changes)).lower()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
