"""Rooms: what the table, the floor, the object and the light look like. A room is one environment_id.

Demonstrations are recorded in `ROOMS`. Closed-loop evaluation also goes to `UNSEEN_ROOMS`, and to the recorded rooms
with objects in `UNSEEN_PALETTE`, which no demonstration shows or names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

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
UNSEEN_PALETTE: dict[str, Colour] = {"green": (0.10, 0.65, 0.15), "brown": (0.45, 0.27, 0.10)}

Condition = Literal["seen", "unseen environment", "unseen object"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


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
        return (PALETTE | UNSEEN_PALETTE)[self.object_name]


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
UNSEEN_ROOMS = (
    Room(12, (0.50, 0.62, 0.42), (0.55, 0.45, 0.50), "blue", 1.0),
    Room(13, (0.30, 0.30, 0.36), (0.80, 0.78, 0.74), "yellow", 0.9),
    Room(14, (0.78, 0.62, 0.62), (0.18, 0.28, 0.24), "purple", 1.1),
    Room(15, (0.62, 0.72, 0.85), (0.48, 0.36, 0.22), "orange", 0.85),
)


def room_name(source: str, room: Room) -> str:
    """The environment_id of a room in a source's samples."""
    return f"{source}-room-{room.index:02d}"


def room_for(condition: Condition, seed: int, trained: Sequence[Room] = ROOMS) -> Room:
    """The room of an episode: `trained` are those whose demonstrations were trained on."""
    if condition == "unseen environment":
        return UNSEEN_ROOMS[seed % len(UNSEEN_ROOMS)]
    room = trained[seed % len(trained)]
    if condition == "unseen object":
        colours = tuple(UNSEEN_PALETTE)
        return replace(room, object_name=colours[seed % len(colours)])
    return room
