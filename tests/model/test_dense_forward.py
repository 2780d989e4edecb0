"""Any sizes and head counts, cameras masked anywhere: the packed network equals openpi's padded one with its mask.

The dense forward is written here from openpi's rules (models/pi0.py): every camera present, masks by cumulative sums,
positions by counting valid tokens. Shape letters: B samples, P padded prefix, S rows of a chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.flow import noisy_actions
from pi05_train.model.gemma import GemmaBlock, rotation
from pi05_train.model.joint import JointBlock
from pi05_train.model.pi05 import Pi05
from tests.model.golden_model import flow_batch

Inputs = dict[str, Any]


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, Inputs]:
    """A network of random sizes, and padded inputs with cameras masked anywhere; every sample keeps a prompt token."""
    kv_heads, few = draw(st.integers(1, 2)), st.integers(1, 3)
    config = ModelConfig(
        name="random",
        vision=VisionConfig(image_size=4 * draw(few), patch_size=4, width=6, depth=draw(few), mlp_dim=5, heads=2),
        backbone=TowerConfig(width=draw(st.integers(3, 9)), mlp_dim=draw(st.integers(2, 9))),
        expert=TowerConfig(width=2 * draw(st.integers(2, 5)), mlp_dim=draw(st.integers(2, 9))),
        depth=draw(few),
        heads=kv_heads * draw(few),
        kv_heads=kv_heads,
        head_dim=2 * draw(few),
        vocab_size=20,
        action_dim=draw(st.integers(1, 5)),
        action_horizon=draw(st.integers(1, 4)),
        family=draw(st.sampled_from(["pi05", "pi0"])),
    )
    samples, cameras, tokens = draw(few), draw(few), 5
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    size, chunk = config.vision.image_size, (samples, config.action_horizon, config.action_dim)
    inputs: Inputs = {
        f"in.image_u8.{c}": rng.integers(0, 256, (samples, size, size, 3), np.uint8) for c in range(cameras)
    }
    inputs |= {f"in.image_mask.{c}": rng.random(samples) < 0.6 for c in range(cameras)}
    inputs["in.image_mask.0"] |= ~np.any([inputs[f"in.image_mask.{c}"] for c in range(cameras)], axis=0)
    inputs["in.tokens"] = rng.integers(0, 20, (samples, tokens))
    inputs["in.token_mask"] = np.arange(tokens) < rng.integers(1, tokens + 1, (samples, 1))
    inputs["in.state"] = rng.normal(0, 2, (samples, config.action_dim))
    inputs |= {"in.actions": rng.normal(size=chunk), "in.noise": rng.normal(size=chunk), "in.time": rng.random(samples)}
    return config, inputs


@given(case=cases())
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_packed_equals_padded_and_masked(case: tuple[ModelConfig, Inputs]) -> None:
    config, inputs = case
    model = Pi05(config, expert=True).double()
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.5)
    cameras = [key.rpartition(".")[2] for key in inputs if key.startswith("in.image_u8.")]
    batch = flow_batch(inputs, config, cameras)
    batch = replace(batch, states_BD=torch.from_numpy(inputs["in.state"]))
    got = model(batch).velocity_AKHD[:, 0]
    torch.testing.assert_close(got, dense_velocity(model, inputs, cameras), rtol=1e-7, atol=1e-9)


def dense_velocity(model: Pi05, inputs: Inputs, cameras: list[str]) -> Tensor:
    """openpi's `compute_loss` up to v_t, [B, H, D]."""
    valid, x, chunk, condition = _embedded(model, inputs, cameras)
    rows = chunk.shape[1]
    starts = [1, 1, *[0] * (rows - 2)] if model.config.state_token else [1, *[0] * (rows - 1)]
    prefix, everything = x.shape[1], torch.cat([valid, torch.ones(len(valid), rows, dtype=torch.bool)], dim=1)
    block = torch.cat([torch.zeros(prefix, dtype=torch.int64), torch.tensor(starts)]).cumsum(0)
    allowed = (block[None, :] <= block[:, None]) & everything[:, None, :] & everything[:, :, None]
    by = rotation(everything.long().cumsum(1) - 1, model.config.head_dim, torch.float64)
    for layer in model.layers:
        assert isinstance(layer, JointBlock)
        assert layer.expert is not None
        towers = ((layer.backbone, x, None, slice(0, prefix)), (layer.expert, chunk, condition, slice(prefix, None)))
        x, chunk = _joint(towers, by, allowed, model.config)
    assert model.action is not None
    return model.action.velocity(chunk, None if condition is None else condition[:, 0])


def _embedded(model: Pi05, inputs: Inputs, cameras: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Which prefix columns are valid [B, P], the prefix [B, P, W], the chunk [B, S, W] and its condition [B, 1, W]."""
    images = [model.vision(torch.from_numpy(inputs[f"in.image_u8.{c}"]).permute(0, 3, 1, 2)) for c in cameras]
    text = model.embedding(torch.from_numpy(inputs["in.tokens"])) * model.config.backbone.width**0.5
    masks = [np.repeat(inputs[f"in.image_mask.{c}"][:, None], images[0].shape[1], 1) for c in cameras]
    valid = torch.from_numpy(np.concatenate([*masks, inputs["in.token_mask"]], axis=1))
    actions, noise, time, state = (torch.from_numpy(inputs[f"in.{n}"]) for n in ("actions", "noise", "time", "state"))
    assert model.action is not None
    chunk, condition = model.action.embed(noisy_actions(actions, noise[:, None], time[:, None])[:, 0], time, state)
    return valid, torch.cat([*images, text], dim=1), chunk, None if condition is None else condition[:, None]


def _joint(
    towers: tuple[tuple[GemmaBlock, Tensor, Tensor | None, slice], ...], by: Any, allowed: Tensor, config: ModelConfig
) -> list[Tensor]:
    """One layer: all rows in one softmax; a row that may see nothing sees anything, and nobody sees it."""
    queries, keys, values, gates = [], [], [], []
    for block, x, condition, columns in towers:
        normed, gate = block.attention_norm(x, condition)
        here = type(by)(by.cos[:, columns], by.sin[:, columns])
        k, v = block.keys_values(normed, here)
        queries.append(block.queries(normed, here))
        keys.append(k)
        values.append(v)
        gates.append(gate)
    group = config.heads // config.kv_heads
    k, v = (torch.cat(parts, dim=1).repeat_interleave(group, dim=2) for parts in (keys, values))
    scores = torch.einsum("bqhe,bkhe->bhqk", torch.cat(queries, dim=1), k) / config.head_dim**0.5
    weights = scores.masked_fill(~allowed[:, None], -2.3819763e38).softmax(-1)
    attended = torch.einsum("bhqk,bkhe->bqhe", weights, v)
    return [
        block.finish(x, attended[:, columns], gate, condition)
        for (block, x, condition, columns), gate in zip(towers, gates, strict=True)
    ]
