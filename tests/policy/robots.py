"""A robot for a made-up source, and the observation that such a robot would send where a sample was recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from pi05_train.samples.card import SourceCard
from pi05_train.samples.robot_card import ActionPart, CameraView, RobotCard, StatePart
from pi05_train.samples.schema import Sample


def robot_of(card: SourceCard) -> RobotCard:
    """The card of the robot that recorded a source."""
    mask = [*card.delta_mask, *[False] * (card.action_dim - len(card.delta_mask))]
    return RobotCard(
        name=f"{card.name}_robot",
        control_mode=card.control_mode,
        rate_hz=card.rate_hz,
        cameras={f"images/{camera}": CameraView(camera) for camera in card.cameras},
        state=[
            StatePart("joints", "first joint", 1, "rad"),
            StatePart("joints", "other joints", card.state_dim - 2, "rad"),
            StatePart("gripper", "gripper", 1, "m"),
        ],
        actions=[ActionPart(f"dim {place}", 1, "rad", relative) for place, relative in enumerate(mask)],
    )


def observation_of(sample: Sample) -> dict[str, Any]:
    """What the robot of `robot_of` sends where it sees and feels what the sample holds."""
    from pi05_train.processing.images import decode_jpeg  # needs torch, which the servers of tests do without

    assert sample.state is not None
    pictures = {name: decode_jpeg(content).permute(1, 2, 0).numpy() for name, content in sample.images.items()}
    return {
        "images": pictures,
        "joints": sample.state[:-1].astype(np.float64),
        "gripper": sample.state[-1:],
        "prompt": sample.task,
    }
