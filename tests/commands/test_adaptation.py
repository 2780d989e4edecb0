"""LoRA through the commands: on plain weights, resumed, used; and where it has no place, a sentence."""

from __future__ import annotations

import pytest
import torch

from pi05_train.checkpoint.run_state import step_folder
from pi05_train.commands.main import main
from pi05_train.policy.load import load_policy
from tests.commands.conftest import Workspace

FEW = ["model.depth=1", "run.steps=2"]


def test_lora_on_plain_weights(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    plain, adapted = workspace.root / "pretrain", workspace.root / "posttrain"
    assert main(["train", *workspace.overrides("pretrain", *FEW)]) == 0
    lora = [*FEW, f"run.start_from={plain}", "adaptation=openpi_lora"]
    assert main(["train", *workspace.overrides("posttrain", *lora)]) == 0
    assert main(["train", *workspace.overrides("posttrain", *lora, "run.steps=3")]) == 0

    before, policy = load_policy(plain, ema=True).model, load_policy(adapted, ema=True).model
    frozen = "layers.0.backbone.q_proj.weight"
    assert torch.equal(policy.get_parameter(frozen), before.get_parameter(frozen))
    assert policy.get_parameter("layers.0.backbone.q_proj.lora_b").abs().max() > 0
    raw = load_policy(step_folder(plain, 2), ema=False).model
    assert not torch.equal(raw.get_parameter(frozen), before.get_parameter(frozen))

    capsys.readouterr()
    back = [*FEW, f"run.start_from={adapted}", f"run.folder={workspace.root / 'back'}"]
    assert main(["train", *workspace.overrides("posttrain", *back)]) != 0
    assert "pi05 checkpoint export" in capsys.readouterr().err
    typo = [*FEW, "adaptation.freeze=[layers.*.bakbone.*]", f"run.folder={workspace.root / 'typo'}"]
    assert main(["train", *workspace.overrides("posttrain", *typo)]) != 0
    assert "layers.*.backbone." in capsys.readouterr().err
