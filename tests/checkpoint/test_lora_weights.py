"""Where weights with and without LoRA may begin a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pi05_train.checkpoint.run_state import save
from pi05_train.checkpoint.weights import load_weights
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, LoraRule, is_lora
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from tests.checkpoint.test_weights import SMALL, tensors

BACKBONE = [LoraRule("layers.*.backbone.*_proj", 2, 2.0)]
BOTH = [LoraRule("layers.*_proj", 2, 2.0)]


def made(rules: list[LoraRule], *, expert: bool = True, seed: int = 0) -> Pi05:
    model = Pi05(SMALL, expert=expert)
    adapt(model, AdaptationConfig(rules))
    model.init_weights(seed)
    return model


def test_plain_weights_begin_a_run_with_fresh_adapters(tmp_path: Path) -> None:
    plain, model = tensors(made([], seed=1)), made(BOTH, seed=2)
    fresh = tensors(model)
    save(tmp_path, 1, {"model": plain}, {})
    load_weights(tmp_path, model, ema=False)
    after = tensors(model)
    assert any(map(is_lora, after))
    for name, value in after.items():
        assert torch.equal(value, fresh[name] if is_lora(name) else plain[name]), name


def test_adapters_come_back(tmp_path: Path) -> None:
    trained, model = tensors(made(BOTH, seed=1)), made(BOTH, seed=2)
    save(tmp_path, 1, {"model": trained}, {})
    assert load_weights(tmp_path, model, ema=False)
    assert all(torch.equal(value, trained[name]) for name, value in tensors(model).items())


def test_an_adapted_backbone_gets_a_new_adapted_expert(tmp_path: Path) -> None:
    trained, model = tensors(made(BACKBONE, expert=False, seed=1)), made(BOTH, seed=2)
    fresh = tensors(model)
    save(tmp_path, 1, {"model": trained}, {})
    assert not load_weights(tmp_path, model, ema=False)
    assert all(torch.equal(value, trained.get(name, fresh[name])) for name, value in tensors(model).items())


def test_adapters_without_a_place_are_refused_with_the_way_to_merge_them(tmp_path: Path) -> None:
    save(tmp_path, 1, {"model": tensors(made(BOTH))}, {})
    with pytest.raises(UserError, match="pi05 checkpoint export"):
        load_weights(tmp_path, made([]), ema=False)


@pytest.mark.parametrize(
    ("stored", "wanted"), [(BACKBONE, BOTH), (BOTH, BACKBONE), ([LoraRule("*_proj", 3, 1.0)], BOTH)]
)
def test_other_adapters_are_refused_by_name(tmp_path: Path, stored: list[LoraRule], wanted: list[LoraRule]) -> None:
    save(tmp_path, 1, {"model": tensors(made(stored))}, {})
    with pytest.raises(UserError, match="lora_a"):
        load_weights(tmp_path, made(wanted), ema=False)
