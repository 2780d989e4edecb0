"""The assembled network: packing, insulation, leaks, initial weights and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.flow import noisy_actions
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import count, total_loss
from tests.model.batches import TINY, Segment, open_model, pack, random_segments, segment

POSTTRAIN = ObjectiveConfig(alpha=10.0, insulation=True, expert=True)


families = pytest.mark.parametrize("family", ["pi05", "pi0"])


def loss_and_gradients(
    model: Pi05, batches: list[Batch], objective: ObjectiveConfig
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss of all batches together, and its gradients."""
    model.zero_grad()
    counts = sum((count(b) for b in batches[1:]), count(batches[0]))
    terms = []
    for batch in batches:
        output = model(batch, insulation=objective.insulation)
        terms.append(total_loss(output, batch, objective, counts).total)
        terms[-1].backward()
    return torch.stack(terms).sum().detach(), {name: p.grad for name, p in model.named_parameters()}


def test_how_the_images_lie_in_memory_changes_no_number() -> None:
    batch, model = pack(random_segments(0)), open_model()
    turned = batch.images_ICHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert turned.stride() != batch.images_ICHW.stride()
    torch.testing.assert_close(
        model(replace(batch, images_ICHW=turned)).logits_LV, model(batch).logits_LV, rtol=0, atol=0
    )


@families
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("insulation", [False, True])
def test_packed_equals_one_segment_at_a_time(seed: int, insulation: bool, family: str) -> None:
    segments = random_segments(seed, draws=1 + seed % 3)
    model = open_model(family, dtype=torch.float64)
    objective = replace(POSTTRAIN, insulation=insulation)
    packed_loss, packed = loss_and_gradients(model, [pack(segments)], objective)
    loss, one_by_one = loss_and_gradients(model, [pack([s]) for s in segments], objective)
    torch.testing.assert_close(packed_loss, loss, rtol=1e-9, atol=0)
    for name, gradient in one_by_one.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@families
def test_insulated_backbone_gradients_do_not_know_the_flow_loss(family: str) -> None:
    model, batch = open_model(family), pack(random_segments(0, draws=2))
    _, with_flow = loss_and_gradients(model, [batch], POSTTRAIN)
    _, without_flow = loss_and_gradients(model, [batch], replace(POSTTRAIN, alpha=0.0))
    _, open_to_flow = loss_and_gradients(model, [batch], replace(POSTTRAIN, insulation=False))
    names = [name for name, _ in model.backbone_parameters()]
    for name in names:
        assert torch.equal(present(with_flow[name]), present(without_flow[name])), name
    assert any(not torch.equal(present(open_to_flow[name]), present(without_flow[name])) for name in names)


