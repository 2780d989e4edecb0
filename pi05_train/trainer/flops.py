"""Floating-point operations of a training step, counted from shapes.

The formula: 2 per multiply-add; matrix products and attention only; attention 4 * queries * keys * heads * head_dim
per layer without halving the causal part; training is 3 times the forward pass. Embedding look-ups, norms, softmax
and the backward that insulation or freezing saves are left as they are: a yardstick, the same for every engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig

PARTS = ("vision", "backbone", "attention", "head", "expert")
"""Of the operations: `attention` is the backbone's; the expert's own is in `expert`."""


class Load(NamedTuple):
    """What a micro-batch, or several together, put through the network."""

    images: float
    prefix_rows: float
    target_rows: float
    pairs: float
    """Queries times keys of the backbone's attention, summed over segments."""
    labels: float
    chunks: float
    """Segments with actions times flow draws."""
    chunk_prefix_rows: float
    """Prefix rows that the chunks see, summed over chunks."""

    @classmethod
    def of(cls, batch: Batch) -> Load:
        """The load of a batch."""
        lengths = list(zip(batch.prefix_lengths, batch.target_lengths, strict=True))
        draws = batch.noise_AKHD.shape[1]
        return cls(
            images=batch.images_ICHW.shape[0],
            prefix_rows=sum(batch.prefix_lengths),
            target_rows=sum(batch.target_lengths),
            pairs=sum(p * p + t * (p + t) for p, t in lengths),
            labels=batch.labels_L.shape[0],
            chunks=len(batch.action_segments) * draws,
            chunk_prefix_rows=draws * sum(batch.prefix_lengths[i] for i in batch.action_segments),
        )

    @property
    def rows(self) -> float:
        return self.prefix_rows + self.target_rows


def total(loads: Iterable[Load]) -> Load:
    """All of them together."""
    return Load(*map(sum, zip(*loads, strict=True)))


def training_flops(batch: Batch, model: ModelConfig) -> float:
    """Operations of forward and backward on one micro-batch."""
    return 3 * sum(forward_flops(Load.of(batch), model).values())


def forward_flops(load: Load, model: ModelConfig) -> dict[str, float]:
    """Operations of the forward pass, by `PARTS`."""
    return {
        "vision": load.images * _image(model.vision, model.backbone.width),
        "backbone": load.rows * model.depth * _block(model, model.backbone),
        "attention": load.pairs * _attention(model),
        "head": 2 * load.labels * model.backbone.width * model.vocab_size,
        "expert": _expert(load, model) if load.chunks else 0.0,
    }


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


def _expert(load: Load, model: ModelConfig) -> float:
    width, rows = model.expert.width, model.chunk_rows
    pairs = rows * (load.chunk_prefix_rows + load.chunks * rows)
    per_row = model.depth * _block(model, model.expert) + 4 * model.action_dim * width
    # Per chunk: pi0 mixes the time into every action (two matrices, the first twice as high); pi0.5 projects it twice
    # and modulates two norms per layer and the last one.
    mixing, modulation = 6 * width**2 * model.action_horizon, 4 * width**2 + (2 * model.depth + 1) * 6 * width**2
    return load.chunks * (rows * per_row + (mixing if model.state_token else modulation)) + pairs * _attention(model)
