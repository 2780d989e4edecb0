"""The same weights give openpi's numbers: a tiny random pi0.5 computed by openpi's JAX code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.flow import time_embedding
from pi05_train.model.gemma import rotate, rotation
from pi05_train.model.pi05 import Pi05
from pi05_train.model.plan import Segments, backbone_plan
from pi05_train.objective.losses import flow_loss_per_segment
from tests.model.openpi_names import to_our_names

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
GOLDEN = SHARED / "golden"
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="openpi's reference numbers (shared/golden) are absent")


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array))


@pytest.fixture(scope="module")
def io() -> dict[str, Any]:
    with np.load(GOLDEN / "openpi_jax/pi05_tiny_io.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model() -> Pi05:
    sizes = json.loads((GOLDEN / "configs.json").read_text())["pi05_tiny"]
    vision, backbone, expert = sizes["siglip"], sizes["backbone"], sizes["expert"]
    names = ("width", "depth", "mlp_dim", "patch_size")
    config = ModelConfig(
        name="pi05_tiny",
        vision=VisionConfig(
            image_size=sizes["image_resolution"], heads=vision["num_heads"], **{n: vision[n] for n in names}
        ),
        backbone=TowerConfig(width=backbone["width"], mlp_dim=backbone["mlp_dim"]),
        expert=TowerConfig(width=expert["width"], mlp_dim=expert["mlp_dim"]),
        depth=backbone["depth"],
        heads=backbone["num_heads"],
        kv_heads=backbone["num_kv_heads"],
        head_dim=backbone["head_dim"],
        vocab_size=sizes["vocab_size"],
        action_dim=sizes["action_dim"],
        action_horizon=sizes["action_horizon"],
    )
    model = Pi05(config, expert=True)
    with np.load(GOLDEN / "openpi_jax/pi05_tiny_params.npz") as leaves:
        model.load_state_dict(to_our_names(leaves), strict=True)
    return model


@pytest.fixture(scope="module")
def batch(io: dict[str, Any], model: Pi05) -> Batch:
    """openpi's two samples; masked cameras and padded prompt tokens are simply absent."""
    per_image = model.config.vision.tokens_per_image
    images, ids, positions, image_rows, prefixes = [], [], [], [], []
    for s in range(2):
        present = [c for c in CAMERAS if io[f"in.image_mask.{c}"][s]]
        images += [tensor(io[f"in.image_u8.{c}"][s]).permute(2, 0, 1) for c in present]
        image_rows += range(len(ids), len(ids) + len(present) * per_image)
        prompt = io["in.tokens"][s][io["in.token_mask"][s]].tolist()
        ids += [0] * len(present) * per_image + prompt
        prefixes.append(len(present) * per_image + len(prompt))
        positions += range(prefixes[-1])
    actions = tensor(io["in.actions"])
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        images_ICHW=torch.stack(images),
        image_rows_V=torch.tensor(image_rows),
        token_ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        prefix_lengths=tuple(prefixes),
        target_lengths=(0, 0),
        label_rows_L=none,
        labels_L=none,
        label_segments_L=none,
        action_segments=(0, 1),
        actions_AHD=actions,
        action_mask_AHD=torch.ones_like(actions, dtype=torch.bool),
        noise_AKHD=tensor(io["in.noise"])[:, None],
        time_AK=tensor(io["in.time"])[:, None],
        states_BD=tensor(io["in.state"]),
        segments=tuple(SegmentInfo("golden", "CE", str(s), s) for s in range(2)),
    )


def test_velocity_and_loss(model: Pi05, batch: Batch, io: dict[str, Any]) -> None:
    velocity = model(batch).velocity_AKHD
    torch.testing.assert_close(velocity[:, 0], tensor(io["out.v_t"]), rtol=0, atol=2e-5)
    loss = flow_loss_per_segment(velocity, batch, openpi_exact=True)
    torch.testing.assert_close(loss, tensor(io["out.loss"].mean(1)), rtol=1e-4, atol=0)


def test_gradients_of_the_flow_loss(model: Pi05, batch: Batch) -> None:
    """Without insulation, as openpi trains."""
    model.zero_grad()
    output = model(batch, insulation=False)
    flow_loss_per_segment(output.velocity_AKHD, batch, openpi_exact=True).mean().backward()
    with np.load(GOLDEN / "openpi_jax/pi05_tiny_grads.npz") as leaves:
        expected = to_our_names(leaves)
    parameters = dict(model.named_parameters())
    assert expected.keys() == parameters.keys()
    for name, gradient in expected.items():
        got = parameters[name].grad
        got = torch.zeros_like(gradient) if got is None else got
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_prefix_hidden_states(model: Pi05, batch: Batch, io: dict[str, Any]) -> None:
    valid = tensor(io["mid.prefix_pad_mask"])
    x = model._embed(batch)
    torch.testing.assert_close(x, tensor(io["mid.prefix_emb"])[valid], rtol=0, atol=1e-5)
    plan = backbone_plan(Segments(batch.prefix_lengths, batch.target_lengths), model._rotation(batch.positions_N))
    for layer, expected in zip(model.layers, tensor(io["mid.layer_prefix_hidden"]), strict=True):
        x, _, _ = layer(x, None, None, plan, None)
        torch.testing.assert_close(x, expected[valid], rtol=0, atol=1e-5)
    hidden, _ = model.final_norm(x)
    torch.testing.assert_close(hidden, tensor(io["out.prefix_only_hidden"])[valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_sampled_actions(model: Pi05, batch: Batch, io: dict[str, Any], steps: int) -> None:
    cache = model.prefill(batch)
    x, time, dt = tensor(io["in.noise_sample"]), torch.tensor(1.0), torch.tensor(-1.0 / steps)
    while time >= -dt / 2:
        x = x + dt * model.velocity(cache, x, time.expand(2))
        time = time + dt
    torch.testing.assert_close(x, tensor(io[f"out.sample_actions_n{steps}"]), rtol=0, atol=5e-5)


def test_time_embedding_and_rotation() -> None:
    with np.load(GOLDEN / "preprocessing/numerics.npz") as file:
        numbers = dict(file)
    for width in (64, 1024):
        got = time_embedding(tensor(numbers["posemb.t"]), width)
        torch.testing.assert_close(got, tensor(numbers[f"posemb.jax_f32_d{width}"]), rtol=0, atol=2e-4)
    for name in ("rope", "rope256"):
        x, positions = tensor(numbers[f"{name}.x"]), tensor(numbers[f"{name}.positions"])
        got = rotate(x, rotation(positions, x.shape[-1]))
        torch.testing.assert_close(got, tensor(numbers[f"{name}.out"]), rtol=0, atol=1e-5)