def present(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


@families
def test_flow_loss_alone_gives_the_insulated_backbone_exactly_nothing(family: str) -> None:
    model, batch = open_model(family), pack(random_segments(1))
    velocity = model(batch, insulation=True).velocity_AKHD
    parameters = dict(model.backbone_parameters())
    gradients = torch.autograd.grad(velocity.square().sum(), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        assert gradient is None or not gradient.any(), name
    expert = dict(model.expert_parameters())
    for name, gradient in zip(
        expert, torch.autograd.grad(model(batch).velocity_AKHD.sum(), expert.values()), strict=True
    ):
        assert gradient.any(), name


@families
def test_insulation_changes_no_number(family: str) -> None:
    model, batch = open_model(family), pack(random_segments(2))
    insulated, free = model(batch, insulation=True), model(batch, insulation=False)
    assert torch.equal(insulated.velocity_AKHD, free.velocity_AKHD)
    assert torch.equal(insulated.logits_LV, free.logits_LV)


def test_expert_blocks_start_as_the_identity() -> None:
    model = Pi05(TINY, expert=True)
    model.init_weights(seed=3)
    batch = pack(random_segments(3, draws=2))
    assert model.action is not None
    noisy = noisy_actions(batch.actions_AHD, batch.noise_AKHD, batch.time_AK)
    tokens = model.action.in_proj(noisy)
    normed = tokens * (tokens.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(model(batch).velocity_AKHD, model.action.out_proj(normed), rtol=0, atol=1e-6)


Change = Callable[[Segment], Segment]


def other_target(s: Segment, *, start: int = 0) -> Segment:
    return replace(s, target=s.target[:start] + tuple((t + 1) % TINY.vocab_size for t in s.target[start:]))


def other_actions(s: Segment) -> Segment:
    return replace(s, actions_HD=None if s.actions_HD is None else s.actions_HD + 1, noise_KHD=s.noise_KHD * 2)


def other_prompt(s: Segment) -> Segment:
    return replace(s, prompt=tuple((t + 1) % TINY.vocab_size for t in s.prompt))


@families
def test_nothing_leaks_between_target_and_action(family: str) -> None:
    model, segments = open_model(family), random_segments(4)
    before = model(pack(segments))
    new_targets = model(pack([other_target(s) for s in segments]))
    assert torch.equal(new_targets.velocity_AKHD, before.velocity_AKHD)
    assert not torch.equal(new_targets.logits_LV, before.logits_LV)
    new_actions = model(pack([other_actions(s) for s in segments]))
    assert torch.equal(new_actions.logits_LV, before.logits_LV)
    assert not torch.equal(new_actions.velocity_AKHD, before.velocity_AKHD)


def test_later_target_tokens_do_not_reach_earlier_logits() -> None:
    model, s = open_model(), segment(2, 3, 6, actions=True, seed=5)
    before, after = model(pack([s])).logits_LV, model(pack([other_target(s, start=3)])).logits_LV
    # Row i predicts target token i and has seen the i tokens before it.
    assert torch.equal(after[:4], before[:4])
    assert not torch.equal(after[4], before[4])


@pytest.mark.parametrize("change", [other_target, other_actions, other_prompt])
def test_segments_of_a_batch_are_strangers(change: Change) -> None:
    model, segments = open_model(), [segment(1, 4, 3, actions=True, seed=s) for s in range(3)]
    before, after = model(pack(segments)), model(pack([segments[0], change(segments[1]), segments[2]]))
    others = torch.tensor([0, 1, 2, 6, 7, 8])
    assert torch.equal(after.logits_LV[others], before.logits_LV[others])
    assert torch.equal(after.velocity_AKHD[[0, 2]], before.velocity_AKHD[[0, 2]])


@pytest.mark.parametrize(
    "segments",
    [
        [segment(1, 3, 4, actions=False, seed=0)],
        [segment(1, 3, 0, actions=True, seed=0)],
        [segment(0, 3, 2, actions=False, seed=0)],
    ],
    ids=["no actions", "no target", "text only"],
)
def test_every_parameter_gets_a_gradient_from_every_batch(segments: list[Segment]) -> None:
    """Ranks with different kinds of samples must run the same collectives."""
    _, gradients = loss_and_gradients(open_model(), [pack(segments)], POSTTRAIN)
    assert [name for name, gradient in gradients.items() if gradient is None] == []


def test_without_expert_there_is_no_expert_parameter_and_no_velocity() -> None:
    model = open_model(expert=False)
    assert list(model.expert_parameters()) == []
    assert model(pack(random_segments(5))).velocity_AKHD is None


def test_the_expert_changes_no_initial_weight_of_the_backbone() -> None:
    with_expert, without = Pi05(TINY, expert=True), Pi05(TINY, expert=False)
    for model in (with_expert, without):
        model.init_weights(seed=7)
    backbone = dict(with_expert.backbone_parameters())
    assert all(torch.equal(value, backbone[name]) for name, value in without.named_parameters())
    assert len(backbone) == len(list(without.parameters()))


def test_initial_weights_depend_on_the_seed_only() -> None:
    models = [Pi05(TINY, expert=True) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(id(model) % 1000)
        model.init_weights(seed)
    same, other = models[1].state_dict(), models[2].state_dict()
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, same[name]), name
    assert not torch.equal(models[0].embedding.weight, other["embedding.weight"])


def test_bfloat16_compute_stays_near_float32_and_keeps_float32_parameters() -> None:
    model, batch = open_model(), pack(random_segments(6))
    reference = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
    assert output.logits_LV.dtype == torch.bfloat16
    assert output.velocity_AKHD.dtype == torch.float32
    for got, expected in ((output.logits_LV, reference.logits_LV), (output.velocity_AKHD, reference.velocity_AKHD)):
        assert (got - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def full_size() -> ModelConfig:
    values = yaml.safe_load((Path(__file__).resolve().parents[2] / "conf/model/pi05.yaml").read_text())
    towers = {name: TowerConfig(**values.pop(name)) for name in ("backbone", "expert")}
    return ModelConfig(vision=VisionConfig(**values.pop("vision")), **towers, **values)


@pytest.mark.parametrize(("expert", "parameters"), [(True, 3_353_433_872), (False, 2_923_335_408)])
def test_full_size_has_the_papers_number_of_parameters(expert: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = Pi05(full_size(), expert=expert)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_pi0_sees_the_state_in_its_actions_and_nowhere_else() -> None:
    model, segments = open_model("pi0"), random_segments(4)
    before, after = model(pack(segments)), model(pack([replace(s, state_D=s.state_D + 1) for s in segments]))
    assert torch.equal(after.logits_LV, before.logits_LV)
    assert (after.velocity_AKHD != before.velocity_AKHD).any(dim=(1, 2, 3)).all()


def test_generated_pi0_fast_tokens_skip_one_position() -> None:
    """openpi's decoding quirk, behind its switch: the same as training with a gap after the prompt."""
    config = replace(TINY, family="pi0_fast", pi0_fast_quirks=True)
    model = Pi05(config, expert=False)
    model.load_state_dict(open_model(expert=False).state_dict())
    s = segment(2, 3, 4, actions=False, seed=0)
    batch, gap = pack([s]), torch.zeros(11 + 4, dtype=torch.int64)
    gap[11:] = 1
    expected = model(replace(batch, positions_N=batch.positions_N + gap)).logits_LV
    cache = model.prefill(pack([replace(s, target=())]))
    logits = [model.first_logits(cache)[0], *(model.decode(cache, torch.tensor([t]))[0] for t in s.target[:-1])]
    torch.testing.assert_close(torch.stack(logits), expected, rtol=0, atol=1e-5)
