"""Training with LoRA and frozen parameters: what moves, what is kept, and that a run resumes to the bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pi05_train.checkpoint.run_state import load, save
from pi05_train.engine.optimizer import clip, gradient_norm
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.model.adaptation import AdaptationConfig, LoraRule, is_lora
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from tests.engine.test_pytorch import flat
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, PRETRAIN, TINY, tiny_batch, tiny_loader

TOWERS = AdaptationConfig(
    [LoraRule("layers.*_proj", 2, 4.0)], ["embedding.*", "final_norm.*", "layers.*", "action.final_norm.*"]
)
EXPERT_ONLY = AdaptationConfig(freeze=["vision.*", "embedding.*", "final_norm.*", "layers.*.backbone.*"])


def adapted_engine(adaptation: AdaptationConfig, *, seed: int = 0) -> PyTorchEngine:
    """On weights that look trained: a fresh expert's closed gates would let no gradient through."""
    model = Pi05(TINY, expert=True)
    adapt(model, adaptation)
    model.init_weights(seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not is_lora(name):
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return PyTorchEngine(model, POSTTRAIN, replace(OPTIMIZER, clip_together=1.0), CPU_FP32, ALONE)


@pytest.mark.parametrize("adaptation", [TOWERS, EXPERT_ONLY], ids=["towers", "expert_only"])
def test_only_what_is_left_trains(adaptation: AdaptationConfig) -> None:
    engine, loader = adapted_engine(adaptation), tiny_loader(0)
    before = {name: value.clone() for name, value in engine.state()["model"].items()}
    for _ in range(3):
        engine.train_step(next(loader), learning_rate=1e-2)
    state = engine.state()
    trained = set(state["optimizer"]["exp_avg"])
    moved = {name for name, value in state["model"].items() if not torch.equal(value, before[name])}
    assert moved == trained
    if adaptation is TOWERS:
        assert {name for name in trained if is_lora(name)} == {name for name in before if is_lora(name)}
        kept = ("vision.", "action.in_proj", "action.time_mlp", "action.out_proj")
        assert {name for name in trained if not is_lora(name)} == {name for name in before if name.startswith(kept)}
    else:
        assert trained == {name for name in before if ".expert." in name or name.startswith("action.")}


def test_frozen_weights_are_saved_but_neither_averaged_nor_copied() -> None:
    engine = adapted_engine(TOWERS)
    engine.train_step([tiny_batch([0, 1, 2])], learning_rate=1e-2)
    state = engine.state()
    assert state["ema"].keys() == state["model"].keys()
    for name, weight in state["model"].items():
        shared = weight.data_ptr() == state["ema"][name].data_ptr()
        assert shared == (name not in state["optimizer"]["exp_avg"]), name


def test_a_frozen_group_has_no_norm() -> None:
    result = adapted_engine(EXPERT_ONLY).train_step([tiny_batch([0, 1])], learning_rate=1e-3)
    assert result.backbone_norm == 0
    assert result.expert_norm is not None
    assert result.expert_norm > 0


def test_a_step_without_actions_changes_nothing_where_only_the_expert_trains() -> None:
    engine = adapted_engine(EXPERT_ONLY)
    before = flat(engine.state()["model"])
    result = engine.train_step([tiny_batch([1, 3], kinds="WD")], learning_rate=1e-2)
    assert result.text_loss is not None
    assert all(torch.equal(value, before[name]) for name, value in flat(engine.state()["model"]).items())


@pytest.mark.parametrize("adaptation", [TOWERS, EXPERT_ONLY], ids=["towers", "expert_only"])
def test_a_run_resumes_to_the_bit(tmp_path: Path, adaptation: AdaptationConfig) -> None:
    whole, loader = adapted_engine(adaptation), tiny_loader(0)
    for step in range(4):
        if step == 2:
            save(tmp_path, 2, whole.state(), {})
        whole.train_step(next(loader), learning_rate=1e-2)
    resumed, loader = adapted_engine(adaptation, seed=5), tiny_loader(2)
    state = resumed.state()
    load(tmp_path, 2, state)
    resumed.load_state(state)
    for _ in range(2):
        resumed.train_step(next(loader), learning_rate=1e-2)
    expected = flat(whole.state())
    assert all(torch.equal(value, expected[name]) for name, value in flat(resumed.state()).items())


def test_lora_learns() -> None:
    """With every weight of the towers frozen the loss of one batch falls all the same."""
    model = Pi05(TINY, expert=False)
    adapt(
        model,
        AdaptationConfig([LoraRule("layers.*_proj", 4, 8.0)], ["vision.*", "embedding.*", "final_norm.*", "layers.*"]),
    )
    model.init_weights(0)
    engine = PyTorchEngine(model, PRETRAIN, OPTIMIZER, CPU_FP32, ALONE)
    losses = [engine.train_step([tiny_batch([0, 1, 2])], learning_rate=3e-2).loss for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), max_size=4)


@settings(max_examples=60, deadline=None)
@given(backbone=shapes, expert=shapes, limit=st.floats(1e-3, 100.0), seed=st.integers(0, 99))
def test_clipping_together_is_torchs_over_all_parameters(
    backbone: list[list[int]], expert: list[list[int]], limit: float, seed: int
) -> None:
    """Some parameters, or a whole group, may be without a gradient."""
    random = torch.Generator().manual_seed(seed)
    groups: list[list[nn.Parameter]] = [[], []]
    for group, wanted in zip(groups, (backbone, expert), strict=True):
        for shape in wanted:
            group.append(nn.Parameter(torch.zeros(shape)))
            if torch.rand((), generator=random) < 0.8:
                group[-1].grad = torch.randn(shape, generator=random)
    parameters = [*groups[0], *groups[1]]
    gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
    clip(groups, [gradient_norm(group) for group in groups], replace(OPTIMIZER, clip_together=limit))
    ours = [p.grad for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    for got, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(got, parameter.grad)


def test_one_norm_couples_the_groups_and_two_do_not() -> None:
    """At a limit below either norm, the larger gradient takes more of one limit, and its own of two."""
    batch = tiny_batch([0, 1, 2])
    moments = []
    for together in (1e-3, None):
        model = Pi05(TINY, expert=True)
        model.init_weights(0)
        config = replace(OPTIMIZER, clip_together=together, clip_backbone=1e-3, clip_expert=1e-3)
        engine = PyTorchEngine(model, POSTTRAIN, config, CPU_FP32, ALONE)
        engine.train_step([batch], learning_rate=0.0)
        moments.append({name: m.norm() / 0.1 for name, m in engine.state()["optimizer"]["exp_avg"].items()})
    expert = {name for name, _ in Pi05(TINY, expert=True).expert_parameters()}
    for moment, expected in zip(moments, (1e-3, math.sqrt(2) * 1e-3), strict=True):
        assert math.hypot(*moment.values()) == pytest.approx(expected, rel=1e-2)
    apart = moments[1]
    for group in (expert, apart.keys() - expert):
        assert math.hypot(*(apart[name] for name in group)) == pytest.approx(1e-3, rel=1e-2)
