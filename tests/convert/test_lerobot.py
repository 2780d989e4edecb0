"""LeRobot datasets of every version and codec become samples that show what they say; bad ones are told in a sentence.

The oracle: every picture shows the number that its row's state holds. `tests/interop/write_lerobot_v3.py` lets LeRobot
itself write datasets; where PI05_LEROBOT_WRITTEN names the folder that it filled, those are converted here too.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pi05_train.convert.lerobot import LeRobotSource, open_source
from pi05_train.convert.source import Dropped, Options
from pi05_train.errors import UserError
from pi05_train.samples.card import check_card
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample
from tests.convert.lerobot_folders import Dataset, needs_encoder, painted, write_texts, write_video

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
REAL = SHARED / "data" / "unitree_g1_lerobot_v21"
WRITTEN = os.environ.get("PI05_LEROBOT_WRITTEN", "")
HORIZON = 6
OPTIONS = Options(name="toy", kind="CE", horizon=HORIZON, image_size=64)
VERSIONS = ("v2.0", "v2.1", "v3.0")
TABLE = {"v2.1": "data/chunk-000/episode_000001.parquet", "v3.0": "data/chunk-000/file-000.parquet"}
VIDEO = {
    "v2.1": "videos/chunk-000/observation.images.top/episode_000001.mp4",
    "v3.0": "videos/observation.images.top/chunk-000/file-000.mp4",
}


def convert(source: LeRobotSource) -> tuple[list[Sample], Counter[str]]:
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


def assert_pictures_are_the_rows(samples: list[Sample], data: Dataset, camera_offsets: dict[str, int]) -> None:
    assert [(s.episode, s.frame) for s in samples] == [(e, f) for e, n in enumerate(data.lengths) for f in range(n)]
    for sample in samples:
        number, last = (
            data.number(sample.episode, sample.frame),
            data.number(sample.episode, data.lengths[sample.episode]),
        )
        assert {name: painted(jpeg) for name, jpeg in sample.images.items()} == {
            name: number + offset for name, offset in camera_offsets.items()
        }
        assert sample.state is not None
        assert sample.actions is not None
        assert sample.action_valid is not None
        assert sample.state.tolist() == [number] * data.width
        steps = np.minimum(number + np.arange(HORIZON), last - 1)
        assert sample.actions.tolist() == np.tile(steps[:, None] + 0.5, (1, data.width)).tolist()
        assert sample.action_valid.tolist() == (number + np.arange(HORIZON) < last).tolist()
        assert sample.task == data.tasks[sample.episode % len(data.tasks)]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_picture_is_its_row(tmp_path: Path, version: str, codec: str) -> None:
    needs_encoder(codec)
    cameras = {"observation.images.top": 0, "observation.images.cam_right_wrist": 1000}
    data = Dataset(version, codec=codec, cameras=cameras)
    source = open_source(data.write(tmp_path / "set"), OPTIONS)
    check_card(source.card)
    samples, dropped = convert(source)
    assert not dropped
    assert_pictures_are_the_rows(samples, data, {"base_0_rgb": 0, "right_wrist_0_rgb": 1000})
    assert (source.card.embodiment, source.card.rate_hz, source.card.licence) == ("toy_arm", 10.0, "apache-2.0")
    assert [unit.number for unit in source.units] == [0, 1, 2]


@pytest.mark.parametrize("stored", ["bytes", "png"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_pictures_in_the_table_or_beside_it(tmp_path: Path, version: str, stored: str) -> None:
    data = Dataset(version, stored=stored)
    samples, dropped = convert(open_source(data.write(tmp_path / "set"), OPTIONS))
    assert not dropped
    assert_pictures_are_the_rows(samples, data, {"base_0_rgb": 0})


def test_a_picture_that_is_not_there_drops_its_sample(tmp_path: Path) -> None:
    root = Dataset("v2.1", stored="png").write(tmp_path / "set")
    (root / "images/observation.images.top/episode_000001/frame_000003.png").unlink()
    samples, dropped = convert(open_source(root, OPTIONS))
    assert (len(samples), dropped) == (27, {"picture unreadable": 1})


def test_a_worker_process_sees_the_same(tmp_path: Path) -> None:
    source = open_source(Dataset("v3.0").write(tmp_path / "set"), OPTIONS)
    again = pickle.loads(pickle.dumps(source))
    for unit in source.units:
        ours, theirs = list(source.samples(unit)), list(again.samples(unit))
        assert [s.images for s in ours if isinstance(s, Sample)] == [s.images for s in theirs if isinstance(s, Sample)]


def test_the_stride_chooses_anchors_not_chunk_steps(tmp_path: Path) -> None:
    samples, _ = convert(open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, stride=4)))
    assert [s.frame for s in samples if s.episode == 1] == [0, 4, 8, 12]
    for sample in samples:
        assert sample.actions is not None
        assert sample.state is not None
        assert painted(sample.images["base_0_rgb"]) == sample.state[0] == sample.actions[0, 0] - 0.5
        assert sample.actions[1, 0] - sample.actions[0, 0] in (0, 1)


# Cameras


def test_cameras_by_override(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.eye": 0, "observation.images.depthish": 5, "gripper": 9}).write(
        tmp_path / "set"
    )
    with pytest.raises(UserError) as refused:
        open_source(root, OPTIONS)
    assert "cameras eye, depthish, gripper: got names that are not known" in str(refused.value)
    proposal = str(refused.value).partition('--dataset "')[2].partition('"')[0]
    assert open_source(root, replace(OPTIONS, dataset=proposal)).card.cameras == [
        "base_0_rgb", "base_1_rgb", "left_wrist_0_rgb",
    ]  # fmt: skip
    source = open_source(
        root, replace(OPTIONS, dataset="observation.images.eye=base_0_rgb, gripper=left_wrist_0_rgb, depthish=none")
    )
    samples, _ = convert(source)
    assert {name: painted(jpeg) for name, jpeg in samples[0].images.items()} == {"base_0_rgb": 0, "left_wrist_0_rgb": 9}
    assert "Camera depthish is left out, as asked for." in source.notes


def test_two_cameras_with_one_name_are_refused(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.top": 0, "observation.images.front": 5}).write(tmp_path / "set")
    with pytest.raises(UserError, match=r"cameras top, front: got one name, base_0_rgb, for all.*front=base_1_rgb"):
        open_source(root, OPTIONS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("top=base_9", "--dataset: got 'top=base_9'"),
        ("top", "--dataset: got 'top'"),
        ("tip=base_0_rgb", r"--dataset: got \['tip'\], expected cameras among \['top'\]"),
        ("control_mode=velocity", "got 'control_mode=velocity'"),
    ],
)
def test_overrides_that_say_nothing(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, dataset=text))


def test_depth_maps_are_no_cameras(tmp_path: Path) -> None:
    root = Dataset(cameras={"observation.images.top": 0, "observation.images.top_depth": 0}).write(tmp_path / "set")
    edit_info(root, lambda info: info["features"]["observation.images.top_depth"].update(
        info={"video.is_depth_map": True}
    ))  # fmt: skip
    source = open_source(root, OPTIONS)
    assert source.card.cameras == ["base_0_rgb"]
    assert "Depth map top_depth is left out." in source.notes


@pytest.mark.parametrize(
    ("names", "mode", "guessed"),
    [
        ([["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]], "joint", False),
        ({"axes": ["x", "y", "z"]}, "end effector", False),
        ({"motors": ["a", "b", "c"]}, "joint", True),
        (None, "joint", True),
    ],
)
def test_the_control_mode_from_names(tmp_path: Path, names: object, mode: str, guessed: bool) -> None:
    root = Dataset(names=names).write(tmp_path / "set")
    source = open_source(root, OPTIONS)
    assert source.card.control_mode == mode
    assert any("is a guess" in note for note in source.notes) == guessed
    told = open_source(root, replace(OPTIONS, dataset="control_mode=end effector"))
    assert told.card.control_mode == "end effector"
    assert not any("is a guess" in note for note in told.notes)


# Language


def _persistent(episode: int, frame: int) -> list[dict[str, Any]]:  # noqa: ARG001 the same on every frame
    rows = [("subtask", "reach", 0.2), ("subtask", "grasp", 0.5), ("plan", "1. reach 2. grasp", 0.0)]
    return [{"role": "assistant", "content": text, "style": style, "timestamp": time} for style, text, time in rows]


def _events(episode: int, frame: int) -> list[dict[str, Any]]:
    said = {(0, 6): "not that one", (1, 1): "hello"}.get((episode, frame))
    answer = {"role": "assistant", "content": "sure", "style": "interjection"}
    return [answer, {"role": "user", "content": said, "style": "interjection"}] if said else []


LANGUAGE = {"language_persistent": _persistent, "language_events": _events}


@pytest.mark.parametrize("kind", ["CE", "HL"])
def test_subtasks_hold_until_the_next(tmp_path: Path, kind: str) -> None:
    root = Dataset("v3.0", extra=LANGUAGE).write(tmp_path / "set")
    source = open_source(root, replace(OPTIONS, kind=kind))
    samples, dropped = convert(source)
    expected = ["", "", "reach", "reach", "reach", "grasp", "grasp", "grasp", "grasp"]
    seen = {s.frame: s.subtask for s in samples if s.episode == 0}
    if kind == "CE":
        assert [seen[frame] for frame in range(9)] == expected
        assert not dropped
    else:
        assert seen == {frame: text for frame, text in enumerate(expected) if text}
        assert dropped == {"no subtask": 6}
        assert all(sample.actions is None for sample in samples)


def test_language_rows_in_lerobots_own_type(tmp_path: Path) -> None:
    """Its rows end with `tool_calls`, a list of Arrow's JSON type, which not every kernel of PyArrow can handle."""

    def with_calls(column: pyarrow.ChunkedArray) -> pyarrow.Array:
        rows = column.combine_chunks()
        calls = pyarrow.ExtensionArray.from_storage(
            pyarrow.json_(), pyarrow.array(['{"name": "say"}'] * len(rows.values))
        )
        names = [field.name for field in rows.type.value_type]
        fields = [rows.values.field(name) for name in names]
        lists = pyarrow.ListArray.from_arrays(np.arange(len(rows.values) + 1), calls)
        return pyarrow.ListArray.from_arrays(
            rows.offsets, pyarrow.StructArray.from_arrays([*fields, lists], [*names, "tool_calls"])
        )

    root = Dataset("v3.0", extra=LANGUAGE).write(tmp_path / "set")
    _rewrite(root / TABLE["v3.0"], _column("language_persistent", with_calls))
    samples, dropped = convert(open_source(root, OPTIONS))
    assert not dropped
    assert [s.subtask for s in samples if s.episode == 0] == ["", "", *["reach"] * 3, *["grasp"] * 4]


