"""Stage 2 starts from stage 1's run folder: the backbone whole, the expert new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pi05_train.checkpoint.run_state import find_checkpoint, save
from pi05_train.checkpoint.weights import load_weights
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05

SMALL = ModelConfig(
    name="small",
    vision=VisionConfig(image_size=14, patch_size=14, width=4, depth=1, mlp_dim=4, heads=1),
    backbone=TowerConfig(width=8, mlp_dim=8),
    expert=TowerConfig(width=4, mlp_dim=4),
    depth=1,
    heads=1,
    kv_heads=1,
    head_dim=4,
    vocab_size=16,
    action_dim=2,
    action_horizon=2,
)


def model(*, expert: bool, seed: int) -> Pi05:
    made = Pi05(SMALL, expert=expert)
    made.init_weights(seed)
    return made


def tensors(made: Pi05) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.named_parameters()}


def saved(run: Path, *, expert: bool, ema: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    raw, average = tensors(model(expert=expert, seed=1)), tensors(model(expert=expert, seed=2))
    optimizer = {"exp_avg": {name: torch.zeros_like(value) for name, value in raw.items()}}
    save(run, 4, {"model": raw, "optimizer": optimizer} | ({"ema": average} if ema else {}), {})
    return raw, average


def test_raw_or_averaged_weights_by_choice_from_run_or_checkpoint(tmp_path: Path) -> None:
    raw, average = saved(tmp_path, expert=True)
    for path in (tmp_path, find_checkpoint(tmp_path)):
        for ema, expected in ((False, raw), (True, average)):
            fresh = model(expert=True, seed=9)
            assert load_weights(path, fresh, ema=ema)
            assert all(torch.equal(value, expected[name]) for name, value in tensors(fresh).items())


def test_stage_two_keeps_its_new_expert(tmp_path: Path) -> None:
    _, average = saved(tmp_path, expert=False)
    fresh = model(expert=True, seed=9)
    before = tensors(fresh)
    assert not load_weights(tmp_path, fresh, ema=True)
    after = tensors(fresh)
    expert = {name for name, _ in fresh.expert_parameters()}
    assert expert
    assert all(torch.equal(after[name], before[name] if name in expert else average[name]) for name in after)


def test_an_expert_without_a_place_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, expert=True)
    with pytest.raises(UserError, match="no such tensor"):
        load_weights(tmp_path, model(expert=False, seed=9), ema=False)


@pytest.mark.parametrize("of_expert", [False, True])
def test_a_missing_tensor_is_refused_and_named(tmp_path: Path, of_expert: bool) -> None:
    raw = tensors(model(expert=True, seed=1))
    made = model(expert=True, seed=1)
    name = next(name for name, _ in (made.expert_parameters() if of_expert else made.backbone_parameters()))
    del raw[name]
    save(tmp_path, 1, {"model": raw}, {})
    with pytest.raises(UserError, match=name):
        load_weights(tmp_path, made, ema=False)


def test_absent_average_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, expert=False, ema=False)
    with pytest.raises(UserError, match="ema_decay"):
        load_weights(tmp_path, model(expert=False, seed=9), ema=True)


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="step-00000009"):
        find_checkpoint(tmp_path / "checkpoints" / "step-00000009")
