"""The house holds: imports run downwards only, and the data folders hold no Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pi05_train"
FLOORS = {
    "errors": 1, "resources": 1, "samples": 1, "tokenization": 1, "model": 1,
    "processing": 2, "objective": 2, "checkpoint": 2, "simulation": 2, "convert": 2,
    "config": 3,
    "data": 4, "policy": 4, "engine": 4,
    "trainer": 5, "evaluation": 5,
    "report": 6, "train": 6,
    "commands": 7,
}  # fmt: skip
GROUND = {"samples", "tokenization", "model"}
"""Ground rooms that know nothing of each other; errors and resources belong to nobody."""

CHAMBERS = ["sources", "order", "loading", "fitting"]
"""Of the data room, from the ground up; what stands beside them uses none of them."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("pi05_train.")}
    return {room for room in rooms if room != "__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert not imported_rooms(path)
        return
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        common = {"errors", "resources"}
        assert FLOORS[other] < FLOORS[room] or (other in common and room not in common), f"{path} imports {other}"
        assert not (room in GROUND and other in GROUND), f"{path}: ground rooms know nothing of each other"


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards_inside_the_data_room(path: Path) -> None:
    chamber = path.relative_to(PACKAGE / "data").parts[0]
    floor = CHAMBERS.index(chamber) if chamber in CHAMBERS else -1
    used = set(re.findall(r"^from pi05_train\.data\.(\w+)\.\w+ import", path.read_text(), re.MULTILINE))
    assert all(CHAMBERS.index(other) <= floor for other in used), used


@pytest.mark.parametrize("folder", ["conf", "data_mixtures", "tokenizers", "launch"])
def test_data_folders_hold_no_python(folder: str) -> None:
    assert not list((ROOT / folder).rglob("*.py"))


def test_import_tokenizers_from_the_repository_root_is_hugging_faces() -> None:
    code = "import tokenizers; tokenizers.Tokenizer; print(tokenizers.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not Path(found.strip()).is_relative_to(ROOT / "tokenizers")


def test_help_loads_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from pi05_train.commands.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'numpy', 'wandb'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
