"""Pictures of a video file, found by their time stamps and decoded in one pass.

A file (or its bytes) is opened afresh for every clip. One seek leads to a key frame before the clip; from there on
decoding is sequential, and only pictures with exactly the stamps that were asked for are given.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pi05_train.errors import UserError

_BEFORE_S = 1.0
"""How far before a clip its key frame is looked for: containers index decoding times, which run ahead of shown ones."""


_UNCUT = "video cannot be cut there without encoding it anew"


class VideoError(ValueError):
    """A video that cannot give what is asked of it; the text is a fixed phrase to count by."""


@dataclass(frozen=True)
class Footage:
    """Some pictures of a video, decoded ([height, width, 3] RGB) when one iterates over it."""

    video: Path | bytes
    stamps: Sequence[int]
    """Their time stamps, rising."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return pictures(self.video, self.stamps)

    def mp4(self) -> bytes:
        """A video that gives exactly these pictures, with nothing encoded anew: the whole file where it shows no
        others, otherwise a part of its packets. Raises VideoError where no part does, and for damaged pictures."""
        if list(self.stamps) == frame_stamps(self.video)[0]:
            content = self.video if isinstance(self.video, bytes) else self.video.read_bytes()
            for _ in self:
                pass  # damage is found by decoding
            return content
        content = _cut(self.video, self.stamps)
        again = Footage(content, frame_stamps(content)[0])
        if len(again.stamps) != len(self.stamps):
            raise VideoError(_UNCUT)
        if not all(np.array_equal(ours, theirs) for ours, theirs in zip(again, self, strict=True)):
            raise VideoError(_UNCUT)
        return content


def frame_stamps(video: Path | bytes, start_s: float = 0.0, end_s: float | None = None) -> tuple[list[int], float]:
    """(time stamps of the pictures shown from `start_s` to before `end_s`, rising; seconds per unit of a stamp).

    Nothing is decoded. Without `end_s` the clip is everything from the file's beginning. Raises VideoError.
    """
    with _opened(video) as (container, stream):
        unit_s = float(stream.time_base)
        begin = None if end_s is None else start_s
        stamps, reaches_back = _scan(container, stream, begin, end_s)
        if not reaches_back:
            stamps, _ = _scan(container, stream, None, end_s)
        inside = [stamp for stamp in stamps if begin is None or stamp * unit_s >= begin]
    if len(set(inside)) != len(inside):
        raise VideoError("video shows two pictures at one time")
    return sorted(inside), unit_s


