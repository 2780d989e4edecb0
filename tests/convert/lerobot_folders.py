"""Tiny LeRobot datasets of every version, written with PyArrow and PyAV alone; each picture shows its own number.

Pictures are 64 x 64: sixteen blocks of 16 x 16 pixels, white for the ones of a 16-bit number. Frame f of episode e
shows 100 e + f (plus a camera's offset), its state begins with that number and its action with that number and a half.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from pi05_train.convert.lerobot import LeRobotSource
from pi05_train.convert.source import Dropped, Options
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample

HORIZON = 6
OPTIONS = Options(name="toy", kind="CE", horizon=HORIZON, image_size=64)
VERSIONS = ("v2.0", "v2.1", "v3.0")
TABLE = {"v2.1": "data/chunk-000/episode_000001.parquet", "v3.0": "data/chunk-000/file-000.parquet"}
VIDEO = {
    "v2.1": "videos/chunk-000/observation.images.top/episode_000001.mp4",
    "v3.0": "videos/observation.images.top/chunk-000/file-000.mp4",
}
SIDE = 64
GAP_FRAMES = 3
"""Pictures of nobody between the episodes of a v3 video file."""
NOBODY = 0xFFFF
CODECS = {
    "h264": ("libx264", {"g": "12", "bf": "2"}),
    "h265": ("libx265", {"g": "15", "x265-params": "log-level=none:open-gop=1:bframes=4:crf=18"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "8", "crf": "30"}),
}
"""In H.265 the groups of pictures are open, as is that encoder's habit."""


def paint(number: int) -> NDArray[np.uint8]:
    """The picture that shows a number."""
    bits = np.array([(number >> place) & 1 for place in range(16)], np.uint8).reshape(4, 4)
    return np.repeat(np.kron(bits * 255, np.ones((16, 16), np.uint8))[:, :, None], 3, axis=2)


def painted(picture: bytes | NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) if isinstance(picture, bytes) else picture
    blocks = pixels.reshape(4, 16, 4, 16, 3).mean((1, 3, 4)).ravel()
    assert (np.abs(blocks - 127.5) > 60).all(), blocks
    return int(sum(1 << place for place, value in enumerate(blocks) if value > 127.5))


def needs_encoder(codec: str) -> None:
    """Skips the test where PyAV was built without the codec's encoder."""
    try:
        av.codec.Codec(CODECS[codec][0], "w")
    except av.error.FFmpegError:
        pytest.skip(f"PyAV has no {CODECS[codec][0]}")


def write_video(path: Path, numbers: Sequence[int], fps: int, codec: str) -> None:
    """A video that shows these numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=fps, options=dict(options))
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_joined(path: Path, parts: Sequence[Sequence[int]], fps: int, codec: str) -> None:
    """A video of videos that were encoded apart, one behind the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream, begin = None, 0
        for number, part in enumerate(parts):
            alone = path.with_name(f"part-{number}.mp4")
            write_video(alone, part, fps, codec)
            with av.open(str(alone)) as source:
                video = source.streams.video[0]
                stream = stream or container.add_stream_from_template(video, opaque=True)
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue
                    shift = round(begin / fps / packet.time_base)
                    packet.stream, packet.pts, packet.dts = stream, packet.pts + shift, packet.dts + shift
                    container.mux(packet)
            begin += len(part)
            alone.unlink()


