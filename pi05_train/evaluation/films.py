"""Films of episodes, made afterwards: an episode's start and actions give it again, so nothing is pictured in vain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pi05_train.evaluation.closed_loop import Film
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import Action, Trial
from pi05_train.simulation.environments import make_robot

SIDE = 192
"""Pixels of one camera's square picture."""
QUALITY = "28"
"""x264's constant rate factor; a page holds dozens of films, so they are small."""


def chosen(results: Sequence[RolloutResult], per_outcome: int) -> list[int]:
    """Places of the episodes to film: of every policy and task the first successes and the first failures."""
    counts: dict[tuple[str, str, bool], int] = {}
    places = []
    for place, result in enumerate(results):
        outcome = (result.policy, result.task, result.success)
        counts[outcome] = counts.get(outcome, 0) + 1
        if counts[outcome] <= per_outcome:
            places.append(place)
    return places


def make_film(folder: Path, trial: Trial, result: RolloutResult, actions: Sequence[Action]) -> Film:
    """Play the actions again and film them at the robot's control rate, all its cameras side by side."""
    word = "success" if result.success else "failure"
    parts = (result.policy, result.task, result.condition, str(result.seed), word)
    name = "-".join(parts).replace(" ", "_") + ".mp4"
    with closing(make_robot(trial.task, SIDE)) as robot:
        robot.restart(trial.seed, trial.room)

        def pictures() -> Iterator[NDArray[np.uint8]]:
            for action in [None, *actions]:
                if action is not None:
                    robot.advance(action)
                views = [robot.renderer.picture(robot.data, view) for view in robot.spec.views]
                yield np.concatenate(views, axis=1)

        write_mp4(folder / name, pictures(), robot.spec.rate_hz)
    return Film(result.policy, result.task, result.condition, result.seed, result.success, name)


def write_mp4(path: Path, pictures: Iterator[NDArray[np.uint8]], rate_hz: float) -> None:
    """H.264 of [height, width, 3] RGB pictures, sides even, as browsers show it."""
    first = next(pictures)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY}
        for picture in (first, *pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
