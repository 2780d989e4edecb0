"""The engine's numbers: what a step computes does not depend on how it was cut, and what it protects."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine.pytorch import PyTorchEngine, refuse_wrong_world, resolve_device
from pi05_train.engine.world import ALONE, World
from pi05_train.errors import UserError
from pi05_train.model.batch import ImageChanges
from pi05_train.objective.losses import Counts, count, total_loss
from pi05_train.processing.augmentation import augmented, draw_change
from pi05_train.processing.augmentation_config import AugmentationConfig
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, PRETRAIN, tiny_batch, tiny_engine, tiny_loader, tiny_model

BF16 = EngineConfig(name="single", precision="bf16", device="cpu")
UNCLIPPED = replace(OPTIMIZER, clip_backbone=1e9, clip_expert=1e9)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value.clone()}
    return found


def weights(engine: PyTorchEngine) -> dict[str, Tensor]:
    return flat(engine.state()["model"])


def test_steps_are_plain_adamw_with_clipping_per_group_and_ema() -> None:
    """Against AdamW, clipping and averaging written out by hand in float64."""
    engine, reference = tiny_engine(), tiny_model().double()
    average = {name: p.detach().clone() for name, p in reference.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in reference.named_parameters()}
    groups = [list(reference.backbone_parameters()), list(reference.expert_parameters())]
    loader = tiny_loader(0)
    for step in range(1, 4):
        micro_batches = next(loader)
        result = engine.train_step(micro_batches, learning_rate=1e-3)
        counts = sum((count(batch) for batch in micro_batches), Counts(0, 0))
        reference.zero_grad()
        for batch in micro_batches:
            total_loss(reference(batch, insulation=True), batch, POSTTRAIN, counts).total.backward()
        for group, norm in zip(groups, (result.backbone_norm, result.expert_norm), strict=True):
            by_hand = sum(p.grad.square().sum() for _, p in group if p.grad is not None) ** 0.5
            assert norm == pytest.approx(float(by_hand), rel=1e-4)
            with torch.no_grad():
                for name, p in group:
                    if p.grad is None:
                        continue
                    g = p.grad * min(1.0, 1.0 / float(by_hand))
                    m, v = moments[name]
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.95).add_(0.05 * g * g)
                    p -= 1e-3 * (m / (1 - 0.9**step) / ((v / (1 - 0.95**step)).sqrt() + 1e-8) + 1e-10 * p)
                    average[name].lerp_(p, 0.1)
    state = engine.state()
    for name, p in reference.named_parameters():
        # Adam divides by gradients of 1e-8 and less: there rounding decides the direction of a step of 1e-3.
        steady = moments[name][1].sqrt() > 1e-5
        torch.testing.assert_close(state["model"][name][steady], p.detach().float()[steady], rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(state["ema"][name][steady], average[name].float()[steady], rtol=1e-3, atol=2e-5)


def test_the_network_sees_the_images_as_the_batch_says_they_shall_be() -> None:
    batch = tiny_batch([1, 2])
    changes = [draw_change("base_0_rgb", (i,), AugmentationConfig(colour_probability=1.0), 28) for i in range(2)]
    crops, colours = (np.stack([getattr(change, name) for change in changes]) for name in ("crop", "colours"))
    told = replace(batch, changes=ImageChanges(torch.from_numpy(crops), torch.from_numpy(colours)))
    losses = [
        tiny_engine().train_step([given], learning_rate=0.0).loss for given in (told, augmented(told), batch, told)
    ]
    assert losses[0] == losses[1] == losses[3]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("split", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_micro_batches_do_not_change_the_numbers(split: list[int]) -> None:
    """Text-only micro-batches and lone samples weigh what they weigh in the whole batch."""
    whole, parts = tiny_engine(optimizer=UNCLIPPED), tiny_engine(optimizer=UNCLIPPED)
    expected = whole.train_step([tiny_batch(list(range(6)))], learning_rate=0.0)
    starts = [sum(split[:i]) for i in range(len(split))]
    got = parts.train_step(
        [tiny_batch(list(range(a, a + n))) for a, n in zip(starts, split, strict=True)], learning_rate=0.0
    )
    assert got.loss == pytest.approx(expected.loss, rel=1e-5)
    assert got.backbone_norm == pytest.approx(expected.backbone_norm, rel=1e-4)
    assert got.expert_norm == pytest.approx(expected.expert_norm, rel=1e-4)
    assert (got.samples, got.tokens) == (expected.samples, expected.tokens)
    first, second = (flat(e.state()["optimizer"]["exp_avg"]) for e in (whole, parts))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-7)


def test_result_adds_up_per_source() -> None:
    result = tiny_engine().train_step([tiny_batch([0, 1, 2])], learning_rate=1e-3)
    assert {s: t.count for s, t in result.text.items()} == {"arm": 2, "web": 1}
    assert {s: t.count for s, t in result.flow.items()} == {"arm": 2}
    assert result.samples == {"arm": 2, "web": 1}
    assert result.text_loss is not None
    assert result.flow_loss is not None
    assert result.loss == pytest.approx(result.text_loss + POSTTRAIN.alpha * result.flow_loss, rel=1e-6)


def test_insulated_expert_leaves_the_backbone_as_if_it_were_absent() -> None:
    """The recipe's strongest test: with clipping per group the expert changes nothing in the backbone, to the bit."""
    with_expert, without = tiny_engine(), tiny_engine(objective=PRETRAIN)
    a, b = tiny_loader(0), tiny_loader(0)
    for _ in range(4):
        first, second = (
            with_expert.train_step(next(a), learning_rate=1e-2),
            without.train_step(next(b), learning_rate=1e-2),
        )
        assert first.text == second.text
        assert first.backbone_norm == second.backbone_norm
    mine = weights(with_expert)
    for name, value in weights(without).items():
        assert torch.equal(mine[name], value), name


