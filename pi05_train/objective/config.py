"""The weights of the objective. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveConfig:
    """One objective, weighted differently per stage: pre-training is alpha = 0 without an expert, post-training
    alpha = 10 with an expert (paper section IV-D)."""

    alpha: float
    """Weight of the flow term."""
    insulation: bool
    """No gradient from the actions into the backbone."""
    expert: bool
    """Whether the network has an action expert."""
    flow_draws: int = 1
    """Pairs of noise and time per prefix and step; one in the paper."""
    text: bool = True
    """Whether targets (text, FAST tokens) are trained; without them no target stands in the sequence (pi0)."""
    openpi_exact: bool = False
    """Average the flow loss over padded dimensions and steps too, as openpi does."""
