"""What inference keeps of prefixes, so that text and actions are computed from them without redoing them.

Shape letters: B segments, R answers, N rows of their prefixes, W width of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pi05_train.model.gemma import Rotation
from pi05_train.model.joint import KeysValues
from pi05_train.model.plan import Segments


@dataclass
class PrefixCache:
    """The prefixes of some segments after one pass through the backbone."""

    segments: Segments
    memory: list[KeysValues]
    """Per layer, keys and values of the prefix rows, then of every decoded token; `Pi05.decode` appends to it."""
    rotation: Rotation
    """That of the prefix rows; later rows take its device and precision."""
    ends_BW: Tensor
    """The last row of every prefix before the last layer: actions never read what that layer makes of it."""
    states_BD: Tensor
    owners: tuple[int, ...]
    """The segment behind every answer that is decoded; several answers may go on from one prefix."""
    decoded: int = 0
    """Target tokens appended so far, per answer."""

    def repeated(self, answers: int) -> PrefixCache:
        """The same prefixes, not copied, for so many answers to each; only before anything is decoded."""
        assert not self.decoded
        owners = tuple(owner for owner in self.owners for _ in range(answers))
        return replace(self, memory=list(self.memory), owners=owners)
