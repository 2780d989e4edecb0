"""Our own weights as tensors by name: out of a run's checkpoints, and as a folder that is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pi05_train.checkpoint.run_state import save, step_folder
from pi05_train.checkpoint.storage.own import RunSource, WeightsFolder, write_weights_folder
from pi05_train.errors import UserError
from tests.checkpoint.storage.made import assert_holds, specs, tensors

MODEL_YAML = "model: {name: small}\nexpert: true\n"
ORIGIN = {"format": "openpi orbax", "path": "gs://somewhere"}
ASSETS = {"droid/norm_stats.json": b"{}", "physical-intelligence/libero/norm_stats.json": b'{"a": 1}'}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints; its average stands apart from its raw weights."""
    for step in (1, 2):
        raw, average = tensors(seed=step), tensors(seed=step + 10)
        save(tmp_path, step, {"model": raw, "ema": average, "optimizer": {"exp_avg": raw}}, {})
    return tmp_path


def test_averaged_or_raw_weights_of_the_newest_checkpoint(run: Path) -> None:
    assert_holds(RunSource(run, "model"), tensors(seed=2))
    assert_holds(RunSource(run, "ema"), tensors(seed=12))
    assert_holds(RunSource(run), tensors(seed=12))
    assert_holds(RunSource(step_folder(run, 1), "model"), tensors(seed=1))


def test_without_an_average_the_raw_weights_are_taken(tmp_path: Path) -> None:
    save(tmp_path, 1, {"model": tensors(torch.bfloat16)}, {})
    assert_holds(RunSource(tmp_path), tensors(torch.bfloat16))
    with pytest.raises(UserError, match="ema_decay"):
        RunSource(tmp_path, "ema")


@pytest.mark.parametrize("victim", [".metadata", "__0_0.distcp", "complete.json"])
def test_a_damaged_checkpoint_is_one_sentence(run: Path, victim: str) -> None:
    path = step_folder(run, 2) / victim
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(UserError, match="step-00000002"):
        assert_holds(RunSource(step_folder(run, 2), "model"), tensors(seed=2))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint"):
        RunSource(tmp_path)


def write(folder: Path, made: dict[str, Tensor]) -> None:
    coming = ((name, made[name]) for name in reversed(made))
    write_weights_folder(folder, specs(made), coming, model_yaml=MODEL_YAML, origin=ORIGIN, assets=ASSETS)


def test_a_weights_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "w", tensors())
    opened = WeightsFolder.open(tmp_path / "w")
    assert_holds(opened.source, tensors())
    assert opened.model == {"model": {"name": "small"}, "expert": True}
    assert opened.origin == ORIGIN
    assert opened.assets() == ASSETS
    assert (tmp_path / "w/assets/droid/norm_stats.json").read_bytes() == ASSETS["droid/norm_stats.json"]
    assert sorted(json.loads((tmp_path / "w/complete.json").read_text())["sizes"]) == sorted(
        ["weights.safetensors", "model.yaml", "origin.json", *(f"assets/{name}" for name in ASSETS)]
    )


def test_writing_again_replaces_the_folder(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path / "w", tensors(seed=seed))
    assert_holds(WeightsFolder.open(tmp_path / "w").source, tensors(seed=2))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("cause", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writing_leaves_what_was_there(tmp_path: Path, cause: type[BaseException]) -> None:
    def interrupted(made: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield next(iter(made.items()))
        raise cause

    made = tensors()
    for before in (False, True):
        if before:
            write(tmp_path / "w", made)
        with pytest.raises(cause):
            write_weights_folder(
                tmp_path / "w", specs(made), interrupted(made), model_yaml=MODEL_YAML, origin=ORIGIN, assets={}
            )
        assert [path.name for path in tmp_path.iterdir()] == (["w"] if before else [])
    assert_holds(WeightsFolder.open(tmp_path / "w").source, made)


@pytest.mark.parametrize("victim", ["weights.safetensors", "model.yaml", "origin.json", "complete.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "scrambled"])
def test_damage_is_one_sentence_with_the_cure(tmp_path: Path, victim: str, damage: str) -> None:
    write(tmp_path / "w", tensors())
    path = tmp_path / "w" / victim
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "short" else b"\xff" * len(content))
    with pytest.raises(UserError, match=r"convert it again|copy it again") as refusal:
        WeightsFolder.open(tmp_path / "w")
    assert "\n" not in str(refusal.value)
