"""Sizes of the network. No torch here: commands that only read configuration stay quick."""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = ("pi05", "pi0", "pi0_fast")
"""pi05: the state is text in the prompt, the flow time modulates the expert's norms. pi0: the state is a token of the
expert, the flow time is mixed into the action tokens. pi0_fast: no expert, actions are FAST tokens only."""


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
    family: str = "pi05"
    """One of `FAMILIES`."""
    max_prompt_tokens: int = 200
    """Longer prompts are cut on the right, with a warning (openpi: 200 for pi0.5, 48 for pi0, 250 for pi0-FAST)."""
    pi0_fast_quirks: bool = False
    """Published pi0-FAST weights only: generated tokens skip one position after the prompt, and a declared camera
    that a sample lacks is a black picture (elsewhere it is absent from the sequence)."""

    @property
    def state_token(self) -> bool:
        """Whether a token with the continuous state stands before the actions."""
        return self.family == "pi0"

    @property
    def chunk_rows(self) -> int:
        """Rows of the expert's stream per chunk."""
        return self.action_horizon + self.state_token
