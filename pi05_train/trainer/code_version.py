"""Which code a run used."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from pi05_train.resources import PACKAGE

CODE = ("pi05_train", "conf", "data_mixtures", "tokenizers", "launch")
"""Where new files, not in git yet, count as changes; beside them a checkout may hold data and runs."""


@dataclass(frozen=True)
class Code:
    """The code that runs."""

    version: dict[str, str]
    """Versions of package, torch and Python; the git commit; what `diff` is called, "none" without changes. Outside a
    checkout of this code, "unknown"."""
    diff: str
    """What `git apply` makes of the commit the code that runs."""


def code_version(root: Path = PACKAGE.parent) -> Code:
    """The code at `root`, as it stands."""
    commit, diff = _git_state(root)
    name = f"code-{hashlib.sha256(diff.encode()).hexdigest()[:12]}.diff" if diff else "none"
    version = {
        "pi05_train": importlib.metadata.version("pi05_train"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git_commit": commit,
        "git_diff": name if commit != "unknown" else "unknown",
    }
    return Code(version, diff)


def _git_state(root: Path) -> tuple[str, str]:
    top = _git(root, "rev-parse", "--show-toplevel").strip()
    # An installed package may lie inside somebody else's checkout, whose commit says nothing about this code.
    commit = _git(root, "rev-parse", "HEAD").strip()
    if not top or Path(top).resolve() != root.resolve() or not commit:
        return "unknown", ""
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE).split("\0")[:-1]
    plain = ("diff", "--no-ext-diff", "--no-color")
    added = (_git(root, *plain, "--no-index", "--", "/dev/null", name, ends=1) for name in new)
    return commit, _git(root, *plain, "HEAD") + "".join(added)


def _git(root: Path, *arguments: str, ends: int = 0) -> str:
    """What git prints; nothing where it is missing or its status is not `ends`."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return done.stdout if done.returncode == ends else ""
