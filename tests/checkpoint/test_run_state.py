"""A checkpoint is there whole or not at all, comes back bit for bit, and is refused where it does not fit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.checkpoint import integrity, run_state
from pi05_train.checkpoint.integrity import delete
from pi05_train.checkpoint.run_state import (
    DataState,
    check_data_state,
    latest,
    load,
    prune,
    save,
    step_folder,
    steps_saved,
)
from pi05_train.errors import UserError


def state(seed: int, width: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {"a.weight": torch.randn(4, width, generator=generator), "b": torch.randn(2, generator=generator)},
        "optimizer": {"step": {"a.weight": torch.tensor(float(seed))}},
        "step": torch.tensor(seed, dtype=torch.int64),
    }


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(got[name], value)
        else:
            assert torch.equal(got[name], value), name


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(1, 2**31), extra=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)))
def test_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, seed: int, extra: dict[str, float]) -> None:
    run = tmp_path_factory.mktemp("run")
    save(run, seed, state(seed), extra)
    into = state(0)
    alias = into["model"]["b"]
    assert load(run, seed, into) == extra
    assert_same(into, state(seed))
    assert torch.equal(alias, state(seed)["model"]["b"]), "tensors are filled in place"


def test_latest_ignores_saves_that_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert latest(tmp_path) is None
    save(tmp_path, 10, state(10), {})

    rename = Path.rename

    def power_cut(*_: object) -> None:
        raise RuntimeError("power cut")

    def rename_of_files_only(self: Path, target: Path) -> Path:
        return power_cut() if self.is_dir() else rename(self, target)

    moments = [
        (run_state, "write_tensors", power_cut),
        (Path, "write_text", power_cut),
        (integrity, "_sync", power_cut),
        (Path, "rename", rename_of_files_only),
    ]
    for room, name, cut in moments:
        with monkeypatch.context() as patch:
            patch.setattr(room, name, cut)
            with pytest.raises(RuntimeError, match="power cut"):
                save(tmp_path, 20, state(20), {})
        assert latest(tmp_path) == 10
    assert save(tmp_path, 20, state(20), {}) == step_folder(tmp_path, 20)
    assert steps_saved(tmp_path) == [10, 20]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000020"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, state(1), {"n": 1})
    save(tmp_path, 3, state(2), {"n": 2})
    into = state(0)
    assert load(tmp_path, 3, into) == {"n": 2}
    assert_same(into, state(2))


def test_everything_is_synced_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real_sync, real_rename = integrity._sync, Path.rename
    monkeypatch.setattr(integrity, "_sync", lambda path: (synced.append(path.name), real_sync(path)))
    at_rename: list[set[str]] = []

    def rename(self: Path, target: Path) -> Path:
        at_rename.append(set(synced))
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    folder = save(tmp_path, 1, state(1), {})
    assert at_rename[-1] >= {p.name for p in folder.iterdir()} | {f".saving-{folder.name}"}
    assert synced[-1] == "checkpoints", "the new name itself"


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step, state(step), {})
    (step_folder(tmp_path, 3) / "complete.json").unlink()
    prune(tmp_path, 2)
    assert steps_saved(tmp_path) == [2, 10]
    prune(tmp_path, 1)
    assert steps_saved(tmp_path) == [10]


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step-00000007"):
        load(tmp_path, 7, state(0))


@pytest.mark.parametrize("victim", ["complete.json", ".metadata", "extra.json", "__0_0.distcp", "crc32c.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "scrambled"])
def test_damage_is_refused_with_the_folder_named(tmp_path: Path, victim: str, damage: str) -> None:
    folder = save(tmp_path, 5, state(5), {"key": "value"})
    path = folder / victim
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(b"\xff" * len(content))
    with pytest.raises(UserError, match=r"step-00000005.*delete this folder"):
        load(tmp_path, 5, state(0))


def test_one_flipped_bit_is_found_and_an_older_checkpoint_named(tmp_path: Path) -> None:
    for step in (5, 6, 7):
        save(tmp_path, step, state(step), {})
    (step_folder(tmp_path, 6) / ".metadata").unlink()
    victim = step_folder(tmp_path, 7) / "__0_0.distcp"
    content = bytearray(victim.read_bytes())
    place = content.index(state(7)["model"]["b"].numpy().tobytes())
    content[place] ^= 1
    victim.write_bytes(content)
    wrong = r"step-00000007: got __0_0\.distcp with other bytes.*delete this folder to go on from step-00000005\."
    with pytest.raises(UserError, match=wrong):
        load(tmp_path, 7, state(0))
    with pytest.raises(UserError, match=r"\.metadata missing.*go on from step-00000005\."):
        load(tmp_path, 6, state(0))
    delete(step_folder(tmp_path, 5))
    with pytest.raises(UserError, match="begin anew"):
        load(tmp_path, 7, state(0))


def test_another_model_is_refused_by_tensor_name(tmp_path: Path) -> None:
    save(tmp_path, 5, state(5), {})
    with pytest.raises(UserError, match=r"model\.a\.weight.*\[4, 3\].*\[4, 4\]"):
        load(tmp_path, 5, state(0, width=4))
    more = state(0)
    more["model"]["c"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"model\.c.*got none"):
        load(tmp_path, 5, more)
    less = state(0)
    del less["model"]["b"]
    with pytest.raises(UserError, match=r"model\.b.*no such tensor"):
        load(tmp_path, 5, less)


@pytest.mark.parametrize("changed", ["seed", "step", "global_batch_samples", "fingerprint"])
def test_other_data_is_refused(tmp_path: Path, changed: str) -> None:
    saved = {"seed": 1, "step": 2, "global_batch_samples": 8, "fingerprint": "abc"}
    now = DataState(seed=1, step=2, global_batch_samples=8, fingerprint="abc")
    check_data_state(tmp_path, saved, now)
    with pytest.raises(UserError, match=changed):
        check_data_state(tmp_path, saved | {changed: 9}, now)


def test_sizes_are_listed(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, state(1), {})
    sizes = json.loads((folder / "complete.json").read_text())["sizes"]
    found = {p.name: os.path.getsize(p) for p in folder.iterdir() if p.name != "complete.json"}
    assert sizes == found


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(tmp_path, 1, state(1), {})
    assert latest(tmp_path) is None
