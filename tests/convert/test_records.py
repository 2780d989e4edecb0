"""An episode's record gives the episode back, and nothing but what was stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.convert.episodes import Episode
from pi05_train.convert.records import episode_record, recorded_episode
from pi05_train.convert.source import Dropped, EpisodeRecord, Options
from pi05_train.convert.video import Footage, frame_stamps
from pi05_train.errors import UserError
from tests.convert.fake_source import card_of, fake_episode, painted
from tests.convert.lerobot_folders import write_video

CARD = card_of(Options("fake", "CE"))
FILES = [b"\xff\xd8\xff jpeg", b"\x89PNG", b"RIFF", b"", b"anything"]
TEXTS = st.text(max_size=5)


def record_of(episode: Episode) -> EpisodeRecord:
    record = episode_record(episode, CARD)
    assert isinstance(record, EpisodeRecord)
    return record


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 6), data=st.data())
def test_every_episode_comes_back(frames: int, data: st.DataObject) -> None:
    per_frame = st.lists(TEXTS, min_size=frames, max_size=frames)
    files = data.draw(st.lists(st.sampled_from(FILES), min_size=frames, max_size=frames))
    episode = replace(
        fake_episode(data.draw(st.integers(0, 10**8)), frames, {}),
        task=data.draw(st.one_of(TEXTS, per_frame)),
        subtasks=data.draw(st.one_of(st.just([]), per_frame)),
        utterances=data.draw(st.one_of(st.just([]), per_frame)),
        split=data.draw(st.sampled_from([None, "train", "heldout"])),
        split_name=data.draw(TEXTS),
        success=data.draw(st.booleans()),
        cameras={"base_0_rgb": files, "left_wrist_0_rgb": [painted(frame) for frame in range(frames)]},
    )
    record = record_of(episode)
    assert record == record_of(episode)
    again = recorded_episode(record.members, "here")
    np.testing.assert_array_equal(again.state, episode.state)
    np.testing.assert_array_equal(again.actions, episode.actions)
    tasks, tasks_again = ([each.task] * frames if isinstance(each.task, str) else each.task for each in
                          (episode, again))  # fmt: skip
    assert tasks == tasks_again
    assert list(again.cameras["base_0_rgb"]) == files
    for name in ("number", "subtasks", "utterances", "split", "split_name", "success", "environment_id", "rate_hz"):
        assert getattr(again, name) == getattr(episode, name)


def spoiled(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[dict[str, bytes]], None]:
    def spoil(members: dict[str, bytes]) -> None:
        content = change(members.pop(name))
        if content is not None:
            members[name] = content

    return spoil


def header(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    return spoiled("json", lambda content: json.dumps(json.loads(content) | changes).encode())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoiled("json", lambda _: None), "here, json: got"),
        (spoiled("json", lambda content: content[:-5]), "here, json: got"),
        (header(schema=1), "here, json, schema: got 1, expected 'master 1'"),
        (header(rate_hz="fast"), "here, json, rate_hz: got 'fast'"),
        (header(members={}), "here: got the members .*lowdim"),
        (spoiled("lowdim.npz", lambda _: None), r"here: got the members \['base_0_rgb.zip', 'json',"),
        (spoiled("lowdim.npz", lambda content: content[:-1]), "here, lowdim.npz: got bytes that have changed"),
        (spoiled("base_0_rgb.zip", lambda content: content + b"?"), "here, base_0_rgb.zip: got bytes that have ch"),
    ],
)
def test_a_record_that_is_not_as_it_was_stored(spoil: Callable[[dict[str, bytes]], None], sentence: str) -> None:
    members = dict(record_of(fake_episode(0, 3, {})).members)
    spoil(members)
    with pytest.raises(UserError, match=sentence) as refused:
        recorded_episode(members, "here")
    assert "\n" not in str(refused.value)


def test_footage_is_kept_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, range(3), 10, "h264")
    episode = replace(fake_episode(0, 3, {}), cameras={"base_0_rgb": Footage(path, frame_stamps(path)[0])})
    record = record_of(episode)
    assert record.members["base_0_rgb.mp4"] == path.read_bytes()
    shown = recorded_episode(record.members, "here").cameras["base_0_rgb"]
    assert all((ours == theirs).all() for ours, theirs in zip(shown, episode.cameras["base_0_rgb"], strict=True))


@pytest.mark.parametrize(
    ("command", "reason"),
    [("nan", "NaN in actions"), ("dims", "dimensions differ from the card"),
     ("short video", "frame count of a camera differs")],
)  # fmt: skip
def test_what_makes_no_episode_makes_no_record(command: str, reason: str) -> None:
    bad = fake_episode(3, 4, {"commands": {"3": [command]}})
    assert episode_record(bad, CARD) == Dropped("00000003", reason)
    grey = replace(fake_episode(3, 1, {}), cameras={"base_0_rgb": [np.zeros((4, 4), np.uint8)]})
    assert episode_record(grey, CARD) == Dropped("00000003", "picture unreadable")
