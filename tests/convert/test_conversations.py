"""Conversations about pictures: each question with its answer, and nothing lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pi05_train.convert import conversations
from pi05_train.convert.source import Options
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members
from tests.convert.found import Found, dropped, everything
from tests.convert.web_pictures import red_box_picture, write

OPTIONS = Options("toy_llava", "WD", image_size=32)


def said(*texts: str, first: str = "human") -> list[dict[str, str]]:
    """Turns of a person and the model, in turn."""
    speakers = [first, "gpt" if first == "human" else "human"]
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]


def llava_folder(folder: Path, entries: list[Any] | None = None) -> Path:
    for name in ("coco/a.jpg", "gqa/b.png"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(red_box_picture(20, 30, (5, 5, 10, 10)))
    usual = [
        {
            "id": "1",
            "image": "coco/a.jpg",
            "conversations": said("<image>\nWhat?", "A box.", "Which colour?", "Red"),
        },
        {"id": "2", "image": "gqa/b.png", "conversations": said("Where is it?\n<image>", "On the left.")},
    ]
    write(folder / "talks.json", usual if entries is None else usual + entries)
    return folder


def converted(path: Path, options: Options = OPTIONS) -> Found:
    return everything(conversations.open_source(path, options))


def test_each_question_is_a_sample_without_the_image_mark(tmp_path: Path) -> None:
    source = conversations.open_source(llava_folder(tmp_path), OPTIONS)
    samples = [found for found in everything(source) if isinstance(found, Sample)]
    assert [(s.key, s.question, s.answer) for s in samples] == [
        ("00000000_000000", "What?", "A box."),
        ("00000000_000001", "Which colour?", "Red"),
        ("00000001_000000", "Where is it?", "On the left."),
    ]
    for sample in samples:
        check_sample(sample, source.card)
        assert parse_sample(sample_members(sample)) == sample
    assert samples[0].provenance == {"picture": "coco/a.jpg", "entry": "talks.json[0]"}
    assert any("1 questions follow" in note for note in source.notes)


def test_a_picture_is_on_one_side_in_whatever_entry_it_stands(tmp_path: Path) -> None:
    entries = [{"image": image, "conversations": said("?", "!")} for image in ("coco/a.jpg", "gqa/b.png") * 20]
    found = converted(llava_folder(tmp_path, entries), Options("toy_llava", "WD", image_size=32, heldout=0.5))
    sides = {(s.provenance["picture"], s.split) for s in found if isinstance(s, Sample)}
    assert len(sides) == 2


def test_json_lines_and_a_single_file_read_the_same(tmp_path: Path) -> None:
    folder = llava_folder(tmp_path)
    expected = [s.question for s in converted(folder) if isinstance(s, Sample)]
    assert [s.question for s in converted(folder / "talks.json") if isinstance(s, Sample)] == expected
    entries = json.loads((folder / "talks.json").read_text())
    (folder / "talks.json").rename(folder / "other.txt")
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    assert [s.question for s in converted(folder) if isinstance(s, Sample)] == expected
    write(folder / "unrelated.json", {"some": "settings"})
    assert [s.question for s in converted(folder) if isinstance(s, Sample)] == expected


LOSSES: dict[str, tuple[Any, int]] = {
    "no picture": ({"conversations": said("Who?", "Me", "Why?", "So")}, 2),
    "several pictures": ({"image": ["coco/a.jpg", "gqa/b.png"], "conversations": said("Which?", "Both")}, 1),
    "turns do not alternate": ({"image": "coco/a.jpg", "conversations": said("I", "you", first="gpt")}, 1),
    "no turns": ({"image": "coco/a.jpg", "conversations": []}, 1),
    "positions as numbers": ({"image": "coco/a.jpg", "conversations": said("Where?", "[0.41, 0.35, 0.60, 0.7]")}, 1),
    "empty answer": ({"image": "coco/a.jpg", "conversations": said("What?", " ")}, 1),
    "empty question": ({"image": "coco/a.jpg", "conversations": said("<image>", "A box")}, 1),
    "text with a placeholder of ours": ({"image": "coco/a.jpg", "conversations": said("Say {boxes}", "a")}, 1),
}


@pytest.mark.parametrize(("reason", "entry"), LOSSES.items(), ids=LOSSES)
def test_losses_are_counted(reason: str, entry: tuple[Any, int], tmp_path: Path) -> None:
    found = converted(llava_folder(tmp_path, [entry[0]]))
    assert dropped(found) == {reason: entry[1]}
    assert sum(isinstance(item, Sample) for item in found) == 3


def test_a_last_question_without_answer_costs_only_itself(tmp_path: Path) -> None:
    entry = {"image": "coco/a.jpg", "conversations": said("One?", "1", "Two?")}
    found = converted(llava_folder(tmp_path, [entry]))
    assert dropped(found) == {"turns do not alternate": 1}
    assert sum(isinstance(item, Sample) for item in found) == 4


def test_a_system_turn_and_the_other_names_of_speakers_are_understood() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "A cup."},
    ]
    (asked,) = conversations.questions_of(turns)
    assert (asked.question, asked.answer) == ("What?", "A cup.")


def test_missing_and_broken_pictures_are_counted_when_allowed(tmp_path: Path) -> None:
    path = llava_folder(tmp_path)
    (path / "images/coco/a.jpg").unlink()
    (path / "images/gqa/b.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 2 pictures absent, such as coco/a\.jpg.*--allow-missing"):
        converted(path)
    found = converted(path, Options("toy_llava", "WD", allow_missing=True))
    assert dropped(found) == {"picture missing": 2, "picture unreadable": 1}


def test_what_are_no_conversations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no conversations"):
        converted(tmp_path)
    path = llava_folder(tmp_path)
    with pytest.raises(UserError, match=r"'other\.json', expected some of talks\.json"):
        converted(path, Options("toy_llava", "WD", dataset="other.json"))
    write(path / "talks.json", [1])
    with pytest.raises(UserError, match="no conversations"):
        converted(path)
    (path / "talks.json").rename(path / "talks.jsonl")
    (path / "talks.jsonl").write_text('{"conversations": []}\n{"conv')
    with pytest.raises(UserError, match="line 2"):
        converted(path)
