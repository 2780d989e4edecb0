"""Bad LeRobot datasets: whatever is wrong is refused in one sentence, or dropped and counted by episode."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pi05_train.convert.lerobot import open_source
from pi05_train.errors import UserError
from pi05_train.samples.card import check_card
from tests.convert.lerobot_folders import (
    LANGUAGE,
    OPTIONS,
    TABLE,
    VERSIONS,
    VIDEO,
    Dataset,
    column,
    converted,
    edit_info,
    rewrite,
    write_video,
)

REFUSED: dict[str, tuple[str, Any, str]] = {
    "no metadata": ("v2.1", lambda r: shutil.rmtree(r / "meta"), "got no meta/info.json, expected one"),
    "fewer listed": (
        "v3.0",
        lambda r: edit_info(r, lambda i: i.update(total_episodes=5)),
        "got 3 in meta/episodes, expected the 5 of",
    ),
    "broken info": ("v2.1", lambda r: (r / "meta/info.json").write_text("{"), "meta/info.json: got"),
    "no fps": ("v3.0", lambda r: edit_info(r, lambda i: i.update(fps=None)), "fps: got None"),
    "template": ("v2.1", lambda r: edit_info(r, lambda i: i.update(data_path="{file}")), "data_path: got '{file}'"),
    "no tasks": ("v2.1", lambda r: (r / "meta/tasks.jsonl").unlink(), "got neither tasks.parquet nor tasks.jsonl"),
    "no episode table": ("v3.0", lambda r: shutil.rmtree(r / "meta/episodes"), r"got no meta/episodes/\*/\*.parquet"),
    "no data": ("v2.1", lambda r: shutil.rmtree(r / "data"), "got 3 of 3 without their files .*; fetch the rest.$"),
    "no video": ("v2.1", lambda r: (r / VIDEO["v2.1"]).unlink(), r"1 of 3 without .*1 lacks videos/.*--allow-missing"),
    "no video v3": ("v3.0", lambda r: (r / VIDEO["v3.0"]).unlink(), "got 3 of 3 without"),
    "no state": (
        "v2.1",
        lambda r: edit_info(r, lambda i: i["features"].pop("observation.state")),
        "expected state under",
    ),
    "no column": (
        "v3.0",
        lambda r: rewrite(r / TABLE["v3.0"], lambda t: t.drop_columns("action")),
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


def _nan(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    rows = column.to_pylist()
    rows[2][1] = float("nan")
    return pyarrow.array(rows, column.type)


def _shown(root: Path, count: int) -> None:
    write_video(root / VIDEO["v2.1"], [100 + frame for frame in range(count)], 10, "h264")


BAD_EPISODE: dict[str, tuple[Any, str]] = {
    "a row less": (lambda r: rewrite(r / TABLE["v2.1"], lambda t: t[:-1]), "row count differs from the metadata"),
    "a row twice": (
        lambda r: rewrite(r / TABLE["v2.1"], lambda t: pyarrow.concat_tables([t[:13], t[12:13]])),
        "frames are not numbered 0, 1, 2, ...",
    ),
    "NaN in states": (lambda r: rewrite(r / TABLE["v2.1"], column("observation.state", _nan)), "NaN in states"),
    "times": (
        lambda r: rewrite(r / TABLE["v2.1"], column("timestamp", lambda c: pyarrow.array([0.0] * len(c)))),
        "time stamps do not rise",
    ),
    "rate": (
        lambda r: rewrite(r / TABLE["v2.1"], column("timestamp", lambda c: pyarrow.array(0.2 * np.arange(len(c))))),
        "time stamps disagree with the rate",
    ),
    "no instruction": (
        lambda r: rewrite(r / TABLE["v2.1"], column("task_index", lambda c: pyarrow.array([99] * len(c)))),
        "no instruction",
    ),
    "a picture less": (lambda r: _shown(r, 13), "frame count of a video differs"),
    "a picture more": (lambda r: _shown(r, 15), "frame count of a video differs"),
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
    samples, dropped = converted(open_source(root, OPTIONS))
    assert dropped == {reason: 14}
    assert {sample.episode for sample in samples} == {0, 2}
    assert len(samples) == 14


def test_a_clip_with_a_picture_too_many(tmp_path: Path) -> None:
    """v3: the file goes on after every clip, so only the clip's times can tell."""
    root = Dataset("v3.0").write(tmp_path / "set")
    longer = column(
        "videos/observation.images.top/to_timestamp",
        lambda c: pyarrow.array([time + 0.1 * (episode == 1) for episode, time in enumerate(c.to_pylist())]),
    )
    rewrite(root / "meta/episodes/chunk-000/file-000.parquet", longer)
    samples, dropped = converted(open_source(root, OPTIONS))
    assert dropped == {"frame count of a video differs": 14}
    assert len(samples) == 14


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
            samples, dropped = converted(open_source(root, OPTIONS))
        except UserError as refused:
            sentence = str(refused)
        else:
            sentence = ""
            assert len(samples) + sum(dropped.values()) == 11, (name, dropped)
        assert "\n" not in sentence
