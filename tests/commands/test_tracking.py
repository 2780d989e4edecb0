"""A run that is watched closely is the run that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pi05_train.checkpoint.run_state import step_folder
from pi05_train.checkpoint.tensors import read_tensors, stored_shapes
from pi05_train.commands.main import main
from tests.commands.conftest import Workspace
from tests.trainer.logged import logged


def weights(run: Path) -> dict[str, Any]:
    folder = step_folder(run, 3)
    shapes = stored_shapes(folder).items()
    found = {name.removeprefix("model."): torch.empty(shape) for name, shape in shapes if name.startswith("model.")}
    read_tensors(folder, {"model": found})
    return found


def test_examples_change_no_number_and_no_weight(workspace: Workspace) -> None:
    """Random state included: it would show in the next step."""
    plain, watched = workspace.root / "plain", workspace.root / "watched"
    common = ["mixture.sources.toy_bimanual.enabled=false"]
    assert main(["train", *workspace.overrides("pretrain", f"run.folder={plain}", *common)]) == 0
    more = ["logger.examples_every_steps=2", "logger.tensorboard=true"]
    assert main(["train", *workspace.overrides("pretrain", f"run.folder={watched}", *common, *more)]) == 0
    assert logged(watched) == logged(plain)
    got, expected = weights(watched), weights(plain)
    assert got.keys() == expected.keys() != set()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name

    assert [folder.name for folder in sorted((watched / "examples").iterdir())] == ["step-00000002"]
    shown = json.loads((watched / "examples" / "step-00000002" / "examples.json").read_text())
    assert {"toy_arm", "toy_subtasks", "toy_web"} <= {row["source"] for row in shown}
    assert list((watched / "tensorboard").iterdir())
    assert not (plain / "examples").exists()