@dataclass
class Dataset:
    """What to write; tests change single fields or files afterwards."""

    version: str = "v2.1"
    lengths: Sequence[int] = (9, 14, 5)
    fps: int = 10
    codec: str = "h264"
    cameras: dict[str, int] = field(default_factory=lambda: {"observation.images.top": 0})
    """Feature to the offset of its numbers."""
    stored: str = "video"
    """"video", "bytes" or "jpeg" (PNG or JPEG files inside the table) or "png" (files beside it)."""
    width: int = 3
    """Dimensions of the state, and of the action unless `action_width` says otherwise."""
    action_width: int = 0
    tasks: Sequence[str] = ("pick up the cup", "open the drawer")
    names: Any = None
    joined: bool = False
    """v3.0: every episode was encoded apart and their packets joined, as LeRobot does."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns: name to a function of (episode, frame)."""
    texts: Sequence[str] = ()
    """Which of them are plain texts."""

    def number(self, episode: int, frame: int) -> int:
        return 100 * episode + frame

    def write(self, root: Path) -> Path:
        """The folder, in this version's layout."""
        (root / "meta").mkdir(parents=True)
        tables = [self._rows(root, episode, length) for episode, length in enumerate(self.lengths)]
        info = {
            "codebase_version": self.version, "robot_type": "toy_arm", "fps": self.fps, "chunks_size": 2,
            "total_episodes": len(self.lengths), "features": self._features(),
        }  # fmt: skip
        if self.version == "v3.0":
            self._write_v3(root, tables, info)
        else:
            self._write_v2(root, tables, info)
        (root / "meta" / "info.json").write_text(json.dumps(info))
        (root / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Toy\n")
        return root

    def _features(self) -> dict[str, Any]:
        numbers = {"dtype": "float32", "shape": [self.width], "names": self.names}
        action = numbers | {"shape": [self.action_width or self.width]}
        picture = {"dtype": "video" if self.stored == "video" else "image", "shape": [3, SIDE, SIDE],
                   "names": ["height", "width", "channel"]}  # fmt: skip
        plain = {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "task_index")}
        extra = {
            name: {"dtype": "string" if name in self.texts else "language", "shape": [1], "names": None}
            for name in self.extra
        }
        return {
            "observation.state": numbers,
            "action": action,
            **dict.fromkeys(self.cameras, picture),
            **plain,
            **extra,
        }

    def _rows(self, root: Path, episode: int, length: int) -> pyarrow.Table:
        numbers = np.array([self.number(episode, frame) for frame in range(length)], np.float32)
        widths = {"observation.state": self.width, "action": self.action_width or self.width}
        lists = {name: np.tile(numbers[:, None], (1, width)) for name, width in widths.items()}
        lists["action"] = lists["action"] + np.float32(0.5)
        columns: dict[str, Any] = {
            name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), widths[name])
            for name, values in lists.items()
        }
        columns["timestamp"] = pyarrow.array((np.arange(length) / self.fps).astype(np.float32))
        columns["frame_index"] = pyarrow.array(np.arange(length))
        columns["episode_index"] = pyarrow.array(np.full(length, episode))
        columns["task_index"] = pyarrow.array(np.full(length, 7 + episode % len(self.tasks)))
        for name, value in self.extra.items():
            columns[name] = pyarrow.array([value(episode, frame) for frame in range(length)])
        if self.stored != "video":
            for camera, offset in self.cameras.items():
                pictures = [self._stored(root, camera, offset, episode, frame) for frame in range(length)]
                kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
                columns[camera] = pyarrow.array(pictures, kind)
        return pyarrow.table(columns)

    def _stored(self, root: Path, camera: str, offset: int, episode: int, frame: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        kind = "JPEG" if self.stored == "jpeg" else "PNG"
        Image.fromarray(paint(self.number(episode, frame) + offset)).save(buffer, kind)
        name = f"frame_{frame:06d}.png"
        if self.stored != "png":
            return {"bytes": buffer.getvalue(), "path": name}
        path = root / "images" / camera / f"episode_{episode:06d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        return {"bytes": None, "path": name}

    def _shown(self, episode: int, offset: int) -> list[int]:
        return [self.number(episode, frame) + offset for frame in range(self.lengths[episode])]

    def _write_v2(self, root: Path, tables: list[pyarrow.Table], info: dict[str, Any]) -> None:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        episodes = []
        for episode, table in enumerate(tables):
            path = root / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
            for camera, offset in self.cameras.items() if self.stored == "video" else ():
                video = root / f"videos/chunk-{episode // 2:03d}/{camera}/episode_{episode:06d}.mp4"
                write_video(video, self._shown(episode, offset), self.fps, self.codec)
            task = self.tasks[episode % len(self.tasks)]
            episodes.append({"episode_index": episode, "tasks": [task], "length": table.num_rows})
        tasks = [{"task_index": 7 + number, "task": task} for number, task in enumerate(self.tasks)]
        for name, records in (("episodes", episodes), ("tasks", tasks)):
            (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def _write_v3(self, root: Path, tables: list[pyarrow.Table], info: dict[str, Any]) -> None:
        """Two table files, one video file per camera, with pictures of nobody before and between the episodes."""
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        files = [number // 2 for number in range(len(tables))]
        for file in sorted(set(files)):
            path = root / f"data/chunk-000/file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(
                pyarrow.concat_tables([t for t, f in zip(tables, files, strict=True) if f == file]), path
            )
        starts = np.cumsum([GAP_FRAMES, *(length + GAP_FRAMES for length in self.lengths)])
        columns: dict[str, Any] = {
            "episode_index": list(range(len(tables))), "length": list(self.lengths),
            "data/chunk_index": [0] * len(tables), "data/file_index": files,
            "tasks": [[self.tasks[number % len(self.tasks)]] for number in range(len(tables))],
            "stats/action/mean": [[0.0]] * len(tables),
        }  # fmt: skip
        for camera, offset in self.cameras.items() if self.stored == "video" else ():
            gap = [NOBODY] * GAP_FRAMES
            parts = [gap, *(part for e in range(len(tables)) for part in (self._shown(e, offset), gap))]
            path = root / f"videos/{camera}/chunk-000/file-000.mp4"
            if self.joined:
                write_joined(path, parts, self.fps, self.codec)
            else:
                write_video(path, [number for part in parts for number in part], self.fps, self.codec)
            drift = 0.3 / self.fps  # stored times are sums of rounded durations: only near the true ones
            columns[f"videos/{camera}/chunk_index"] = columns[f"videos/{camera}/file_index"] = [0] * len(tables)
            columns[f"videos/{camera}/from_timestamp"] = [float(s / self.fps + drift) for s in starts[:-1]]
            ends = [float((s + n) / self.fps + drift) for s, n in zip(starts[:-1], self.lengths, strict=True)]
            columns[f"videos/{camera}/to_timestamp"] = ends
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.table(columns), path)
        write_texts(root / "meta/tasks.parquet", "task_index", 7, self.tasks)


def write_texts(path: Path, number: str, first: int, texts: Sequence[str]) -> None:
    """As pandas stores a frame whose index is the text: an unnamed index gets this column name."""
    numbers = list(range(first, first + len(texts)))
    parquet.write_table(pyarrow.table({number: numbers, "__index_level_0__": list(texts)}), path)


def edit_info(root: Path, change: Any) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def rewrite(path: Path, change: Any) -> None:
    parquet.write_table(change(parquet.read_table(path)), path)


def cut(path: Path, share: float = 0.9) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def column(name: str, value: Any) -> Any:
    return lambda table: table.set_column(table.column_names.index(name), name, value(table[name]))


def converted(source: LeRobotSource) -> tuple[list[Sample], Counter[str]]:
    """All samples, and what was dropped by reason."""
    samples: list[Sample] = []
    dropped: Counter[str] = Counter()
    for unit in source.units:
        for sample in source.samples(unit):
            if isinstance(sample, Dropped):
                dropped[sample.reason] += sample.samples
            else:
                check_sample(sample, source.card)
                samples.append(sample)
    return samples, dropped


def persistent(episode: int, frame: int) -> list[dict[str, Any]]:  # noqa: ARG001 the same on every frame
    rows = [("subtask", "reach", 0.2), ("subtask", "grasp", 0.5), ("plan", "1. reach 2. grasp", 0.0)]
    return [{"role": "assistant", "content": text, "style": style, "timestamp": time} for style, text, time in rows]


def events(episode: int, frame: int) -> list[dict[str, Any]]:
    said = {(0, 6): "not that one", (1, 1): "hello"}.get((episode, frame))
    answer = {"role": "assistant", "content": "sure", "style": "interjection"}
    return [answer, {"role": "user", "content": said, "style": "interjection"}] if said else []


LANGUAGE = {"language_persistent": persistent, "language_events": events}
