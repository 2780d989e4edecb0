"""openpi's JAX checkpoints: what its own tools wrote reads bit for bit, ours as well; damage is one sentence."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.checkpoint.storage import orbax_write, place, zarr
from pi05_train.checkpoint.storage.assets import find_assets
from pi05_train.checkpoint.storage.orbax import OrbaxSource
from pi05_train.checkpoint.storage.orbax_write import write_orbax
from pi05_train.errors import UserError
from tests.checkpoint.storage.made import SIGLIP, assert_holds, orbax_folder, same_bits, specs, tensors
from tests.golden_numbers import complete_path, tiny_parameters

STATISTICS = b'{"norm_stats": {}}'


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A small checkpoint as openpi's training leaves it."""
    folder = orbax_folder(tmp_path / "step", tensors())
    for asset in ("droid", "physical-intelligence/libero"):
        (folder / "assets" / asset).mkdir(parents=True)
        (folder / "assets" / asset / "norm_stats.json").write_bytes(STATISTICS)
    return folder


def edit_tree(step: Path, **changes: Any) -> dict[str, Any]:
    path = step / "params" / "_METADATA"
    tree: dict[str, Any] = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(tree))
    return tree


def data_files(step: Path) -> list[Path]:
    return sorted((step / "params").glob("**/d/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("below", ["pi05_tiny_save_state", "pi05_tiny_save_state/params", "pi05_tiny_pure"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_openpi_saved_reads_bit_for_bit(below: str, scheme: str) -> None:
    folder = complete_path(f"openpi_orbax/{below}").resolve()
    source = OrbaxSource(f"{scheme}{folder}")
    assert_holds(source, {name: torch.from_numpy(array) for name, array in tiny_parameters("pi05_tiny").items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_we_write_reads_back(tmp_path: Path, dtype: torch.dtype) -> None:
    assert_holds(OrbaxSource(str(orbax_folder(tmp_path / "step", tensors(dtype)))), tensors(dtype))


@settings(max_examples=10, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int32]),
    chunk_bytes=st.integers(1, 500),
    block_bytes=st.integers(1, 300),
)
def test_every_bit_survives_any_chunks_and_blocks(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: torch.dtype, chunk_bytes: int, block_bytes: int
) -> None:
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    array = bits.view(dtype).reshape(shape)  # NaNs of every kind among them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax_write, "CHUNK_BYTES", chunk_bytes)
        for room in (place, zarr):
            patch.setattr(room, "BLOCK_BYTES", block_bytes)
        source = OrbaxSource(str(orbax_folder(tmp_path_factory.mktemp("any") / "step", {"a/w": array})))
        assert same_bits(source.read("a/w"), array)


def with_array(step: Path, dtype: str, metadata: dict[str, Any], array: Any) -> OrbaxSource:
    """The checkpoint with `action_in_proj/kernel` stored anew by tensorstore."""
    key = "params.action_in_proj.kernel.value/"
    kvstore = {"driver": "ocdbt", "base": f"file://{step}/params/", "path": key}
    store = ts.open(
        {"driver": "zarr", "kvstore": kvstore, "metadata": metadata},
        create=True, delete_existing=True, dtype=dtype, shape=array.shape,
    ).result()  # fmt: skip
    store.write(array.astype(store.dtype.numpy_dtype)).result()
    return OrbaxSource(str(step))


ZSTD = {"compressor": {"id": "zstd"}}


@pytest.mark.parametrize(
    "metadata",
    [
        ZSTD | {"chunks": [11, 4, 3]},
        ZSTD | {"chunks": [2, 7, 3]},
        ZSTD | {"chunks": [30, 30, 30]},
        {"compressor": None, "chunks": [4, 7, 2]},
        {"compressor": {"id": "blosc"}, "chunks": [4, 7, 5]},
        ZSTD | {"chunks": [4, 7, 5], "order": "F"},
        ZSTD | {"chunks": [4, 7, 5], "dimension_separator": "/"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_of_a_sharded_run_and_other_packings(step: Path, metadata: dict[str, Any], dtype: str) -> None:
    numbers = np.random.default_rng(0).standard_normal((11, 7, 5)).astype(np.float32)
    numbers[3:9] = 0  # a chunk of zeros is not stored
    edit_tree(step, store_array_data_equal_to_fill_value=False)
    source = with_array(step, dtype, metadata, numbers)
    expected = torch.from_numpy(numbers).to(getattr(torch, dtype))
    assert same_bits(source.read("action_in_proj/kernel"), expected)


def test_no_chunk_is_asked_for_as_a_whole(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint saved on one host has arrays of 5 GB in one chunk."""
    for room in (place, zarr):
        monkeypatch.setattr(room, "BLOCK_BYTES", 1000)
    source = OrbaxSource(str(step))
    sizes: list[int] = []
    real = place.Place.wait

    def wait(self: place.Place, future: Any, what: str, seconds: float = 1.0) -> Any:
        found = real(self, future, what, seconds)
        sizes.append(len(found.value))
        return found

    monkeypatch.setattr(place.Place, "wait", wait)
    name = "action_in_proj/kernel"
    assert same_bits(source.read(name), tensors()[name])
    assert max(sizes) <= 1000 < tensors()[name].nbytes


def test_a_name_read_twice_is_read_once(step: Path) -> None:
    source = OrbaxSource(str(step))
    first = source.read("action_in_proj/kernel")
    assert source.read("action_in_proj/kernel") is first


def test_value_goes_only_if_every_path_ends_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {f"{SIGLIP}/value": torch.ones(2), "a/kernel": torch.zeros(2)}
    monkeypatch.setattr(orbax_write, "_path", lambda name: ("params", *name.split("/")))
    assert_holds(OrbaxSource(str(orbax_folder(tmp_path / "step", made))), made)


def test_the_layout_is_the_one_that_openpi_saves(tmp_path: Path) -> None:
    """Same files beside the data, same tree, same keys; openpi's own loader was tried on it by hand."""
    golden = complete_path("openpi_orbax/pi05_tiny_save_state")
    made = {name: torch.from_numpy(array) for name, array in tiny_parameters("pi05_tiny").items()}
    step = orbax_folder(tmp_path / "step", made)
    trees = [json.loads((folder / "params/_METADATA").read_text()) for folder in (golden, step)]
    assert trees[0] == trees[1]
    noted = [json.loads((folder / "_CHECKPOINT_METADATA").read_text()) for folder in (golden, step)]
    assert noted[0].keys() == noted[1].keys()
    assert noted[0]["item_handlers"]["params"] == noted[1]["item_handlers"]["params"]
    names = [place.Place(str(folder / "params")).database().names() for folder in (golden, step)]
    assert names[0] == names[1]


def test_every_announced_array_must_come_once(tmp_path: Path) -> None:
    made = tensors()
    name = next(iter(made))
    for come, fault in ((dict(list(made.items())[1:]).items(), "never came"), ([(name, made[name])] * 2, "twice")):
        folder = tmp_path / fault
        folder.mkdir()
        with pytest.raises(AssertionError, match=fault):
            write_orbax(folder, specs(made), come)


def test_statistics_come_along_as_they_are(step: Path) -> None:
    expected = {f"{asset}/norm_stats.json": STATISTICS for asset in ("droid", "physical-intelligence/libero")}
    for where in (str(step), str(step / "params"), f"file://{step}"):
        assert find_assets(where).files == expected
    assert not find_assets(str(step / "assets")).files


def test_a_tree_with_more_than_is_there_names_what_is_missing(step: Path) -> None:
    leaves = json.loads((step / "params/_METADATA").read_text())["tree_metadata"]
    more = json.loads(json.dumps(leaves).replace("gating_einsum", "linear"))
    edit_tree(step, tree_metadata=leaves | more)
    with pytest.raises(
        UserError, match=r"params\.PaliGemma\.llm\.layers\.mlp\.linear\.value.*of the 6 .* 1 are missing"
    ):
        OrbaxSource(str(step))


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_data_file_not_fetched_whole_names_an_array(step: Path, damage: str) -> None:
    largest = data_files(step)[-1]
    content = largest.read_bytes()
    largest.unlink()
    if damage == "short":
        largest.write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"array params\.action_in_proj\.kernel\.value in .*fetch or copy"):
        OrbaxSource(str(step))


def test_any_file_lost_is_one_sentence(step: Path) -> None:
    sentences: list[str] = []
    for path in (path for path in (step / "params").rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        try:
            assert_holds(OrbaxSource(str(step)), tensors())  # of files that later ones replaced nothing is missed
        except UserError as error:
            sentences.append(str(error))
        path.write_bytes(content)
    assert len(sentences) >= 4
    assert not any("\n" in sentence for sentence in sentences)
    assert_holds(OrbaxSource(str(step)), tensors())


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "data"])
def test_scrambled_content_is_one_sentence(step: Path, name: str) -> None:
    path = data_files(step)[-1] if name == "data" else step / "params" / name
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(UserError) as refusal:
        assert_holds(OrbaxSource(str(step)), tensors())
    assert "\n" not in str(refusal.value)


def test_a_chunk_that_was_never_merged_is_refused(step: Path) -> None:
    database = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{step}/params/"}).result()
    database.write("params.action_in_proj.kernel.value/0.0", None).result()
    with pytest.raises(UserError, match=r"action_in_proj\.kernel.*no chunk"):
        OrbaxSource(str(step))


def test_the_training_state_is_refused(step: Path) -> None:
    leaves = json.loads((step / "params/_METADATA").read_text())["tree_metadata"]
    edit_tree(step, tree_metadata=json.loads(json.dumps(leaves).replace('"params"', '"opt_state"')))
    with pytest.raises(UserError, match=r"tree of opt_state.*folder of parameters"):
        OrbaxSource(str(step))


def test_another_version_of_zarr_is_refused(step: Path) -> None:
    edit_tree(step, use_zarr3=True)
    with pytest.raises(UserError, match="got arrays of zarr 3"):
        OrbaxSource(str(step))


@pytest.mark.parametrize("dtype", ["complex64", "string"])
def test_numbers_of_no_weights_are_refused(step: Path, dtype: str) -> None:
    database = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{step}/params/"}).result()
    key = "params.action_in_proj.kernel.value/.zarray"
    described = json.loads(database.read(key).result().value) | {
        "dtype": "<c8" if dtype == "complex64" else [["a", "<i4"]]
    }
    database.write(key, json.dumps(described)).result()
    with pytest.raises(UserError, match=r"action_in_proj\.kernel.*dtype"):
        OrbaxSource(str(step))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.ocdbt"):
        OrbaxSource(str(tmp_path))


class Files(BaseHTTPRequestHandler):
    """The files below `root`, whole or a range of their bytes."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        content = path.read_bytes() if path.is_file() else b""
        begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(begin) : int(end) + 1 if end else None]
        self.send_response(404 if not path.is_file() else 206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(step: Path) -> Iterator[str]:
    """An address that serves the small checkpoint."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Files,), {"root": step})) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("below", ["", "/", "/params"])
def test_an_address_reads_like_a_folder(server: str, below: str) -> None:
    assert_holds(OrbaxSource(server + below), tensors())


def test_http_says_that_it_cannot_list_statistics(server: str) -> None:
    found = find_assets(server)
    assert not found.files
    assert "fetch its assets/" in found.note


def test_statistics_of_a_bucket_stay_below_assets(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["droid/norm_stats.json", "droid/other.json", "../../norm_stats.json", "/etc/norm_stats.json"]
    monkeypatch.setattr(place.Place, "can_list", True)
    monkeypatch.setattr(place.Place, "names", lambda _: names)
    for where in (server, f"{server}/params"):
        assert find_assets(where).files == {"droid/norm_stats.json": STATISTICS}


def test_a_bucket_that_lists_nothing_still_gives_its_weights(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.Place, "can_list", True)  # http refuses to list, as some buckets do
    found = find_assets(server)
    assert not found.files
    assert found.note.startswith("no statistics: ")


def test_an_address_without_a_checkpoint_is_refused(server: str) -> None:
    with pytest.raises(UserError, match=r"no manifest\.ocdbt.*local copy"):
        OrbaxSource(f"{server}/assets")


def test_an_address_that_refuses_or_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "RETRIES", {"max_retries": 1, "initial_delay": "10ms", "max_delay": "10ms"})
    monkeypatch.setattr(place, "SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(UserError, match=r"no answer.*check the address, the network"):
            OrbaxSource(address)
    monkeypatch.setattr(place, "SECONDS", 20)
    with pytest.raises(UserError, match=r"connect.*check the address, the network"):
        OrbaxSource(address)


@pytest.mark.parametrize("where", ["ftp://host/x", "hf://user/model", "s3://x"])
def test_addresses_of_no_use_are_refused(where: str) -> None:
    with pytest.raises(UserError):
        OrbaxSource(where)
