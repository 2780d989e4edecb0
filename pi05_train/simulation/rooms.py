"""Twelve rooms: what the table, the floor, the object and the light look like. A room is one environment_id."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]

PALETTE: dict[str, Colour] = {
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "black": (0.06, 0.06, 0.06),
    "purple": (0.55, 0.10, 0.70),
    "orange": (1.00, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
}
"""Object colours a person has a word for; none is near the red of the targets."""


@dataclass(frozen=True)
class Room:
    """One look. Colours are red, green, blue in [0, 1]."""

    index: int
    table: Colour
    floor: Colour
    object_name: str
    light: float
    """Brightness of the lamps, 1 as the simulator has it."""

    @property
    def object(self) -> Colour:
        return PALETTE[self.object_name]


ROOMS = (
    Room(0, (0.93, 0.93, 0.93), (0.20, 0.20, 0.20), "black", 1.0),
    Room(1, (0.70, 0.55, 0.40), (0.35, 0.35, 0.38), "blue", 1.0),
    Room(2, (0.55, 0.60, 0.68), (0.15, 0.18, 0.25), "yellow", 0.9),
    Room(3, (0.85, 0.80, 0.65), (0.30, 0.22, 0.15), "purple", 1.0),
    Room(4, (0.45, 0.35, 0.28), (0.60, 0.60, 0.60), "cyan", 1.1),
    Room(5, (0.75, 0.85, 0.78), (0.25, 0.30, 0.25), "orange", 0.9),
    Room(6, (0.65, 0.65, 0.65), (0.45, 0.40, 0.30), "blue", 0.8),
    Room(7, (0.95, 0.90, 0.80), (0.50, 0.50, 0.55), "black", 1.1),
    Room(8, (0.40, 0.45, 0.50), (0.70, 0.68, 0.62), "yellow", 1.0),
    Room(9, (0.80, 0.70, 0.75), (0.22, 0.22, 0.30), "purple", 0.9),
    Room(10, (0.60, 0.50, 0.35), (0.28, 0.28, 0.28), "cyan", 1.0),
    Room(11, (0.88, 0.88, 0.95), (0.40, 0.30, 0.25), "orange", 1.1),
)