def test_step_without_actions_trains_the_backbone_only() -> None:
    engine = tiny_engine()
    before = weights(engine)
    result = engine.train_step([tiny_batch([1, 3], kinds="WD")], learning_rate=1e-2)
    assert result.flow_loss is None
    assert result.loss == pytest.approx(result.text_loss)
    after = weights(engine)
    expert = {name for name, _ in tiny_model().expert_parameters()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not moved & expert


def test_pretraining_model_has_no_expert_to_report() -> None:
    result = tiny_engine(objective=PRETRAIN).train_step([tiny_batch([0, 1])], learning_rate=1e-3)
    assert result.expert_norm is None
    assert result.flow_loss is None


def test_groups_are_clipped_apart() -> None:
    """A tiny limit on the expert must not slow the backbone, whatever alpha is."""
    free, held = tiny_engine(), tiny_engine(optimizer=replace(OPTIMIZER, clip_expert=1e-12))
    for engine in (free, held):
        engine.train_step([tiny_batch([0, 1, 2])], learning_rate=1e-3)
    a, b = weights(free), weights(held)
    expert = {name for name, _ in tiny_model().expert_parameters()}
    assert all(torch.equal(a[name], b[name]) for name in a if name not in expert)
    assert any(not torch.equal(a[name], b[name]) for name in expert)


def test_bf16_keeps_fp32_masters_moments_and_average() -> None:
    engine = tiny_engine(engine=BF16)
    fp32 = tiny_engine()
    loss = engine.train_step([tiny_batch([0, 1])], learning_rate=1e-3).loss
    state = flat(engine.state())
    floating = {name: value.dtype for name, value in state.items() if value.is_floating_point()}
    assert {name.split("/")[0] for name in floating} == {"model", "optimizer", "ema"}
    assert set(floating.values()) == {torch.float32}
    exact = fp32.train_step([tiny_batch([0, 1])], learning_rate=1e-3).loss
    assert loss == pytest.approx(exact, rel=0.05)
    assert loss != exact, "autocast did nothing"


def test_non_finite_sample_is_named_and_nothing_moves() -> None:
    engine = tiny_engine()
    engine.train_step([tiny_batch([0, 1])], learning_rate=1e-3)
    before = flat(engine.state())
    bad = tiny_batch([2, 3])
    bad = replace(bad, actions_AHD=bad.actions_AHD * float("nan"))
    with pytest.raises(UserError, match=r"step 1.*arm/00000002_000000"):
        engine.train_step([tiny_batch([4, 5]), bad], learning_rate=1e-3)
    after = flat(engine.state())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert engine.train_step([tiny_batch([0, 1])], learning_rate=1e-3).loss > 0, "old gradients are gone"


def test_state_moves_to_a_fresh_engine() -> None:
    engine, loader = tiny_engine(), tiny_loader(0)
    for _ in range(2):
        engine.train_step(next(loader), learning_rate=1e-3)
    saved = copy.deepcopy(engine.state())
    fresh = tiny_engine(seed=7)
    fresh.load_state(saved)
    micro_batches = next(loader)
    assert fresh.train_step(micro_batches, learning_rate=1e-3) == engine.train_step(micro_batches, learning_rate=1e-3)
    mine = flat(engine.state())
    assert all(torch.equal(value, mine[name]) for name, value in flat(fresh.state()).items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_device_is_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.device"):
        resolve_device("cuda")
    assert resolve_device("auto").type == CPU_FP32.device


def test_several_processes_are_refused() -> None:
    with pytest.raises(UserError, match="engine=single: got 4 processes"):
        refuse_wrong_world(CPU_FP32, World(size=4, group=True))


def test_an_engine_for_several_needs_a_launcher() -> None:
    with pytest.raises(UserError, match=r"engine=ddp: got no launcher.*launch/torchrun\.sh"):
        refuse_wrong_world(replace(CPU_FP32, name="ddp"), ALONE)


@pytest.mark.parametrize(
    ("change", "backend"),
    [
        ({"activation_checkpointing": "selective"}, None),
        ({"activation_checkpointing": "full"}, None),
        ({"compile": True}, "eager"),
        pytest.param({"compile": True}, "aot_eager", marks=pytest.mark.slow),
        pytest.param({"compile": True, "activation_checkpointing": "full"}, "aot_eager", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_memory_and_speed_leave_the_numbers(
    change: dict[str, Any], backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled graphs run here without their code generator, which would take minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, changed = tiny_engine(), tiny_engine(engine=replace(CPU_FP32, **change))
    for engine in (plain, changed):
        for _ in range(3):
            engine.train_step([tiny_batch([0, 1, 2, 3])], learning_rate=1e-3)
    torch.testing.assert_close(weights(changed), weights(plain), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()
