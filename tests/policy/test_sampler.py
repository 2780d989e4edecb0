from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.attention import RaggedCall, Stack
from pi05_train.model.chunk_plan import ChunkPlan, DenoisingPlan
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.graphs import leaves
from pi05_train.policy.guidance import Flow, Guidance, GuidedFlow, soft_weights
from pi05_train.policy.inputs import Inputs, make_inputs, make_shaped_inputs
from pi05_train.policy.sampler import Sampler, euler, flow_times
from tests.model.batches import TINY, Segment, open_model, pack, segment, without_target


@dataclass
class StraightFlow:
    """A flow that is known: every x_t is carried on a straight line to `data`."""

    data: Tensor
    times: list[float]
    asked: list[float] = field(default_factory=list)

    def velocity(self, x: Tensor, step: int) -> Tensor:
        self.asked.append(self.times[step])
        return (x - self.data) / self.times[step]


def path_of(flow: StraightFlow, noise: Tensor, dims: Tensor, steps: int) -> list[Tensor]:
    return [x for x, _ in euler(flow, noise, dims, steps)]


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(1, 40), seed=st.integers(0, 1000))
def test_straight_flow_lands_on_the_data_whatever_the_number_of_steps(steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    flow = StraightFlow(torch.randn(3, 5, 2, generator=generator), flow_times(steps))
    noise = torch.randn(3, 5, 2, generator=generator)
    *_, actions = path_of(flow, noise, torch.ones(3, 2), steps)
    torch.testing.assert_close(actions, flow.data, atol=2e-5, rtol=1e-4)
    assert len(flow.asked) == steps


def test_ten_steps_visit_the_times_of_the_reference_sampler() -> None:
    assert flow_times(10) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0], abs=1e-6)


def test_padded_dims_stay_zero_as_in_training() -> None:
    flow = StraightFlow(torch.full((2, 3, 4), 5.0), flow_times(5))
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True, False, False], [True, True, True, True]])
    for t, x in zip(flow.times, path_of(flow, noise, real, 5), strict=True):
        expected = (t * noise + (1 - t) * flow.data) * real[:, None]
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


SEGMENTS = [segment(*shape, 0, actions=True, seed=i) for i, shape in enumerate([(2, 5), (1, 2), (0, 7), (2, 5)])]
NOISE = torch.randn(4, TINY.action_horizon, TINY.action_dim, generator=torch.Generator().manual_seed(5))


@dataclass
class Recomputed:
    """Every step runs the whole network, as in training, on the noisy chunk; nothing is kept."""

    model: Pi05
    segments: list[Segment]
    steps: int

    def velocity(self, x: Tensor, step: int) -> Tensor:
        now = torch.full((1,), flow_times(self.steps)[step])
        # x_t is what the noise would be at t = 1, were the clean actions chosen so that the path passes here.
        noisy = [
            replace(s, actions_HD=torch.zeros_like(n), noise_KHD=(n / now)[None], time_K=now)
            for s, n in zip(self.segments, x, strict=True)
        ]
        velocity = self.model(pack(noisy)).velocity_AKHD
        assert velocity is not None
        return velocity[:, 0]


@torch.no_grad()
def recomputed(
    model: Pi05, segments: list[Segment], noise: Tensor, steps: int, guidance: Guidance | None = None
) -> Tensor:
    flow: Flow = Recomputed(model, segments, steps)
    if guidance is not None:
        flow = GuidedFlow(flow, guidance, flow_times(steps))
    *_, (x, _) = euler(flow, noise, torch.ones(len(noise), noise.shape[-1]), steps)
    return x