def test_what_a_person_said_is_at_its_frame(tmp_path: Path) -> None:
    root = Dataset("v3.0", extra=LANGUAGE).write(tmp_path / "set")
    samples, dropped = convert(open_source(root, replace(OPTIONS, kind="VI", stride=4)))
    assert [(s.key, s.verbal_instruction, s.subtask) for s in samples] == [("00000000_000006", "not that one", "grasp")]
    assert dropped == {"no verbal instruction": 26, "no subtask": 1}


def test_subtasks_by_index(tmp_path: Path) -> None:
    root = Dataset("v3.0", extra={"subtask_index": lambda _, frame: frame // 3}).write(tmp_path / "set")
    write_texts(root / "meta/subtasks.parquet", "subtask_index", 0, ["one", "two", "three", "four", "five"])
    samples, _ = convert(open_source(root, OPTIONS))
    assert [s.subtask for s in samples if s.episode == 0] == ["one"] * 3 + ["two"] * 3 + ["three"] * 3


def test_success_by_the_row_that_says_so(tmp_path: Path) -> None:
    root = Dataset(extra={"next.success": lambda episode, frame: episode == 1 and frame == 13}).write(tmp_path / "set")
    samples, _ = convert(open_source(root, OPTIONS))
    assert {sample.episode: sample.success for sample in samples} == {0: False, 1: True, 2: False}


@pytest.mark.parametrize("kind", ["HL", "VI", "WD"])
def test_kinds_that_the_data_do_not_serve(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"got (no subtasks|kind WD), expected"):
        open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, kind=kind))