def pictures(video: Path | bytes, stamps: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """[height, width, 3] RGB of the pictures with these rising time stamps, in order; raises VideoError."""
    if not stamps:
        return
    with _opened(video) as (container, stream):
        convert = VideoReformatter()
        wanted = iter(stamps)
        stamp = next(wanted)
        for frame, sound in _decoded_from(container, stream, stamps[0]):
            if not sound:
                raise VideoError("video damaged")
            if frame.pts > stamp:
                raise VideoError("video skips a picture")
            if frame.pts < stamp:
                continue
            yield np.asarray(convert.reformat(frame, format="rgb24").to_ndarray(), np.uint8)
            following = next(wanted, None)
            if following is None:
                return
            stamp = following
        raise VideoError("video unreadable")


class _opened:  # noqa: N801 a context manager that is used as a function
    """The container and its video stream; what FFmpeg cannot read becomes a VideoError."""

    def __init__(self, video: Path | bytes) -> None:
        self.video = video

    def __enter__(self) -> tuple[Any, Any]:
        try:
            self.container = av.open(io.BytesIO(self.video) if isinstance(self.video, bytes) else str(self.video))
        except (av.error.FileNotFoundError, av.error.PermissionError) as error:
            raise UserError(
                f"video {self.video!s}", got=error.strerror, expected="a file that can be read", do="fetch it again"
            ) from error
        except av.error.FFmpegError as error:
            raise VideoError("video unreadable") from error
        stream = next(iter(self.container.streams.video), None)
        if stream is None or stream.codec_context is None:  # no video, or damaged into a codec that nobody knows
            self.container.close()
            raise VideoError("video unreadable")
        stream.codec_context.thread_count = 1  # conversions run one process per core already
        stream.codec_context.options = {"err_detect": "explode"}  # by default H.264 hides damage under other pictures
        return self.container, stream

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.container.close()
        if isinstance(error, av.error.FFmpegError):
            raise VideoError("video unreadable") from error


def _cut(video: Path | bytes, stamps: Sequence[int]) -> bytes:
    """The packets with these stamps as a video of their own, from a key frame on; raises VideoError."""
    buffer, missing = io.BytesIO(), set(stamps)
    # Without the muxer's name and version: the same packets are the same bytes.
    with _opened(video) as (container, stream), av.open(buffer, "w", "mp4", options={"fflags": "+bitexact"}) as part:
        track = part.add_stream_from_template(stream, opaque=True)  # AV1 is decoded by another library
        track.time_base = stream.time_base
        container.seek(_seek_point(stamps[0] * float(stream.time_base), float(stream.time_base)), stream=stream)
        for packet in container.demux(stream):
            if len(missing) == len(stamps) and (packet.pts != stamps[0] or not packet.is_keyframe):
                continue
            if packet.pts not in missing or packet.is_discard or packet.is_corrupt:
                raise VideoError(_UNCUT)
            missing.remove(packet.pts)
            packet.stream, packet.pts, packet.dts = track, packet.pts - stamps[0], packet.dts - stamps[0]
            part.mux(packet)
            if not missing:
                break
    if missing:
        raise VideoError(_UNCUT)
    return buffer.getvalue()


def _scan(container: Any, stream: Any, start_s: float | None, end_s: float | None) -> tuple[list[int], bool]:
    """(stamps before `end_s` from a key frame before `start_s` on, whether that key frame is early enough)."""
    unit_s = float(stream.time_base)
    container.seek(0 if start_s is None else _seek_point(start_s, unit_s), stream=stream)
    stamps: list[int] = []
    reaches_back = True
    for number, packet in enumerate(container.demux(stream)):
        if packet.pts is None:  # the flushing packet at the end
            continue
        if number == 0 and start_s is not None:
            reaches_back = packet.pts * unit_s <= start_s
        if end_s is not None and packet.dts is not None and packet.dts * unit_s >= end_s:
            break
        if packet.is_corrupt:
            raise VideoError("video unreadable")
        if not packet.is_discard and (end_s is None or packet.pts * unit_s < end_s):  # edit lists hide some
            stamps.append(packet.pts)
    return stamps, reaches_back


def _decoded_from(container: Any, stream: Any, stamp: int) -> Iterator[tuple[Any, bool]]:
    """(picture, whether it is sound) in the order they are shown, from the one with this stamp on."""
    frames: Iterator[tuple[Any, bool]] = iter(())
    first = None
    for place in (_seek_point(stamp * float(stream.time_base), float(stream.time_base)), 0):
        container.seek(place, stream=stream)
        frames = _decoded(container, stream)
        first = next((pair for pair in frames if pair[0].pts >= stamp), None)
        if first is not None and first[0].pts == stamp and first[1]:
            break  # otherwise that key frame was shown too late, or is none: once more from the file's beginning
    if first is not None:
        yield first
        yield from frames


def _decoded(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Pictures in the order they are shown, and whether all since the last key frame could be decoded.

    Where groups of pictures are open (H.265 by default) the first ones after a seek refer to pictures before it: they
    fail, are shown before the key frame, and do no harm.
    """
    failed: list[float] = []
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            failed.append(float("inf") if packet.pts is None else packet.pts)
            continue
        for frame in frames:
            if frame.pts is None:
                raise VideoError("video without time stamps")
            if frame.is_corrupt:
                failed.append(frame.pts)
            elif frame.key_frame:
                failed = [stamp for stamp in failed if stamp > frame.pts]
            yield frame, not failed


def _seek_point(time_s: float, unit_s: float) -> int:
    return max(0, int((time_s - _BEFORE_S) / unit_s))
