"""Subtasks and what a person said, from every place where LeRobot datasets keep them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from pi05_train.convert.lerobot import open_source
from pi05_train.errors import UserError
from tests.convert.lerobot_folders import (
    LANGUAGE,
    OPTIONS,
    TABLE,
    Dataset,
    column,
    converted,
    rewrite,
    write_texts,
)


@pytest.mark.parametrize("kind", ["CE", "HL"])
def test_subtasks_hold_until_the_next(tmp_path: Path, kind: str) -> None:
    root = Dataset("v3.0", extra=LANGUAGE).write(tmp_path / "set")
    source = open_source(root, replace(OPTIONS, kind=kind))
    samples, dropped = converted(source)
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
    rewrite(root / TABLE["v3.0"], column("language_persistent", with_calls))
    samples, dropped = converted(open_source(root, OPTIONS))
    assert not dropped
    assert [s.subtask for s in samples if s.episode == 0] == ["", "", *["reach"] * 3, *["grasp"] * 4]


def test_what_a_person_said_is_at_its_frame(tmp_path: Path) -> None:
    root = Dataset("v3.0", extra=LANGUAGE).write(tmp_path / "set")
    samples, dropped = converted(open_source(root, replace(OPTIONS, kind="VI", stride=4)))
    assert [(s.key, s.verbal_instruction, s.subtask) for s in samples] == [("00000000_000006", "not that one", "grasp")]
    assert dropped == {"no verbal instruction": 26, "no subtask": 1}


def test_subtasks_by_index(tmp_path: Path) -> None:
    root = Dataset("v3.0", extra={"subtask_index": lambda _, frame: frame // 3}).write(tmp_path / "set")
    write_texts(root / "meta/subtasks.parquet", "subtask_index", 0, ["one", "two", "three", "four", "five"])
    samples, _ = converted(open_source(root, OPTIONS))
    assert [s.subtask for s in samples if s.episode == 0] == ["one"] * 3 + ["two"] * 3 + ["three"] * 3


@pytest.mark.parametrize("kind", ["MM", "HL"])
def test_subtasks_from_a_text_column(tmp_path: Path, kind: str) -> None:
    texts = {"action_text": lambda _, frame: None if frame < 2 else "" if frame < 4 else "pick it"}
    root = Dataset("v3.0", extra=texts, texts=["action_text"]).write(tmp_path / "set")
    options = replace(OPTIONS, kind=kind, dataset="subtask=action_text")
    samples, dropped = converted(open_source(root, options))
    assert [s.subtask for s in samples if s.episode == 2] == [""] * 4 * (kind == "MM") + ["pick it"]
    assert dropped == ({} if kind == "MM" else {"no subtask": 12})
    with pytest.raises(UserError, match=r"subtask: got 'skill', expected one of the text columns \['action_text'\]"):
        open_source(root, replace(options, dataset="subtask=skill"))


@pytest.mark.parametrize("kind", ["HL", "VI", "WD"])
def test_kinds_that_the_data_do_not_serve(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"got (no subtasks|kind WD), expected"):
        open_source(Dataset().write(tmp_path / "set"), replace(OPTIONS, kind=kind))
