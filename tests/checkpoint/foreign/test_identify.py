"""A checkpoint's format is told by what it holds; what is none is refused with what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pi05_train.checkpoint.foreign.identify import Format, identify, open_source
from pi05_train.checkpoint.run_state import save, step_folder
from pi05_train.checkpoint.storage.own import write_weights_folder
from pi05_train.errors import UserError
from tests.checkpoint.storage.made import orbax_folder, same_bits, specs, tensors
from tests.golden_numbers import complete_path

ONE = torch.ones(2)
EXPERT = "paligemma_with_expert.gemma_expert.model.norm.dense.weight"
HUGGING_FACE_4 = (
    "language_model.model.norm.weight",
    "vision_tower.vision_model.x",
    "multi_modal_projector.linear.bias",
)
HUGGING_FACE_5 = ("model.language_model.norm.weight", "model.vision_tower.x", "model.multi_modal_projector.linear.bias")


def safetensors(*names: str, config: Any = None, shards: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if shards:
            save_file(dict.fromkeys(names[:1], ONE), folder / "a.safetensors")
            save_file({name: ONE.clone() for name in names[1:]}, folder / "b.safetensors")
            places = dict.fromkeys(names, "b.safetensors") | {names[0]: "a.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        else:
            save_file({name: ONE.clone() for name in names}, folder / "model.safetensors")
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def npz(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "x.npz", **{name: ONE.numpy() for name in names})
        return folder / "x.npz"

    return make


def run(folder: Path) -> Path:
    save(folder, 1, {"model": tensors()}, {})
    return folder


def weights(folder: Path) -> Path:
    made = tensors()
    write_weights_folder(folder / "w", specs(made), made.items(), model_yaml="{}", origin={}, assets={})
    return folder / "w"


KNOWN = {
    "orbax step": (Format.OPENPI_ORBAX, lambda folder: orbax_folder(folder / "1", tensors())),
    "orbax params": (Format.OPENPI_ORBAX, lambda folder: orbax_folder(folder / "1", tensors()) / "params"),
    "openpi torch": (Format.OPENPI_TORCH, safetensors(EXPERT, "action_in_proj.weight", config={"action_dim": 32})),
    "LeRobot": (Format.LEROBOT, safetensors(f"model.{EXPERT}", "model.action_in_proj.weight", config={"type": "pi05"})),
    "HF 4": (Format.PALIGEMMA_SAFETENSORS, safetensors(*HUGGING_FACE_4)),
    "HF 5 in shards": (Format.PALIGEMMA_SAFETENSORS, safetensors(*HUGGING_FACE_5, shards=True)),
    "npz": (Format.PALIGEMMA_NPZ, npz("params/img/embedding/kernel", "params/llm/embedder/input_embedding")),
    "run": (Format.RUN, run),
    "step": (Format.RUN, lambda folder: step_folder(run(folder), 1)),
    "weights": (Format.WEIGHTS, weights),
}


@pytest.mark.parametrize("which", KNOWN)
def test_every_format_is_known_by_what_it_holds(tmp_path: Path, which: str) -> None:
    expected, make = KNOWN[which]
    path = make(tmp_path)
    assert identify(str(path)) is expected
    found, source = open_source(str(path))
    assert found is expected
    assert source.specs
    name = next(iter(source.specs))
    assert tuple(source.read(name).shape) == source.specs[name].shape


@pytest.mark.parametrize("which", ["openpi torch", "LeRobot", "HF 4"])
def test_a_single_file_is_known_like_its_folder(tmp_path: Path, which: str) -> None:
    expected, make = KNOWN[which]
    assert identify(str(make(tmp_path) / "model.safetensors")) is expected


def test_words_of_the_path_do_not_matter(tmp_path: Path) -> None:
    for misleading in ("pi05.npz", "openpi_orbax.safetensors", "lerobot"):
        path = KNOWN["HF 4"][1](tmp_path) / "model.safetensors"
        path.rename(tmp_path / misleading)
        assert identify(str(tmp_path / misleading)) is Format.PALIGEMMA_SAFETENSORS


def test_original_checkpoints_are_known() -> None:
    for below in ("pi05_tiny_save_state", "pi05_tiny_save_state/params", "pi05_tiny_pure"):
        assert identify(str(complete_path(f"openpi_orbax/{below}"))) is Format.OPENPI_ORBAX
    assert identify(str(complete_path("openpi_torch/pi05_tiny.safetensors"))) is Format.OPENPI_TORCH


def test_the_weights_of_a_run_are_chosen(tmp_path: Path) -> None:
    raw, average = tensors(seed=1), tensors(seed=2)
    save(tmp_path, 1, {"model": raw, "ema": average}, {})
    name = next(iter(raw))
    for kind, expected in (("model", raw), ("ema", average), (None, average)):
        assert same_bits(open_source(str(tmp_path), kind=kind)[1].read(name), expected[name])


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def steps(folder: Path) -> Path:
    for step in ("1000", "2000"):
        orbax_folder(folder / step, tensors())
    return folder


UNKNOWN = {
    "nothing there": (lambda folder: folder / "nowhere", "not there"),
    "empty folder": (lambda folder: folder, "a folder with nothing"),
    "folder of steps": (steps, "1000, 2000"),
    "other safetensors": (safetensors("transformer.h.0.weight"), r"transformer\.h\.0\.weight"),
    "LeRobot without config": (safetensors(f"model.{EXPERT}"), "LeRobot.*without its config.json"),
    "LeRobot of another kind": (safetensors(f"model.{EXPERT}", config={"type": "act"}), "LeRobot.*without its config"),
    "config is a list": (safetensors(f"model.{EXPERT}", config=[]), "LeRobot.*without its config"),
    "other npz": (npz("a", "b"), "arrays a, b"),
    "torch file": (lambda folder: (torch.save({"a": ONE}, folder / "x.pt"), folder / "x.pt")[1], "zip file with"),
    "text": (written("readme.md", b"# hello there"), "begins with"),
    "empty file": (written("x.safetensors", b""), "begins with"),
    "cut npz": (written("x.npz", b"PK\x03\x04" + b"\x00" * 50), "does not read as .npz"),
    "cut safetensors": (written("x.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"), "x.safetensors"),
}


@pytest.mark.parametrize("which", UNKNOWN)
def test_what_is_no_checkpoint_is_one_sentence_with_what_was_found(tmp_path: Path, which: str) -> None:
    make, found = UNKNOWN[which]
    where = str(make(tmp_path))
    for asked in (identify, open_source):
        with pytest.raises(UserError, match=found) as refusal:
            asked(where)
        assert "\n" not in str(refusal.value)


def test_half_an_orbax_checkpoint_is_known_and_refused_as_such(tmp_path: Path) -> None:
    step = orbax_folder(tmp_path / "1", tensors())
    (step / "params/manifest.ocdbt").unlink()
    assert identify(str(step)) is Format.OPENPI_ORBAX
    with pytest.raises(UserError, match="finish fetching"):
        open_source(str(step))
