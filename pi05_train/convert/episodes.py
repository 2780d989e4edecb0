"""Robot episodes into samples: one per anchor frame, with the action chunk that starts there (tier train).

Shapes: T frames of the episode, S state dimensions, A action dimensions, H steps stored per chunk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.pictures import PictureError, jpeg
from pi05_train.convert.source import Dropped, Options, split_of
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import CAMERAS, Kind, Sample, Split

FRAME_COUNT = "frame count of a camera differs"
_IN_MEMORY = 256 * 2**20
"""Bytes of an episode's JPEGs beyond which they wait in a temporary file."""


@dataclass
class Episode:
    """A robot episode in the source's own units, before anchors are cut."""

    number: int
    """Unique in the source."""
    task: str | Sequence[str]
    """The instruction, or one per frame (T of them). Of alternatives the format chooses one."""
    state: NDArray[np.float32]
    """[T, S]"""
    actions: NDArray[np.float32]
    """[T, A]; `actions[i]` acts on observation i."""
    cameras: Mapping[str, Iterable[NDArray[np.uint8] | bytes]]
    """Our camera name to exactly T pictures: [height, width, 3] RGB, or an image file's bytes; read once, in order."""
    rate_hz: float
    success: bool = True
    environment_id: str = ""
    subtasks: Sequence[str] = ()
    """One per frame, or none."""
    utterances: Sequence[str] = ()
    """What a person said at a frame: one per frame ("" for nothing), or none."""
    split: Split | None = None
    """The publisher's; None: a hash decides."""
    split_name: str = ""
    """What that hash takes instead of the number."""
    provenance: dict[str, str] = field(default_factory=dict)


def anchor_key(episode: int, frame: int) -> str:
    """The key of the sample at a frame of an episode."""
    return f"{episode:08d}_{frame:06d}"


def anchor_samples(episode: Episode, card: SourceCard, options: Options) -> Iterator[Sample | Dropped]:
    """The episode's samples at frames 0, stride, 2 stride, ... in order, or one `Dropped` for all of them.

    Chunks have `options.horizon` steps; past the episode's end the last action is repeated and `action_valid` False.
    The whole episode is dropped when numbers are not finite, dimensions or the rate are not the card's, or a camera
    has another number of frames: then nothing in it can be trusted to belong together. A single unreadable picture or
    missing instruction drops its sample. Kinds HL and VI leave the actions out and need a subtask, VI also something
    that a person says at the frame.
    """
    whole = f"{episode.number:08d}"
    anchors: Sequence[int] = options.anchors(len(episode.state))
    if reason := episode_fault(episode, card):
        yield Dropped(whole, reason, max(len(anchors), 1))
        return
    if card.kind == "VI":
        spoken = [frame for frame in anchors if episode.utterances and episode.utterances[frame].strip()]
        if silent := len(anchors) - len(spoken):
            yield Dropped(f"{whole}_silent", "no verbal instruction", silent)
        if not spoken:
            return
        anchors = spoken
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as waiting:
        places: list[dict[str, tuple[int, int]] | None] = []
        try:
            for pictures in _encoded(episode, set(anchors), options):
                if pictures is None:
                    places.append(None)
                    continue
                places.append(
                    {camera: (waiting.tell(), waiting.write(content)) for camera, content in pictures.items()}
                )
        except _FrameCountError:
            yield Dropped(whole, FRAME_COUNT, len(anchors))
            return
        for frame, place in zip(anchors, places, strict=True):
            key = anchor_key(episode.number, frame)
            if place is None:
                yield Dropped(key, "picture unreadable")
                continue
            images = {camera: (waiting.seek(start), waiting.read(size))[1] for camera, (start, size) in place.items()}
            yield _sample(episode, frame, images, card, options)


class _FrameCountError(Exception):
    """A camera has more or fewer pictures than the episode has states."""


