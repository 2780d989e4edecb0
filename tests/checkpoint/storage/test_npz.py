"""big_vision's .npz: every array as stored, bfloat16 included, one at a time; damage is said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pi05_train.checkpoint.storage.npz import NpzSource
from pi05_train.errors import UserError
from tests.checkpoint.storage.made import assert_holds, same_bits, specs, tensors


def save(path: Path, *, packed: bool, **more: Any) -> dict[str, torch.Tensor]:
    made = tensors()
    arrays = {f"params/{name}": tensor.numpy() for name, tensor in made.items()} | more
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return made


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_read_as_stored_without_params(tmp_path: Path, packed: bool) -> None:
    made = save(tmp_path / "x.npz", packed=packed)
    assert_holds(NpzSource(tmp_path / "x.npz"), made)


def test_other_orders_and_single_numbers(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "fortran": np.asfortranarray(numbers),
        "big": numbers.astype(">f4"),
        "one": np.float32(3),
        "none": numbers[:0],
    }
    np.savez(tmp_path / "x.npz", **arrays)
    same = torch.from_numpy(numbers)
    expected = {"fortran": same, "big": same, "one": torch.tensor(3.0), "none": same[:0]}
    assert_holds(NpzSource(tmp_path / "x.npz"), expected)


def test_bfloat16_is_stored_as_two_bytes_without_a_meaning(tmp_path: Path) -> None:
    made = tensors(torch.bfloat16)
    bits = {name: tensor.view(torch.int16).numpy().view("V2") for name, tensor in made.items()}
    np.savez(tmp_path / "x.npz", **bits)
    assert_holds(NpzSource(tmp_path / "x.npz"), made)


def test_opening_reads_no_numbers(tmp_path: Path) -> None:
    """A member whose numbers are scrambled is described, and refused only when it is asked for."""
    path = tmp_path / "x.npz"
    made = save(path, packed=False)
    name = "action_in_proj/kernel"
    numbers = made[name].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(numbers, b"\xff" * len(numbers)))
    source = NpzSource(path)
    assert source.specs == specs(made)
    with pytest.raises(UserError, match=name):
        source.read(name)
    assert all(same_bits(source.read(other), made[other]) for other in made if other != name)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damage_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    save(path, packed=True)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(UserError, match=r"x\.npz") as refusal:
        NpzSource(path)
    assert "\n" not in str(refusal.value)


def test_arrays_of_no_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.npz", packed=False, extra=np.array(["a", "b"]))
    with pytest.raises(UserError, match=r"extra.*dtype"):
        NpzSource(tmp_path / "x.npz")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.npz: got no such file"):
        NpzSource(tmp_path / "x.npz")
