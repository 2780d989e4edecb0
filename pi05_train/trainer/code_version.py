"""Which code a run used, and copies of it for jobs that wait."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from pi05_train.resources import PACKAGE

CODE = ("pi05_train", "conf", "data_mixtures", "tokenizers", "launch")
"""Where new files, not in git yet, count as changes; beside them a checkout may hold data and runs."""
COPY_OF = "copy_of.json"
"""In a copy of the code: what git said of the original."""


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
    version = {
        "pi05_train": importlib.metadata.version("pi05_train"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if (root / COPY_OF).is_file():  # its diff was written where the copy was made
        return Code(version | json.loads((root / COPY_OF).read_text()), "")
    commit, diff = _git_state(root)
    name = f"code-{hashlib.sha256(diff.encode()).hexdigest()[:12]}.diff" if diff else "none"
    return Code(version | {"git_commit": commit, "git_diff": name if commit != "unknown" else "unknown"}, diff)


def copy_code(folder: Path, root: Path = PACKAGE.parent) -> Path:
    """A copy of the code at `root` in `folder/.code`, once for each state of it; returns its absolute path.

    It runs, as that version, whatever becomes of the original: see `variables_of`.
    """
    tops = [root / name for name in (*CODE, "pyproject.toml")] if (root / "pyproject.toml").is_file() else [PACKAGE]
    files = [
        file
        for top in tops
        for file in sorted(top.rglob("*") if top.is_dir() else [top])
        if file.is_file() and "__pycache__" not in file.parts
    ]
    code = code_version(root).version
    said = {name: code[name] for name in ("git_commit", "git_diff")}
    digest = hashlib.sha256(json.dumps(said).encode())
    for file in files:
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    copy = folder.resolve() / ".code" / digest.hexdigest()[:12]
    if not copy.is_dir():
        beside = copy.with_name(f"{copy.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        for file in files:
            target = beside / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        (beside / COPY_OF).write_text(json.dumps(said, indent=1) + "\n")
        os.replace(beside, copy)
    return copy


def variables_of(copy: Path) -> dict[str, str]:
    """The environment in which Python takes the code from a copy, before the checkout and the current folder."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{copy}:{before}" if before else str(copy), "PYTHONSAFEPATH": "1"}


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
