"""Videos give the pictures of a time span, each with its own time, however the file is coded and wherever it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi05_train.convert.video import Footage, VideoError, frame_stamps, pictures
from pi05_train.errors import UserError
from tests.convert.lerobot_folders import CODECS, needs_encoder, painted, write_joined, write_video

FPS = 20


@pytest.fixture(scope="module", params=sorted(CODECS))
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 numbered pictures: six seconds, several groups of pictures, B-frames."""
    needs_encoder(str(request.param))
    path = tmp_path_factory.mktemp("video") / "numbers.mp4"
    write_video(path, range(120), FPS, str(request.param))
    return path


def test_the_whole_file_in_order(video: Path) -> None:
    stamps, unit_s = frame_stamps(video)
    assert [round(stamp * unit_s * FPS) for stamp in stamps] == list(range(120))
    assert [painted(picture) for picture in pictures(video, stamps)] == list(range(120))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 5), (29, 30), (37, 12), (60, 60), (119, 1)])
def test_a_clip_is_the_pictures_shown_in_it(video: Path, first: int, count: int) -> None:
    half = 0.5 / FPS
    stamps, _ = frame_stamps(video, first / FPS - half, (first + count) / FPS - half)
    assert [painted(picture) for picture in pictures(video, stamps)] == list(range(first, first + count))


def test_pictures_may_be_left_out(video: Path) -> None:
    stamps, _ = frame_stamps(video)
    assert [painted(picture) for picture in pictures(video, stamps[31:100:7])] == list(range(31, 100, 7))


def test_a_stamp_that_no_picture_has(video: Path) -> None:
    stamps, _ = frame_stamps(video)
    with pytest.raises(VideoError, match="video skips a picture"):
        list(pictures(video, [stamps[3], stamps[3] + 1]))
    with pytest.raises(VideoError, match="video unreadable"):
        list(pictures(video, [stamps[-1], stamps[-1] + 10]))


def test_an_empty_span_has_no_pictures(video: Path) -> None:
    assert frame_stamps(video, 100.0, 101.0)[0] == []
    assert list(pictures(video, [])) == []


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.98])
def test_a_cut_file_is_told(video: Path, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut.mp4"
    content = video.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(VideoError, match="video unreadable"):
        list(pictures(cut, frame_stamps(cut)[0]))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_damaged_stream_never_gives_other_pictures(video: Path, tmp_path: Path, share: float) -> None:
    """FFmpeg's H.264 decoder conceals damage by default: it shows the picture before once more."""
    content = bytearray(video.read_bytes())
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    place = begin + int(share * (end - begin))
    content[place : place + 150] = bytes(150)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    stamps, _ = frame_stamps(damaged)
    with pytest.raises(VideoError, match=r"video (damaged|unreadable|skips a picture)"):
        list(pictures(damaged, stamps))


def test_damage_that_h264_decoders_conceal(tmp_path: Path) -> None:
    """Single bytes changed: by default 4 files in 10 would show another picture under a time stamp, without a word."""
    whole = tmp_path / "whole.mp4"
    write_video(whole, range(60), FPS, "h264")
    content = whole.read_bytes()
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    stamps, _ = frame_stamps(whole)
    seen = {"whole": 0, "told": 0}
    damaged = tmp_path / "damaged.mp4"
    for place in range(begin + 700, end - 20, (end - begin - 700) // 40):  # behind the encoder's settings
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            shown = [painted(picture) for picture in pictures(damaged, stamps)]
        except VideoError:
            seen["told"] += 1
        else:
            seen["whole"] += 1
            assert shown == list(range(60))
    assert seen["told"] > 10


def test_an_absent_file_ends_the_conversion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.mp4: got No such file.*fetch it again"):
        frame_stamps(tmp_path / "absent.mp4")


@pytest.fixture(params=sorted(CODECS))
def joined(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """60 numbered pictures, of which each 15 were encoded apart."""
    needs_encoder(str(request.param))
    write_joined(tmp_path / "joined.mp4", [range(start, start + 15) for start in (0, 15, 30, 45)], FPS, request.param)
    return tmp_path / "joined.mp4"


@pytest.mark.parametrize(("first", "count"), [(0, 60), (0, 30), (30, 30), (15, 15)])
def test_a_part_that_key_frames_bound_is_cut_out_without_loss(joined: Path, first: int, count: int) -> None:
    stamps, _ = frame_stamps(joined)
    part = Footage(joined, stamps[first : first + count])
    content = part.mp4()
    assert content == part.mp4()
    assert (content == joined.read_bytes()) == (count == 60)
    again = Footage(content, frame_stamps(content)[0])
    assert [painted(picture) for picture in again] == list(range(first, first + count))
    assert all((ours == theirs).all() for ours, theirs in zip(part, again, strict=True))


def test_any_other_part_is_exact_or_refused(joined: Path) -> None:
    """Never without a key frame at its beginning, and never with a packet that a picture behind its end needs."""
    stamps, _ = frame_stamps(joined)
    refused = set()
    inside = {(1, 15), (16, 60), (5, 9)}
    for first, last in (*inside, *((0, last) for last in range(1, 15))):
        part = Footage(joined, stamps[first:last])
        try:
            content = part.mp4()
        except VideoError:
            refused.add((first, last))
        else:
            again = Footage(content, frame_stamps(content)[0])
            assert all((ours == theirs).all() for ours, theirs in zip(part, again, strict=True))
    assert refused >= inside
