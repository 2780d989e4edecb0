"""What inference keeps of a prefix, so that text and actions are computed from it without redoing it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pi05_train.model.gemma import Rotation
from pi05_train.model.joint import KeysValues
from pi05_train.model.plan import ExpertPlan, Segments


@dataclass
class PrefixCache:
    """Keys and values of every layer's prefix rows, then of every decoded token; `Pi05.decode` appends to it."""

    segments: Segments
    memory: list[KeysValues]
    """One pair per layer."""
    rotation: Rotation
    last_logits_BV: Tensor
    """Scores of the first target token."""
    expert_plan: ExpertPlan | None
    decoded: int = 0
    """Target tokens appended so far, per segment."""
