"""openpi's pi0-FAST decoding with every mask spelled out: padded, right-aligned, masked rows and all.

Source: openpi models/pi0_fast.py (`sample_actions`). Shape letters: B samples, P padded prefix, T decoding steps,
W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pi05_train.model.gemma import rotation
from pi05_train.model.joint import JointBlock
from pi05_train.model.pi05 import Pi05
from tests.golden_numbers import assert_golden

FORBIDDEN = -2.3819763e38
"""openpi's score of a forbidden key: a row with no allowed key becomes uniform over all keys, the empty ones too."""


def dense_greedy_decoding(model: Pi05, io: Mapping[str, Any]) -> tuple[Tensor, NDArray[np.int64]]:
    """The logits each token is chosen from, [T, B, V], and the tokens [T, B]."""
    valid = torch.from_numpy(io["mid.sample.prefix_mask_aligned"])
    steps, (samples, prefix) = len(io["mid.sample.step_tokens"]), valid.shape
    seen = valid[:, :, None] & valid[:, None]
    assert_golden(seen, io["mid.sample.prefix_attn_aligned"], rtol=0, atol=0)
    seen = functional.pad(seen, (0, steps))
    positions = valid.long().cumsum(1) - 1
    np.testing.assert_array_equal(positions, io["mid.sample.prefix_positions"])
    cache = [torch.zeros(2, samples, prefix + steps, 1, model.config.head_dim) for _ in model.layers]
    x = aligned_embeddings(model, io)
    logits = _forward(model, x, positions, seen, cache, slice(0, prefix))[:, -1]
    lengths, columns = valid.sum(1), torch.arange(prefix + steps)
    all_logits, tokens = [], []
    for step in range(steps):
        all_logits.append(logits)
        token = logits.argmax(-1)
        position = (lengths + step + 1)[:, None]
        np.testing.assert_array_equal(position, io["mid.sample.step_positions"][step])
        allowed = (columns >= prefix - lengths[:, None]) & (columns < prefix + step + 1)
        x = model._embed_text(token)[:, None]
        at = slice(prefix + step, prefix + step + 1)
        logits = _forward(model, x, position, allowed[:, None], cache, at)[:, -1]
        tokens.append(token.numpy())
    return torch.stack(all_logits), np.stack(tokens)


def aligned_embeddings(model: Pi05, io: Mapping[str, Any]) -> Tensor:
    """[B, P, W]: every camera and every token, valid or not, rolled so that the last valid one comes last."""
    cameras = [key for key in io if key.startswith("in.image_u8.")]
    images = [model.vision(torch.from_numpy(io[key]).permute(0, 3, 1, 2)) for key in cameras]
    x = torch.cat([*images, model._embed_text(torch.from_numpy(io["in.sample.tokens"]).long())], dim=1)
    masks = [np.repeat(io[key.replace("image_u8", "image_mask")][:, None], images[0].shape[1], 1) for key in cameras]
    valid = np.concatenate([*masks, io["in.sample.token_mask"].astype(bool)], axis=1)
    np.testing.assert_array_equal(valid, io["mid.sample.prefix_mask_unaligned"])
    return torch.stack([row.roll(-(int(np.flatnonzero(v).max()) + 1), 0) for row, v in zip(x, valid, strict=True)])


def _forward(model: Pi05, x: Tensor, positions: Tensor, allowed: Tensor, cache: list[Tensor], columns: slice) -> Tensor:
    """Logits of the rows `x`; their keys and values go into `columns` of the cache."""
    by = rotation(positions, model.config.head_dim)
    for layer, memory in zip(model.layers, cache, strict=True):
        assert isinstance(layer, JointBlock)
        block = layer.backbone
        normed, _ = block.attention_norm(x)
        memory[0][:, columns], memory[1][:, columns] = block.keys_values(normed, by)
        q = block.queries(normed, by) * model.config.head_dim**-0.5
        scores = torch.einsum("bqhe,bke->bhqk", q, memory[0][:, :, 0])
        weights = torch.where(allowed[:, None], scores, FORBIDDEN).softmax(-1)
        x = block.finish(x, torch.einsum("bhqk,bke->bqhe", weights, memory[1][:, :, 0]), None, None)
    hidden, _ = model.final_norm(x)
    return functional.linear(hidden, model.embedding.weight)
