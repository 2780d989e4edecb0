"""A workspace as a user has one: shards, cards and a mixture of their own, tokenizers, all through the commands."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml

from pi05_train.commands.main import main
from pi05_train.samples.card import SourceCard

SMALL = [
    "mixture=toy",
    "data.global_batch_samples=6",
    "data.workers=0",
    "engine.precision=fp32",
    "logger=disabled",
    "logger.every_steps=1",
    "checkpoint.every_steps=2",
    "schedule.warmup_steps=1",
    "evaluation.samples_per_source=2",
    "evaluation.max_text_tokens=4",
    "evaluation.episodes_per_task=0",
    "model.vision.image_size=32",
    "model.vision.depth=1",
    "model.depth=2",
]
"""Overrides that make a stage take a second."""


@dataclass(frozen=True)
class Workspace:
    """Folders of one user."""

    root: Path
    data: Path
    tokenizers: Path
    config_dir: Path

    def overrides(self, stage: str, *more: str) -> list[str]:
        """Arguments of `pi05 train` for a small run of a demo stage on the toy mixture."""
        paths = [f"data.root={self.data}", f"run.folder={self.root / stage}"]
        tokenizers = [f"tokenizer.text={self.tokenizers / 'text'}", f"tokenizer.fast={self.tokenizers / 'fast'}"]
        options = ["--config-dir", str(self.config_dir), f"experiment=demo_{stage}", "run.start_from=null"]
        return [*options, *SMALL, *paths, *tokenizers, "run.steps=3", *more]


@pytest.fixture(scope="session")
def prepared(
    synthetic_world: tuple[Path, dict[str, SourceCard]], tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Indexed shards with statistics and fitted tokenizers; shared, so nobody writes into it."""
    world, cards = synthetic_world
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(world, root / "data")
    for folder in ("source", "mixture"):
        (root / "config" / folder).mkdir(parents=True)
    for name, card in cards.items():
        (root / "config" / "source" / f"{name}.yaml").write_text(yaml.safe_dump(asdict(card)))
    mixture = {
        "defaults": [*({f"/source@sources.{name}.card": name} for name in cards), "_self_"],
        "name": "toy",
        "sources": {name: {"weight": 1.0} for name in cards},
    }
    (root / "config" / "mixture" / "toy.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
    workspace = Workspace(root, root / "data", root / "tokenizers", root / "config")
    paths = [str(root / "config" / "source" / f"{name}.yaml") for name in cards]
    assert main(["data", "index", *paths, "--root", str(workspace.data), "--horizon", "10"]) == 0
    sizes = ["--pieces", "400", "--fast-size", "300"]
    assert main(["tokenizer", "fit", str(workspace.tokenizers), *workspace.overrides("pretrain"), *sizes]) == 0
    return workspace


@pytest.fixture(scope="session")
def posttrained(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a post-trained stage; shared, so nobody writes into it."""
    root = tmp_path_factory.mktemp("posttrained")
    workspace = Workspace(root, prepared.data, prepared.tokenizers, prepared.config_dir)
    assert main(["train", *workspace.overrides("posttrain")]) == 0
    return root / "posttrain"


@pytest.fixture
def workspace(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the prepared workspace that a test may damage."""
    for folder in ("data", "tokenizers", "config"):
        shutil.copytree(prepared.root / folder, tmp_path / folder)
    return Workspace(tmp_path, tmp_path / "data", tmp_path / "tokenizers", tmp_path / "config")