def episode_fault(episode: Episode, card: SourceCard) -> str:
    """Why the episode cannot be used, as far as is known without its pictures; "" for none."""
    unknown = [camera for camera in episode.cameras if camera not in CAMERAS]
    if unknown:
        raise UserError(f"episode {episode.number}, cameras", got=unknown, expected=list(CAMERAS), do="rename them")
    state_TS, actions_TA = episode.state, episode.actions
    frames = len(state_TS)
    texts = [texts for texts in (episode.task, episode.subtasks, episode.utterances) if not isinstance(texts, str)]
    counts = [len(pictures) for pictures in episode.cameras.values() if isinstance(pictures, Sequence)]
    checks = {
        "no frames": frames == 0,
        "no camera": not episode.cameras,
        "state and action counts differ": len(actions_TA) != frames,
        "text and frame counts differ": any(len(text) not in (0, frames) for text in texts),
        FRAME_COUNT: any(count != frames for count in counts),
        "dimensions differ from the card": state_TS.shape[1:] != (card.state_dim,)
        or (card.has_actions and actions_TA.shape[1:] != (card.action_dim,)),
        "rate differs from the card": card.has_actions and episode.rate_hz != card.rate_hz,
        "NaN in states": not np.isfinite(state_TS).all(),
        "NaN in actions": not np.isfinite(actions_TA).all(),
    }
    return next((reason for reason, failed in checks.items() if failed), "")


def _encoded(episode: Episode, anchors: set[int], options: Options) -> Iterator[dict[str, bytes] | None]:
    """Per anchor the stored JPEG of every camera, None where one is unreadable; raises _FrameCountError at the end."""
    cameras = [camera for camera in CAMERAS if camera in episode.cameras]
    streams = [iter(episode.cameras[camera]) for camera in cameras]
    for frame in range(len(episode.state)):
        pictures = [next(stream, None) for stream in streams]
        if any(picture is None for picture in pictures):
            raise _FrameCountError
        if frame not in anchors:
            continue
        try:
            yield {
                camera: jpeg(picture, options)
                for camera, picture in zip(cameras, pictures, strict=True)
                if picture is not None
            }
        except PictureError:
            yield None
    if any(next(stream, None) is not None for stream in streams):
        raise _FrameCountError


def _sample(
    episode: Episode, frame: int, images: dict[str, bytes], card: SourceCard, options: Options
) -> Sample | Dropped:
    key = anchor_key(episode.number, frame)
    task = episode.task if isinstance(episode.task, str) else episode.task[frame]
    subtask = episode.subtasks[frame] if episode.subtasks else ""
    if not task.strip():
        return Dropped(key, "no instruction")
    if not card.has_actions and not subtask.strip():
        return Dropped(key, "no subtask")
    actions_HA, valid_H = chunk(episode.actions, frame, options.horizon)
    return Sample(
        key=key,
        source=card.name,
        kind=cast(Kind, card.kind),
        images=images,
        task=task,
        subtask=subtask,
        verbal_instruction=episode.utterances[frame] if card.kind == "VI" else "",
        state=np.ascontiguousarray(episode.state[frame], np.float32),
        actions=actions_HA if card.has_actions else None,
        action_valid=valid_H if card.has_actions else None,
        embodiment=card.embodiment,
        control_mode=card.control_mode,
        rate_hz=float(episode.rate_hz),
        environment_id=episode.environment_id,
        episode=episode.number,
        frame=frame,
        split=episode.split or split_of(options, episode.split_name or episode.number),
        success=episode.success,
        provenance=dict(episode.provenance),
    )


def chunk(actions_TA: NDArray[np.float32], frame: int, horizon: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """([H, A] actions from `frame` on, the last one repeated past the end; [H] False there)."""
    steps = frame + np.arange(horizon)
    inside = np.minimum(steps, len(actions_TA) - 1)
    return np.ascontiguousarray(actions_TA[inside], np.float32), steps < len(actions_TA)
