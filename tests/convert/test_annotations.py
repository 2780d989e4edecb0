from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pi05_train.commands.main import main
from pi05_train.convert.annotations import open_source
from pi05_train.convert.pictures import placement
from pi05_train.convert.run import Conversion, convert
from pi05_train.convert.source import Options
from pi05_train.data.sources.index import build_index
from pi05_train.errors import UserError
from pi05_train.samples.schema import Box, Sample
from pi05_train.samples.shards import write_shards
from tests.convert.fake_source import read_shards
from tests.synthetic import CARDS, CHUNK_STEPS, FRAMES, IMAGE_SIZE, synthetic_samples

BASE = CARDS["toy_mobile"]
BOX = {"label": "cup", "camera": "left_wrist_0_rgb", "y_min": 0.25, "x_min": 0.5, "y_max": 0.75, "x_max": 1.0}
SEGMENTS = [
    {"start": 2, "end": 4, "subtask": "lift the cup", "instruction": "up with it", "boxes": [BOX, BOX | {"frame": 3}]},
    {"start": 0, "end": 2, "subtask": "reach for the cup"},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes of five frames of a robot with two cameras, indexed, with their card."""
    folder = tmp_path_factory.mktemp("base") / "toy_mobile"
    write_shards(folder, synthetic_samples(BASE), samples_per_shard=16)
    build_index(folder)
    (folder / "toy_mobile.yaml").write_text(yaml.safe_dump(asdict(BASE)))
    return folder


def annotated(folder: Path, episodes: dict[str, Any], **content: Any) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps({"schema": 1, "episodes": episodes} | content))
    return path


def joined(base: Path, folder: Path, annotations: Path, kind: str, **changes: Any) -> tuple[Conversion, list[Sample]]:
    options = replace(Options("joined", kind, dataset=str(annotations)), **changes)
    made = convert(open_source, base, folder / "joined", options, samples_per_shard=8)
    return made, sorted(read_shards(folder / "joined"), key=lambda sample: sample.key)


def of_episode(samples: list[Sample], episode: int) -> list[Sample]:
    return sorted((sample for sample in samples if sample.episode == episode), key=lambda sample: sample.frame)


def test_high_level_samples(base: Path, tmp_path: Path) -> None:
    made, samples = joined(base, tmp_path, annotated(tmp_path, {"3": {"segments": SEGMENTS}}), "HL")
    assert [sample.frame for sample in samples] == [0, 1, 2, 3]
    assert made.dropped == {"no annotation at this frame": 8 * FRAMES - 4}
    assert "7 of 8 episodes have no annotation." in made.notes
    box = Box("cup", 0.25, 0.5, 0.75, 1.0, "left_wrist_0_rgb")
    for sample, before in zip(samples, of_episode(read_shards(base), 3), strict=False):
        assert (sample.key, sample.images, sample.task, sample.split) == (
            before.key, before.images, before.task, before.split,
        )  # fmt: skip
        assert (sample.source, sample.kind, sample.actions, sample.verbal_instruction) == ("joined", "HL", None, "")
        np.testing.assert_array_equal(sample.state, before.state)
    assert [sample.subtask for sample in samples] == ["reach for the cup"] * 2 + ["lift the cup"] * 2
    assert [len(sample.boxes) for sample in samples] == [0, 0, 1, 2]
    assert samples[3].boxes == (box, box)


def test_boxes_of_the_original_picture_come_onto_the_stored_one(base: Path, tmp_path: Path) -> None:
    file = annotated(tmp_path, {"3": {"segments": SEGMENTS}}, picture_sizes={"left_wrist_0_rgb": [480, 640]})
    _, samples = joined(base, tmp_path, file, "HL")
    place = placement(480, 640, Options("x", "HL", image_size=IMAGE_SIZE))
    (box,) = samples[2].boxes
    assert box == place.box(Box("cup", 0.25, 0.5, 0.75, 1.0, "left_wrist_0_rgb"))
    assert (box.y_min, box.x_max) == (0.125 + 0.25 * 0.75, 1.0)


def test_verbal_samples(base: Path, tmp_path: Path) -> None:
    made, samples = joined(base, tmp_path, annotated(tmp_path, {"3": {"segments": SEGMENTS}}), "VI")
    assert [(sample.frame, sample.verbal_instruction, sample.subtask) for sample in samples] == [
        (2, "up with it", "lift the cup"), (3, "up with it", "lift the cup"),
    ]  # fmt: skip
    assert made.dropped["no verbal instruction"] == 2
    assert {sample.kind for sample in samples} == {"VI"}
    assert all(sample.boxes == () and sample.actions is None for sample in samples)


def test_instructions_in_fixed_words(base: Path, tmp_path: Path) -> None:
    """HL samples become VI samples: label, pictures and split as they were, the subtask in the instruction."""
    _, high = joined(base, tmp_path, annotated(tmp_path, {"3": {"segments": SEGMENTS}}), "HL")
    build_index(tmp_path / "joined")
    options = Options("spoken", "VI", dataset="phrases")
    made = convert(open_source, tmp_path / "joined", tmp_path / "spoken", options)
    spoken = sorted(read_shards(tmp_path / "spoken"), key=lambda sample: sample.key)
    assert (len(spoken), made.dropped) == (len(high), {})
    for sample, before in zip(spoken, high, strict=True):
        assert (sample.kind, sample.subtask, sample.images) == ("VI", before.subtask, before.images)
        assert (sample.split, sample.boxes) == (before.split, ())
        assert before.subtask in sample.verbal_instruction
    assert len({sample.verbal_instruction for sample in spoken}) == len({sample.subtask for sample in high})
    assert any("Nobody said" in note for note in made.notes)
    with pytest.raises(UserError, match="phrases, kind: got HL, expected VI"):
        open_source(tmp_path / "joined", replace(options, kind="HL"))


def test_robot_samples_again_with_the_subtask(base: Path, tmp_path: Path) -> None:
    made, samples = joined(base, tmp_path, annotated(tmp_path, {"3": {"segments": SEGMENTS}}), "ME", horizon=6)
    before = sorted(read_shards(base), key=lambda sample: sample.key)
    assert (made.samples, made.dropped) == (len(before), {})
    for sample, old in zip(samples, before, strict=True):
        assert (sample.key, sample.images, sample.kind) == (old.key, old.images, "ME")
        assert sample.actions is not None
        assert old.actions is not None
        np.testing.assert_array_equal(sample.actions, old.actions[:6])
        covered = old.episode == 3 and old.frame < 4
        wanted = ("lift the cup" if old.frame > 1 else "reach for the cup") if covered else old.subtask
        assert sample.subtask == wanted


def test_chunks_are_never_longer_than_stored(base: Path, tmp_path: Path) -> None:
    _, samples = joined(base, tmp_path, annotated(tmp_path, {}), "MM", horizon=64, stride=2)
    assert {sample.actions.shape[0] for sample in samples if sample.actions is not None} == {CHUNK_STEPS}
    assert {sample.frame for sample in samples} == {0, 2, 4}


def test_the_same_bytes_from_any_number_of_workers(base: Path, tmp_path: Path) -> None:
    options = Options("joined", "HL", dataset=str(annotated(tmp_path, {"3": {"segments": SEGMENTS}})))
    for workers in (1, 2):
        convert(open_source, base, tmp_path / str(workers), options, workers=workers)
    first, second = ([path.read_bytes() for path in sorted((tmp_path / name).glob("*.tar"))] for name in "12")
    assert first == second


def test_the_command_converts_indexes_and_says_what_to_write(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = annotated(tmp_path, {"3": {"segments": SEGMENTS}, "4": {"segments": SEGMENTS}})
    command = ["data", "convert", "annotations", str(base), str(tmp_path / "out"), "--name", "joined", "--kind", "ME"]
    assert main([*command, "--dataset", str(file), "--horizon", "8", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "- /source@sources.joined.card: joined" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"joined.yaml", "index.json", "norm_stats.json"}
    assert main([*command, "--dataset", str(file), "--horizon", "9", "--workers", "1"]) == 2
    assert "begun with horizon = 8: got horizon = 9" in capsys.readouterr().err


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.update(extra=1), r"unknown \['extra'\]"),
        (lambda a: a.update(episodes=[]), "episodes: got list, expected a mapping"),
        (lambda a: a["episodes"].update({"x": {}}), "episode x: got x, expected the number of an episode"),
        (lambda a: a["episodes"].update({"99": {"segments": []}}), r"got episodes \[99\], which the source has not"),
        (lambda a: a["episodes"]["3"]["segments"][0].update(end=1), r"got \(2, 1\), expected 0 <= start < end"),
        (lambda a: a["episodes"]["3"]["segments"][1].update(end=3), "0 to 3 and 2 to 4, expected segments that do not"),
        (lambda a: a["episodes"]["3"]["segments"][0].update(subtask=" "), "subtask: got ' '"),
        (lambda a: a["episodes"]["3"]["segments"][0].update(subtsk="x"), r"unknown \['subtsk'\]"),
        (lambda a: a["episodes"]["3"]["segments"][0]["boxes"][0].update(y_min=0.8), "cup: got .*y_min < y_max"),
        (lambda a: a["episodes"]["3"]["segments"][0]["boxes"][0].update(frame=7), "frame: got 7"),
        (lambda a: a["episodes"]["3"]["segments"][0]["boxes"][0].update(camera="base_1_rgb"), "camera: got 'base_1"),
        (lambda a: a.update(picture_sizes={"base_0_rgb": 224}), "its .height, width. in pixels"),
    ],
)
def test_malformed_annotations(change: Change, sentence: str, base: Path, tmp_path: Path) -> None:
    content = json.loads(json.dumps({"schema": 1, "episodes": {"3": {"segments": SEGMENTS}}}))
    change(content)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        joined(base, tmp_path, tmp_path / "annotations.json", "HL")
    assert not (tmp_path / "joined").exists()


def test_absent_episodes_are_taken_as_absent_on_request(base: Path, tmp_path: Path) -> None:
    file = annotated(tmp_path, {"3": {"segments": SEGMENTS}, "99": {"segments": []}})
    made, _ = joined(base, tmp_path, file, "HL", allow_missing=True)
    assert "1 annotated episodes are absent: 99." in made.notes


def test_a_missing_index_a_missing_card_and_a_wrong_kind(base: Path, tmp_path: Path) -> None:
    file = annotated(tmp_path, {"3": {"segments": SEGMENTS}})
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="kind: got WD, expected HL or VI, or MM, ME, CE"):
        joined(copy, tmp_path, file, "WD")
    (copy / "index.json").unlink()
    with pytest.raises(UserError, match=r"no index\.json"):
        joined(copy, tmp_path, file, "HL")
    (copy / "toy_mobile.yaml").unlink()
    with pytest.raises(UserError, match="no card, expected the source's card beside its shards"):
        joined(copy, tmp_path, file, "HL")
    with pytest.raises(UserError, match=r"annotations \(--dataset\): got .*none, expected a json file"):
        joined(base, tmp_path, tmp_path / "none", "HL")
