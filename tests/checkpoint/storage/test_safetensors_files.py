"""safetensors: read like the format's own library, and written for it; damage is said in one sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi05_train.checkpoint.storage.safetensors_files import OUR_DTYPES, SafetensorsSource, write_safetensors
from pi05_train.checkpoint.storage.source import DTYPES
from pi05_train.errors import UserError
from tests.checkpoint.storage.made import assert_holds, same_bits, specs, tensors
from tests.golden_numbers import complete_path

MIXED = st.dictionaries(
    st.text(min_size=1, max_size=4).filter(lambda name: name != "__metadata__"),
    st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(sorted(OUR_DTYPES.values()))),
    max_size=5,
)


def random_bits(shape: list[int], dtype: str) -> Tensor:
    size = torch.Size(shape).numel() * DTYPES[dtype].itemsize
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (size,), dtype=torch.uint8)
    return bits.view(DTYPES[dtype]).reshape(shape)


@settings(max_examples=20, deadline=None)
@given(wanted=MIXED, data=st.data())
def test_both_ways_with_the_formats_own_library(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[list[int], str]], data: st.DataObject
) -> None:
    made = {name: random_bits(shape, dtype) for name, (shape, dtype) in wanted.items()}
    folder = tmp_path_factory.mktemp("both")
    save_file(made, folder / "theirs.safetensors")
    assert_holds(SafetensorsSource(folder / "theirs.safetensors"), made)
    order = data.draw(st.permutations(sorted(made)))
    write_safetensors(folder / "ours.safetensors", specs(made), ((name, made[name]) for name in order))
    read = load_file(folder / "ours.safetensors")
    assert read.keys() == made.keys()
    assert all(same_bits(read[name], made[name]) for name in made)
    assert_holds(SafetensorsSource(folder / "ours.safetensors"), made)


def test_what_openpis_converter_wrote_reads_the_same() -> None:
    path = complete_path("openpi_torch/pi05_tiny.safetensors")
    source = SafetensorsSource(path)
    assert_holds(source, load_file(path))
    assert any(name.endswith("embed_tokens.weight") for name in source.metadata), "the tied name that was left out"


def test_metadata_is_what_loaders_of_torch_expect(tmp_path: Path) -> None:
    made = tensors()
    for metadata, expected in ((None, {"format": "pt"}), ({"a": "b"}, {"a": "b"})):
        write_safetensors(tmp_path / "x", specs(made), made.items(), metadata)
        with safe_open(tmp_path / "x", framework="pt") as file:
            assert file.metadata() == expected
        assert SafetensorsSource(tmp_path / "x").metadata == expected


def test_numbers_are_aligned_whatever_comes_before(tmp_path: Path) -> None:
    made = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.ones(3)}
    write_safetensors(tmp_path / "x", specs(made), made.items())
    content = (tmp_path / "x").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    for name, tensor in made.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.itemsize == 0


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    made = {
        "t": torch.arange(6.0).reshape(2, 3).T,
        "slice": torch.arange(10)[::3],
        "grad": torch.ones(2, requires_grad=True),
    }
    write_safetensors(tmp_path / "x", specs(made), made.items())
    assert_holds(SafetensorsSource(tmp_path / "x"), {name: tensor.detach() for name, tensor in made.items()})


@pytest.mark.parametrize("fault", ["never came", "twice", "not announced", "was announced as"])
def test_every_announced_tensor_must_come_once_and_as_announced(tmp_path: Path, fault: str) -> None:
    one, two = torch.ones(2), torch.ones(3)
    come = {
        "never came": [("a", one)],
        "twice": [("a", one), ("a", one)],
        "not announced": [("a", one), ("b", two), ("c", one)],
        "was announced as": [("a", two)],
    }[fault]
    with pytest.raises(AssertionError, match=fault):
        write_safetensors(tmp_path / "x", specs({"a": one, "b": two}), come)


def sharded(folder: Path) -> dict[str, Tensor]:
    made = tensors()
    names = sorted(made)
    files = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, inside in files.items():
        save_file({name: made[name] for name in inside}, folder / file)
    weight_map = {name: file for file, inside in files.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors", None])
def test_folders_of_one_file_or_of_shards(tmp_path: Path, name: str | None) -> None:
    if name is None:
        made = sharded(tmp_path)
    else:
        save_file(made := tensors(), tmp_path / name)
    assert_holds(SafetensorsSource(tmp_path), made)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model-00002-of-00002\.safetensors"):
        SafetensorsSource(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    made = sharded(tmp_path)
    name = max(made)
    save_file({"other": made[name]}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"tensor .* got none: 3 tensors"):
        SafetensorsSource(tmp_path)


def broken(content: bytes, how: str) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    if how == "dtype":
        header[name]["dtype"] = "F4"
    elif how == "shape":
        header[name]["shape"] = [1, 1, 1, 1]
    elif how == "offsets":
        del header[name]["data_offsets"]
    text = json.dumps(header).encode()
    return {
        "empty": b"",
        "cut in the header": content[: length // 2],
        "cut in the numbers": content[:-1],
        "cut to the length": content[:8],
        "longer": content + b"x",
        "a list": struct.pack("<Q", 2) + b"[]",
        "text": b"version https://git-lfs.github.com/spec/v1 and so on",
    }.get(how, struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize(
    "how",
    [
        "empty", "cut in the header", "cut in the numbers", "cut to the length", "longer", "a list", "text", "dtype",
        "shape", "offsets",
    ],
)  # fmt: skip
def test_damage_is_one_sentence(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    path.write_bytes(broken(path.read_bytes(), how))
    with pytest.raises(UserError, match=r"model\.safetensors: got") as refusal:
        SafetensorsSource(path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file(made := tensors(), path)
    source = SafetensorsSource(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="shorter"):
        assert_holds(source, made)


def test_no_safetensors_is_one_sentence(tmp_path: Path) -> None:
    for path, got in ((tmp_path, "none of"), (tmp_path / "nothing", "no such folder")):
        with pytest.raises(UserError, match=got):
            SafetensorsSource(path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index\.json"):
        SafetensorsSource(tmp_path)