@pytest.mark.parametrize("family", ["pi05", "pi0"])
@pytest.mark.parametrize("steps", [1, 10])
def test_cached_sampling_equals_full_recomputation(family: str, steps: int) -> None:
    model = open_model(family)
    expected = recomputed(model, SEGMENTS, NOISE, steps)
    got = Sampler(model, steps=steps).actions(pack([without_target(s) for s in SEGMENTS]), NOISE)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_compiled_blocks_give_the_same_chunks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, batch = open_model(family), pack([without_target(s) for s in SEGMENTS])
    plain = Sampler(model, steps=3).actions(batch, NOISE)
    model.compile_inference()
    torch.testing.assert_close(Sampler(model, steps=3).actions(batch, NOISE), plain, rtol=0, atol=1e-5)
    everything = torch.ones(len(NOISE), NOISE.shape[-1], dtype=torch.bool)
    nowhere = Guidance(NOISE, torch.zeros_like(NOISE), 5.0)
    guided = Sampler(model, steps=3).guided_actions(batch, NOISE, everything, nowhere)
    torch.testing.assert_close(guided, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_guidance_through_the_cache_equals_guidance_through_the_whole_network(family: str) -> None:
    model = open_model(family)
    horizon, dims = NOISE.shape[1:]
    weights = torch.stack([soft_weights(horizon, horizon - s, 1) for s in (0, 0, 1, 1)])[..., None].expand_as(NOISE)
    guidance = Guidance(torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(6)), weights, 5.0)
    expected = recomputed(model, SEGMENTS, NOISE, 4, guidance)
    batch = pack([without_target(s) for s in SEGMENTS])
    everything = torch.ones(len(NOISE), dims, dtype=torch.bool)
    sampler = Sampler(model, steps=4)
    got = sampler.guided_actions(batch, NOISE, everything, guidance)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert (got - sampler.actions(batch, NOISE)).abs().max() > 0.1
    nowhere = replace(guidance, weights_BHD=torch.zeros_like(NOISE))
    plain = sampler.guided_actions(batch, NOISE, everything, nowhere)
    torch.testing.assert_close(plain, sampler.actions(batch, NOISE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_a_chunk_does_not_depend_on_its_company(family: str) -> None:
    sampler = Sampler(open_model(family), steps=3)
    together = sampler.actions(pack(SEGMENTS), NOISE)
    for i, s in enumerate(SEGMENTS):
        alone = sampler.actions(pack([s]), NOISE[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_prompts_of_other_lengths_share_a_shape_and_keep_their_chunks(family: str) -> None:
    """What a CUDA graph needs; here the lengths that variable-length attention reads on the device are given back."""
    model = open_model(family)
    times, dims = torch.tensor(flow_times(3)[:-1]), torch.ones(2, TINY.action_dim, dtype=torch.bool)
    sampler = Sampler(model, steps=3)
    kinds = []
    for pair in ([SEGMENTS[0], SEGMENTS[1]], [SEGMENTS[3], segment(1, 6, 0, actions=True, seed=9)]):
        parts = model, pack(pair), NOISE[:2], dims, times
        exact, shaped = make_inputs(*parts), make_shaped_inputs(*parts)
        kinds.append([leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves(shaped)])
        torch.testing.assert_close(sampler._run(with_lengths(shaped)), sampler._run(exact), rtol=0, atol=1e-5)
    assert kinds[0] == kinds[1]


def with_lengths(inputs: Inputs) -> Inputs:
    """The inputs with what the host knows of lengths taken from the cumulative ones, as the kernel does."""

    def known(call: RaggedCall) -> RaggedCall:
        queries, keys = call.cumulative_queries.diff().tolist(), call.cumulative_keys.diff().tolist()
        return replace(call, stacks=tuple(Stack(1, q, k) for q, k in zip(queries, keys, strict=True)))

    def chunks(plan: ChunkPlan) -> ChunkPlan:
        call = known(plan.call)
        return replace(plan, call=call, memory_rows_J=plan.memory_rows_J[: call.cumulative_keys[-1]])

    plan, (call,) = inputs.denoising, inputs.prefix.calls
    return replace(
        inputs,
        prefix=replace(inputs.prefix, calls=(known(call),)),
        denoising=DenoisingPlan(chunks(plan.chunks), None if plan.states is None else chunks(plan.states)),
    )
