"""Floating-point operations of a training step, counted from shapes, and what a device could do at most.

The formula: 2 per multiply-add; matrix products and attention only; attention 4 * queries * keys * heads * head_dim
per layer without halving the causal part; training is 3 times the forward pass. Embedding look-ups, norms, softmax
and the backward that insulation saves are left as they are: a yardstick, the same for every engine.
"""

from __future__ import annotations

import re

from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig

PEAK_FLOPS = (
    (r"\bH100 PCIe\b", 756e12),
    (r"\b(H100|H200) NVL\b", 835e12),
    (r"\bH100\b", 989e12),
    (r"\bH200\b", 989e12),
    (r"\bA100\b", 312e12),
)
"""Device name pattern to dense bf16 operations per second (NVIDIA data sheets); the first match counts."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak per second; None for a device not in the table: a guess would be a wrong MFU."""
    return next((peak for pattern, peak in PEAK_FLOPS if re.search(pattern, device_name)), None)


def training_flops(batch: Batch, model: ModelConfig) -> float:
    """Operations of forward and backward on one micro-batch."""
    images = batch.images_ICHW.shape[0]
    rows = sum(batch.prefix_lengths) + sum(batch.target_lengths)
    pairs = sum(p * p + t * (p + t) for p, t in zip(batch.prefix_lengths, batch.target_lengths, strict=True))
    forward = images * _image(model.vision, model.backbone.width)
    forward += rows * model.depth * _block(model, model.backbone) + pairs * _attention(model)
    forward += 2 * batch.labels_L.shape[0] * model.backbone.width * model.vocab_size
    if batch.action_segments:
        forward += _expert(batch, model)
    return 3 * forward


def _image(vision: VisionConfig, backbone_width: int) -> float:
    tokens, width = vision.tokens_per_image, vision.width
    per_token = 2 * 3 * vision.patch_size**2 * width + 2 * width * backbone_width
    per_token += vision.depth * (8 * width**2 + 4 * width * vision.mlp_dim)
    return tokens * per_token + vision.depth * 4 * tokens**2 * width


def _block(model: ModelConfig, tower: TowerConfig) -> float:
    """One row through one layer's projections and MLP."""
    projections = 2 * (model.heads + model.kv_heads) * model.head_dim * tower.width
    return 2 * (projections + 3 * tower.width * tower.mlp_dim)


def _attention(model: ModelConfig) -> float:
    """One query on one key, through all layers."""
    return 4 * model.heads * model.head_dim * model.depth


def _expert(batch: Batch, model: ModelConfig) -> float:
    width, rows, draws = model.expert.width, model.chunk_rows, batch.noise_AKHD.shape[1]
    chunks = len(batch.action_segments) * draws
    pairs = draws * rows * sum(batch.prefix_lengths[i] + rows for i in batch.action_segments)
    per_row = model.depth * _block(model, model.expert) + 4 * model.action_dim * width
    # Per chunk: pi0 mixes the time into every action (two matrices, the first twice as high); pi0.5 projects it twice
    # and modulates two norms per layer and the last one.
    mixing, modulation = 6 * width**2 * model.action_horizon, 4 * width**2 + (2 * model.depth + 1) * 6 * width**2
    return chunks * (rows * per_row + (mixing if model.state_token else modulation)) + pairs * _attention(model)
