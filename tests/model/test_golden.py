"""The same weights give openpi's numbers: tiny random pi0.5 and pi0 computed by openpi's JAX code.

Tolerances are float32's, as measured between openpi's own JAX and PyTorch code. Rows that openpi masks are absent here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pi05_train.model.batch import Batch
from pi05_train.model.flow import flow_target, noisy_actions, time_embedding
from pi05_train.model.gemma import rotate, rotation
from pi05_train.model.pi05 import Pi05
from pi05_train.model.plan import Segments
from pi05_train.objective.losses import flow_loss_per_segment
from pi05_train.policy.sampler import Sampler
from tests.golden_numbers import assert_golden, golden, golden_json
from tests.model.golden_model import flow_batch, golden_model, in_openpis_layout, run_layers, tensor

Arrays = dict[str, Any]
FLOW = ["pi05_tiny", "pi0_tiny"]


@pytest.fixture(scope="module", params=FLOW)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def io(name: str) -> Arrays:
    return golden(f"openpi_jax/{name}_io")


@pytest.fixture(scope="module")
def model(name: str) -> Pi05:
    return golden_model(name)


@pytest.fixture(scope="module")
def batch(io: Arrays, model: Pi05, name: str) -> Batch:
    return flow_batch(io, model.config, golden_json("configs")[name]["camera_order"])


@torch.no_grad()
def test_embeddings_and_every_layer(model: Pi05, batch: Batch, io: Arrays) -> None:
    valid = io["mid.prefix_pad_mask"]
    xs, chunks, memory = run_layers(model, batch)
    close = {"rtol": 0, "atol": 1e-5}
    assert_golden(xs[0], io["mid.prefix_emb"][valid], **close, name="prefix_emb")
    assert_golden(chunks[0], io["mid.suffix_emb"], **close, name="suffix_emb")
    for i, (x, chunk, (k, v)) in enumerate(zip(xs[1:], chunks[1:], memory, strict=True)):
        assert_golden(x, io["mid.layer_prefix_hidden"][i][valid], **close, name=f"layer {i}, prefix")
        assert_golden(chunk, io["mid.layer_suffix_hidden"][i], rtol=0, atol=2e-5, name=f"layer {i}, suffix")
        assert_golden(k, io["out.prefix_kv_k"][i][valid], **close, name=f"layer {i}, cached keys")
        assert_golden(v, io["out.prefix_kv_v"][i][valid], **close, name=f"layer {i}, cached values")
    hidden, _ = model.final_norm(xs[-1])
    assert_golden(hidden, io["out.prefix_only_hidden"][valid], **close, name="prefix_only_hidden")
    assert_golden(hidden, io["out.prefix_out_joint"][valid], **close, name="prefix_out_joint")


@torch.no_grad()
def test_conditions_and_the_expert_s_last_norm(model: Pi05, batch: Batch, io: Arrays) -> None:
    action = model.action
    assert action is not None
    assert_golden(time_embedding(batch.time_AK[:, 0], 64), io["mid.time_posemb"], rtol=0, atol=2e-5)
    _, condition = model._embed_actions(action, batch, batch.action_segments)
    if condition is not None:
        assert_golden(condition, io["mid.adarms_cond"], rtol=0, atol=1e-5)
    _, chunks, _ = run_layers(model, batch)
    suffix, _ = action.final_norm(chunks[-1], None if condition is None else condition[:, None])
    assert_golden(suffix, io["out.suffix_out"], rtol=0, atol=2e-5)


@torch.no_grad()
def test_vision_tower(model: Pi05, io: Arrays) -> None:
    tower, images = model.vision, tensor(io["in.image_u8.base_0_rgb"]).permute(0, 3, 1, 2)
    close = {"rtol": 0, "atol": 1e-5}
    pixels = images / 255 * 2 - 1
    assert_golden(pixels.permute(0, 2, 3, 1), io["in.image.base_0_rgb"], rtol=0, atol=1e-6)
    stem = tower.patch_embedding(pixels).flatten(2).transpose(1, 2)
    assert_golden(stem, io["mid.siglip.stem"], **close)
    x = tower._embed(images)
    assert_golden(x, io["mid.siglip.with_posemb"], **close)
    for i, block in enumerate(tower.blocks):
        x = block(x)
        assert_golden(x, io[f"mid.siglip.block0{i}_out"], **close)
    assert_golden(tower.norm(x), io["mid.siglip.encoded"], **close)
    assert_golden(tower(images), io["mid.siglip.head_out"], **close)


def test_masks_and_positions_in_openpis_form(batch: Batch, model: Pi05, io: Arrays) -> None:
    """What openpi masks is what the batch leaves out, and every row that is left has openpi's position."""
    valid, suffix = io["mid.prefix_pad_mask"], io["mid.suffix_pad_mask"]
    assert suffix.all()
    assert suffix.shape[1] == model.config.chunk_rows
    np.testing.assert_array_equal(valid.sum(1), batch.prefix_lengths)
    positions, prefix = io["mid.positions"], valid.shape[1]
    np.testing.assert_array_equal(batch.positions_N, positions[:, :prefix][valid])
    segments = Segments(batch.prefix_lengths, batch.target_lengths)
    plan = model._expert_plan(segments, batch.action_segments, model.rotation(batch.positions_N))
    expected = rotation(tensor(positions[:, prefix:]), model.config.head_dim)
    torch.testing.assert_close(plan.rotation.cos, expected.cos, rtol=0, atol=0)
    np.testing.assert_array_equal(positions[:, prefix:], io["mid.sample.positions"])
    for s, start in enumerate(segments.starts):
        allowed = io["mid.attn_mask"][s][:, np.concatenate([valid[s], suffix[s]])]
        for row in range(model.config.chunk_rows):
            assert allowed[prefix + row].sum() == segments.prefix[s] + keys_in_chunk(model, row), (start, row)