# Bad input: the dataset


def edit_info(root: Path, change: Any) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def _rewrite(path: Path, change: Any) -> None:
    parquet.write_table(change(parquet.read_table(path)), path)


def _cut(path: Path, share: float = 0.9) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


REFUSED: dict[str, tuple[str, Any, str]] = {
    "no metadata": ("v2.1", lambda r: shutil.rmtree(r / "meta"), "got no meta/info.json, expected one"),
    "version": (
        "v2.1",
        lambda r: edit_info(r, lambda i: i.update(codebase_version="v1.6")),
        "got 'v1.6', expected v2.0",
    ),
    "fewer listed": (
        "v3.0",
        lambda r: edit_info(r, lambda i: i.update(total_episodes=5)),
        "got 3 in meta/episodes, expected the 5 of",
    ),
    "broken info": ("v2.1", lambda r: (r / "meta/info.json").write_text("{"), "meta/info.json: got"),
    "no fps": ("v3.0", lambda r: edit_info(r, lambda i: i.update(fps=None)), "fps: got None"),
    "template": ("v2.1", lambda r: edit_info(r, lambda i: i.update(data_path="{file}")), "data_path: got '{file}'"),
    "no tasks": ("v2.1", lambda r: (r / "meta/tasks.jsonl").unlink(), "got neither tasks.parquet nor tasks.jsonl"),
    "empty v2": (
        "v2.1",
        lambda r: (r / "meta/episodes.jsonl").write_text(""),
        "got no episodes, expected at least one",
    ),
    "empty v3": (
        "v3.0",
        lambda r: _rewrite(r / "meta/episodes/chunk-000/file-000.parquet", lambda t: t[:0]),
        "no episodes",
    ),
    "no episode table": ("v3.0", lambda r: shutil.rmtree(r / "meta/episodes"), r"got no meta/episodes/\*/\*.parquet"),
    "cut episode table": (
        "v3.0",
        lambda r: _cut(r / "meta/episodes/chunk-000/file-000.parquet"),
        "a whole parquet file",
    ),
    "cut data": ("v3.0", lambda r: _cut(r / TABLE["v3.0"]), r"file-000.parquet: got .*whole parquet file.*finalize"),
    "no data": ("v2.1", lambda r: shutil.rmtree(r / "data"), "got 3 of 3 without their files .*; fetch the rest.$"),
    "no video": ("v2.1", lambda r: (r / VIDEO["v2.1"]).unlink(), r"1 of 3 without .*1 lacks videos/.*--allow-missing"),
    "no video v3": ("v3.0", lambda r: (r / VIDEO["v3.0"]).unlink(), "got 3 of 3 without"),
    "no state": (
        "v2.1",
        lambda r: edit_info(r, lambda i: i["features"].pop("observation.state")),
        "expected state under",
    ),
    "another width": (
        "v3.0",
        lambda r: edit_info(r, lambda i: i["features"]["action"].update(shape=[4])),
        r"action: got 3 numbers per row, expected the shape \[4\]",
    ),
    "no column": (
        "v3.0",
        lambda r: _rewrite(r / TABLE["v3.0"], lambda t: t.drop_columns("action")),
        r"no \['action'\]",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_dataset_that_cannot_be_converted(tmp_path: Path, case: str) -> None:
    version, spoil, sentence = REFUSED[case]
    root = Dataset(version).write(tmp_path / "set")
    spoil(root)
    with pytest.raises(UserError, match=sentence) as refused:
        open_source(root, OPTIONS)
    assert "\n" not in str(refused.value)


_JUNK = st.sampled_from([None, [], {}, "", "x", -1, 0, 2.5, True, [None], {"dtype": "video"}, "{a.b}", "{0}"])


@given(data=st.data(), version=st.sampled_from(VERSIONS))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_metadata_are_taken_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, version: str
) -> None:
    """Whatever stands in info.json: no other error than UserError comes out of opening."""
    root = tmp_path_factory.getbasetemp() / f"any-{version}"
    if not root.exists():
        Dataset(version, stored="bytes").write(root)
        shutil.copy(root / "meta/info.json", root / "meta/info.whole")
    info = json.loads((root / "meta/info.whole").read_text())
    places = [(info, key) for key in info] + [(info["features"], key) for key in info["features"]]
    places += [(feature, key) for feature in info["features"].values() for key in feature]
    for holder, key in data.draw(st.lists(st.sampled_from(places), max_size=3)):
        holder[key] = data.draw(_JUNK)
    (root / "meta/info.json").write_text(json.dumps(info))
    try:
        source = open_source(root, OPTIONS)
        check_card(source.card)
        for unit in source.units:
            list(source.samples(unit))
    except UserError as refused:
        sentence = str(refused)
    else:
        sentence = ""
    assert "\n" not in sentence


# Bad input: one episode


def _column(name: str, value: Any) -> Any:
    return lambda table: table.set_column(table.column_names.index(name), name, value(table[name]))


def _nan(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    rows = column.to_pylist()
    rows[2][1] = float("nan")
    return pyarrow.array(rows, column.type)


def _shown(root: Path, count: int) -> None:
    write_video(root / VIDEO["v2.1"], [100 + frame for frame in range(count)], 10, "h264")


BAD_EPISODE: dict[str, tuple[Any, str]] = {
    "cut table": (lambda r: _cut(r / TABLE["v2.1"]), "table unreadable"),
    "a row less": (lambda r: _rewrite(r / TABLE["v2.1"], lambda t: t[:-1]), "row count differs from the metadata"),
    "a row twice": (
        lambda r: _rewrite(r / TABLE["v2.1"], lambda t: pyarrow.concat_tables([t[:13], t[12:13]])),
        "frames are not numbered 0, 1, 2, ...",
    ),
    "NaN in states": (lambda r: _rewrite(r / TABLE["v2.1"], _column("observation.state", _nan)), "NaN in states"),
    "NaN in actions": (lambda r: _rewrite(r / TABLE["v2.1"], _column("action", _nan)), "NaN in actions"),
    "times": (
        lambda r: _rewrite(r / TABLE["v2.1"], _column("timestamp", lambda c: pyarrow.array([0.0] * len(c)))),
        "time stamps do not rise",
    ),
    "rate": (
        lambda r: _rewrite(r / TABLE["v2.1"], _column("timestamp", lambda c: pyarrow.array(0.2 * np.arange(len(c))))),
        "time stamps disagree with the rate",
    ),
    "width": (
        lambda r: _rewrite(r / TABLE["v2.1"], _column("action", lambda c: pyarrow.array([[1.0, 2.0]] * len(c)))),
        "dimensions differ from the card",
    ),
    "no instruction": (
        lambda r: _rewrite(r / TABLE["v2.1"], _column("task_index", lambda c: pyarrow.array([99] * len(c)))),
        "no instruction",
    ),
    "a picture less": (lambda r: _shown(r, 13), "frame count of a video differs"),
    "a picture more": (lambda r: _shown(r, 15), "frame count of a video differs"),
    "cut video": (lambda r: _cut(r / VIDEO["v2.1"], 0.5), "video unreadable"),
    "another rate": (
        lambda r: write_video(r / VIDEO["v2.1"], range(100, 114), 12, "h264"),
        "video and rows disagree in time",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_EPISODE))
def test_a_bad_episode_is_dropped_and_counted(tmp_path: Path, case: str) -> None:
    spoil, reason = BAD_EPISODE[case]
    root = Dataset("v2.1").write(tmp_path / "set")
    spoil(root)
    samples, dropped = convert(open_source(root, OPTIONS))
    assert dropped == {reason: 14}
    assert {sample.episode for sample in samples} == {0, 2}
    assert len(samples) == 14


def test_a_clip_with_a_picture_too_many(tmp_path: Path) -> None:
    """v3: the file goes on after every clip, so only the clip's times can tell."""
    root = Dataset("v3.0").write(tmp_path / "set")
    longer = _column(
        "videos/observation.images.top/to_timestamp",
        lambda c: pyarrow.array([time + 0.1 * (episode == 1) for episode, time in enumerate(c.to_pylist())]),
    )
    _rewrite(root / "meta/episodes/chunk-000/file-000.parquet", longer)
    samples, dropped = convert(open_source(root, OPTIONS))
    assert dropped == {"frame count of a video differs": 14}
    assert len(samples) == 14


def test_absent_episodes_are_taken_when_allowed(tmp_path: Path) -> None:
    root = Dataset("v2.1").write(tmp_path / "set")
    (root / VIDEO["v2.1"]).unlink()
    source = open_source(root, replace(OPTIONS, allow_missing=True))
    assert [unit.number for unit in source.units] == [0, 2]
    assert "1 of 3 episodes are absent: 1." in source.notes


def test_the_rate_is_what_the_time_stamps_say(tmp_path: Path) -> None:
    root = Dataset("v2.1").write(tmp_path / "set")
    edit_info(root, lambda info: info.update(fps=30))
    source = open_source(root, OPTIONS)
    samples, dropped = convert(source)
    assert source.card.rate_hz == 10.0
    assert len(samples) == 28
    assert not dropped
    assert any("info.json says 30 frames per second, time stamps 10" in note for note in source.notes)


_COLUMNS: dict[str, Any] = {
    "text": lambda n: pyarrow.array(["x"] * n),
    "nothing": lambda n: pyarrow.nulls(n),
    "NaN": lambda n: pyarrow.array([float("nan")] * n),
    "lists": lambda n: pyarrow.array([[1.0, None]] * n),
    "nested": lambda n: pyarrow.array([[[1.0]]] * n),
    "records": lambda n: pyarrow.array([{"bytes": None, "path": "../x"}] * n),
    "rows": lambda n: pyarrow.array([[{"style": "subtask", "content": "x"}, None]] * n),
    "negative": lambda n: pyarrow.array([-5] * n),
}


@pytest.mark.parametrize("junk", sorted(_COLUMNS))
def test_columns_of_any_type_end_in_a_reason(tmp_path: Path, junk: str) -> None:
    """Whatever a column holds: the episode's samples are all accounted for, and no other error than UserError comes."""
    extra = {**LANGUAGE, "subtask_index": lambda _, frame: frame // 3, "next.success": lambda *_: True}
    root = Dataset("v3.0", lengths=(9, 2), stored="bytes", extra=extra).write(tmp_path / "set")
    path = root / TABLE["v3.0"]
    whole = parquet.read_table(path)
    for place, name in enumerate(whole.column_names):
        parquet.write_table(whole.set_column(place, name, _COLUMNS[junk](len(whole))), path)
        try:
            samples, dropped = convert(open_source(root, OPTIONS))
        except UserError as refused:
            sentence = str(refused)
        else:
            sentence = ""
            assert len(samples) + sum(dropped.values()) == 11, (name, dropped)
        assert "\n" not in sentence


# Datasets of others


def test_a_real_dataset_of_which_two_episodes_are_here() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no {REAL}")
    options = replace(OPTIONS, image_size=32, stride=60)
    with pytest.raises(
        UserError, match=r"got 98 of 100 without their files \(episode 0 lacks data/chunk-000/episode_0"
    ):
        open_source(REAL, options)
    source = open_source(REAL, replace(options, allow_missing=True))
    check_card(source.card)
    assert (source.card.state_dim, source.card.action_dim, source.card.rate_hz) == (26, 26, 30.0)
    samples, dropped = convert(source)
    assert Counter(sample.episode for sample in samples) == {2: 6, 4: 6}
    assert not dropped
    assert {sample.task for sample in samples} == {"Pick up the yellow bottle on the table."}


@pytest.mark.skipif(not WRITTEN, reason="PI05_LEROBOT_WRITTEN names no folder of tests/interop/write_lerobot_v3.py")
@pytest.mark.parametrize("name", ["h264", "libsvtav1", "image"])
def test_what_lerobot_itself_wrote(name: str) -> None:
    root = Path(WRITTEN) / name
    with np.load(root.with_suffix(".npz")) as put_in:
        truth = {key: put_in[key] for key in put_in.files}
    samples, dropped = convert(open_source(root, OPTIONS))
    assert not dropped
    assert len(samples) == len(truth["state"])
    for row, sample in enumerate(samples):
        assert sample.state is not None
        assert sample.actions is not None
        assert (sample.episode, sample.frame) == (truth["episode"][row], truth["frame"][row])
        np.testing.assert_array_equal(sample.state, truth["state"][row])
        np.testing.assert_array_equal(sample.actions[0], truth["action"][row])
        assert sample.task == str(truth["task"][row])
        assert painted(sample.images["base_0_rgb"]) == truth["top"][row]
        assert painted(sample.images["left_wrist_0_rgb"]) == truth["wrist"][row]
