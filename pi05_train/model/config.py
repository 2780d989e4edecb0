"""Sizes of the network. No torch here: commands that only read configuration stay quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP vision transformer (PaliGemma's: So400m/14)."""

    image_size: int
    """Pixels of the square input."""
    patch_size: int
    width: int
    depth: int
    mlp_dim: int
    heads: int

    @property
    def tokens_per_image(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TowerConfig:
    """One stack of Gemma blocks: the backbone or the action expert."""

    width: int
    mlp_dim: int


@dataclass(frozen=True)
class ModelConfig:
    """The whole network. Backbone and expert share depth, heads and head_dim: they attend jointly in every layer."""

    name: str
    vision: VisionConfig
    backbone: TowerConfig
    expert: TowerConfig
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    action_dim: int
    """Width of the padded action vector; no source may have more dimensions."""
    action_horizon: int
    """Steps of an action chunk (paper: 50)."""