def keys_in_chunk(model: Pi05, row: int) -> int:
    """pi0's state sees itself alone; every other row sees the whole chunk."""
    return 1 if model.config.state_token and row == 0 else model.config.chunk_rows


@torch.no_grad()
def test_velocity_and_loss(model: Pi05, batch: Batch, io: Arrays) -> None:
    noisy = noisy_actions(batch.actions_AHD, batch.noise_AKHD, batch.time_AK)[:, 0]
    target = flow_target(batch.actions_AHD, batch.noise_AKHD)[:, 0]
    assert_golden(noisy, io["mid.x_t"], rtol=0, atol=1e-6)
    assert_golden(target, io["mid.u_t"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(batch.time_AK[:, 0], io["in.beta_draw"] * 0.999 + 0.001, rtol=1e-6)
    velocity = model(batch).velocity_AKHD
    assert_golden(velocity[:, 0], io["out.v_t"], rtol=0, atol=2e-5, name="v_t")
    squared = (velocity[:, 0] - target).square()
    assert_golden(squared, io["out.loss_per_element"], rtol=0, atol=2e-4)
    assert_golden(squared.mean(-1), io["out.loss"], rtol=1e-4, atol=0)
    loss = flow_loss_per_segment(velocity, batch, openpi_exact=True)
    np.testing.assert_allclose(loss.mean(), io["out.loss_mean"], rtol=1e-4)


def test_gradients_of_the_flow_loss(model: Pi05, batch: Batch, io: Arrays, name: str) -> None:
    """Without insulation, as openpi trains; leaf by leaf where the reference has them, their norm elsewhere."""
    model.zero_grad()
    velocity = model(batch, insulation=False).velocity_AKHD
    flow_loss_per_segment(velocity, batch, openpi_exact=True).mean().backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    np.testing.assert_allclose(norm, io["out.grad_global_norm"], rtol=1e-4)
    if name != "pi05_tiny":
        return
    got = in_openpis_layout(model, {n: p.grad for n, p in model.named_parameters()})
    expected = golden("openpi_jax/pi05_tiny_grads")
    assert got.keys() == expected.keys()
    for path, gradient in expected.items():
        assert_golden(got[path], gradient, rtol=1e-4, atol=1e-6, name=path)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_sampled_actions(model: Pi05, batch: Batch, io: Arrays, steps: int) -> None:
    cache, noise = model.prefill(batch), tensor(io["in.noise_sample"])
    path = list(Sampler(model, steps=steps).path(batch, noise))
    denoiser = model.denoiser(cache, torch.tensor([time for time, *_ in path]))
    assert_golden(path[-1][1], io[f"out.sample_actions_n{steps}"], rtol=0, atol=5e-5)
    if steps == 10:
        for i, (time, x, _) in enumerate(path[:-1]):
            assert time == pytest.approx(io["mid.sample.t"][i], abs=1e-6)
            assert_golden(x, io["mid.sample.x_t"][i], rtol=0, atol=5e-5)
            velocity = denoiser.velocity(x, i)
            assert_golden(velocity, io["mid.sample.v_t"][i], rtol=0, atol=5e-5)
            torch.testing.assert_close(path[i + 1][2], velocity, rtol=0, atol=0)


@torch.no_grad()
def test_bf16_stays_within_openpis_own_distance(model: Pi05, batch: Batch, io: Arrays) -> None:
    """openpi's bf16 numbers are no target; ours may be as far from float32 as theirs are, give or take."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = model(batch).velocity_AKHD
    loss = (velocity[:, 0].float() - tensor(io["mid.u_t"])).square().mean(-1)
    theirs = np.abs(io["out.bf16.loss"] - io["out.loss"]).max()
    assert np.abs(loss.numpy() - io["out.loss"]).max() < 2 * theirs


def test_time_embedding_and_rotation() -> None:
    numbers = golden("preprocessing/numerics")
    for width in (64, 1024):
        got = time_embedding(tensor(numbers["posemb.t"]), width)
        assert_golden(got, numbers[f"posemb.jax_f32_d{width}"], rtol=0, atol=3e-5)
        exact = time_embedding(tensor(numbers["posemb.t"]).double(), width)
        assert_golden(exact, numbers[f"posemb.torch_f64_d{width}"], rtol=0, atol=1e-9)
    for name in ("rope", "rope256"):
        x, positions = tensor(numbers[f"{name}.x"]), tensor(numbers[f"{name}.positions"])
        got = rotate(x, rotation(positions, x.shape[-1]))
        assert_golden(got, numbers[f"{name}.out"], rtol=0, atol=1e-5)
