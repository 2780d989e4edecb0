"""Shards: plain WebDataset tars, one self-contained sample per anchor frame.

Members of a sample, in order: `{key}.json`, `{key}.lowdim.npz` (when it has numbers), `{key}.{camera}.jpg`. The JSON
lists what must follow it (`lowdim`, `cameras`), so that a shortened sample is never taken for a whole one.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.samples.archive import read_archive, write_archive
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, KINDS, Box, Sample

SCHEMA_VERSION = 1
LOWDIM = ("state", "actions", "action_valid")
_TEXT = ("task", "subtask", "verbal_instruction", "question", "answer")
_PLAIN = ("key", "source", "kind", *_TEXT, "embodiment", "control_mode", "rate_hz", "environment_id")
_TAIL = ("episode", "frame", "split", "success", "provenance")
_LONGEST_NAME = 99
"""Bytes of a ustar member name; longer ones need extension headers that cost 1 KB each."""


def write_shards(folder: Path, samples: Iterable[Sample], *, samples_per_shard: int = 1000) -> list[Path]:
    """Write `shard-000000.tar`, ... into `folder` and return their paths; all appear together at the end.

    The same samples give the same bytes. Refuses (UserError) a folder that already holds shards, a repeated key, and
    any sample that `parse_sample` would refuse. The order of `samples` is the order in the shards: hand them over
    shuffled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if present := sorted(path.name for path in folder.glob("*.tar")):
        raise UserError(f"shard folder {folder}", got=present[0], expected="no shards yet", do="choose an empty folder")
    keys: set[str] = set()
    partial: list[Path] = []
    stream = iter(samples)
    try:
        while group := list(islice(stream, samples_per_shard)):
            partial.append(folder / f"shard-{len(partial):06d}.tar.partial")
            with partial[-1].open("wb") as file:
                for sample in group:
                    if sample.key in keys:
                        raise UserError(
                            f"sample {sample.key} of source {sample.source}",
                            got="its key twice",
                            expected="unique keys",
                            do="number the episodes apart",
                        )
                    keys.add(sample.key)
                    file.write(sample_blocks(sample))
                file.write(end_of_archive(file.tell()))
        return [path.rename(path.with_suffix("")) for path in partial]
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def sample_blocks(sample: Sample) -> bytes:
    """The sample's members as they stand in a shard: a shard is such blocks one after the other and `end_of_archive`.

    The bytes are those of webdataset.TarWriter(mtime=0), without its import of torch. Refuses (UserError) what
    `parse_sample` would refuse and keys that would not be one run of members.
    """
    members = sample_members(sample)
    parse_sample(members)
    longest = max(len(f"{sample.key}.{extension}".encode()) for extension in members)
    if not sample.key or "." in sample.key or "/" in sample.key or longest > _LONGEST_NAME:
        raise UserError(
            f"sample {sample.key} of source {sample.source}, key",
            got=repr(sample.key),
            expected=f"no dot, no slash, member names of at most {_LONGEST_NAME} bytes",
            do="use {episode:08d}_{frame:06d}",
        )
    return member_blocks(sample.key, members)


def member_blocks(key: str, members: Mapping[str, bytes]) -> bytes:
    """Members (extension to content) of one key as they stand in a tar."""
    parts: list[bytes] = []
    for extension, content in members.items():
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode, header.uname, header.gname = len(content), 0o0444, "bigdata", "bigdata"
        parts += [header.tobuf(), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
    return b"".join(parts)


def end_of_archive(size_bytes: int) -> bytes:
    """What ends a tar of that many bytes: two empty blocks, then zeros up to a whole record."""
    return bytes(2 * tarfile.BLOCKSIZE + -(size_bytes + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


def sample_members(sample: Sample) -> dict[str, bytes]:
    """The sample's members in shard order, extension to bytes; the same sample gives the same bytes."""
    arrays = {name: array for name in LOWDIM if (array := getattr(sample, name)) is not None}
    header: dict[str, Any] = {"schema": SCHEMA_VERSION} | {name: getattr(sample, name) for name in (*_PLAIN, *_TAIL)}
    header["boxes"] = [asdict(box) for box in sample.boxes]
    header["lowdim"] = list(arrays)
    header["cameras"] = list(sample.images)
    members = {"json": json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()}
    if arrays:
        members["lowdim.npz"] = write_archive(arrays)
    return members | {f"{camera}.jpg": jpeg for camera, jpeg in sample.images.items()}


def split_members(content: bytes) -> dict[str, bytes]:
    """Extension to bytes of the tar members that one sample's byte range holds.

    Forty times faster than `tarfile`, and right because indexing walked these very bytes with it and refused every
    header that is not one plain block.
    """
    members: dict[str, bytes] = {}
    offset = 0
    while offset < len(content):
        name = content[offset : offset + 100].partition(b"\0")[0].decode()
        size = int(content[offset + 124 : offset + 136].rstrip(b"\0 "), 8)
        start = offset + tarfile.BLOCKSIZE
        members[name.partition(".")[2]] = content[start : start + size]
        offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return members


def parse_header(content: bytes, where: str) -> dict[str, Any]:
    """The JSON member's fields; `where` names the sample in the UserError about a malformed or foreign one."""
    try:
        header = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}, json", got=error, expected="valid JSON", do="convert the source again") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA_VERSION:
        got = header.get("schema") if isinstance(header, dict) else type(header).__name__
        raise UserError(
            f"{where}, json, schema", got=got, expected=SCHEMA_VERSION, do="convert the source with this version"
        )
    expected = {"schema", *_PLAIN, *_TAIL, "boxes", "lowdim", "cameras"}
    if header.keys() != expected:
        raise UserError(
            f"{where}, json, fields",
            got=f"missing {sorted(expected - header.keys())}, unknown {sorted(header.keys() - expected)}",
            expected="the sample schema's fields",
            do="convert the source again",
        )
    return header


def declared_members(header: dict[str, Any]) -> list[str]:
    """Extensions that the sample with this header must have, in shard order."""
    return ["json", *(["lowdim.npz"] if header["lowdim"] else []), *(f"{name}.jpg" for name in header["cameras"])]


def parse_lowdim(content: bytes, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """state [S] float32, actions [H, A] float32, action_valid [H] bool, as declared; refuses anything not finite."""
    where = f"sample {header['key']} of source {header['source']}"
    try:
        arrays = read_archive(content)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{where}, lowdim.npz", got=error, expected="numpy arrays", do="convert it again") from error
    if list(arrays) != header["lowdim"]:
        raise UserError(
            f"{where}, lowdim.npz", got=list(arrays), expected=f"the arrays {header['lowdim']}", do="convert it again"
        )
    ranks = {"state": (1, np.float32), "actions": (2, np.float32), "action_valid": (1, np.bool_)}
    for name, array in arrays.items():
        rank, dtype = ranks[name]
        if array.ndim != rank or array.dtype != dtype or 0 in array.shape:
            raise UserError(
                f"{where}, {name}",
                got=f"{array.dtype} {list(array.shape)}",
                expected=f"{np.dtype(dtype)}, {rank} dimensions, none of them 0",
                do="correct the converter",
            )
        if dtype is np.float32 and not np.isfinite(array).all():
            raise UserError(f"{where}, {name}", got="NaN or Inf", expected="finite numbers", do="drop the sample")
    steps = {name: len(arrays[name]) for name in ("actions", "action_valid") if name in arrays}
    if len(steps) == 1 or len(set(steps.values())) > 1 or ("actions" in arrays and not arrays["action_valid"][0]):
        raise UserError(
            f"{where}, actions and action_valid",
            got=f"{steps} steps",
            expected="both, equally long, the first step valid",
            do="correct the converter",
        )
    return arrays


def parse_sample(members: dict[str, bytes]) -> Sample:
    """The sample whose members (extension to bytes: "json", "lowdim.npz", "base_0_rgb.jpg") these are.

    Refuses (UserError naming the key) missing or surplus members, numbers that are not finite, wrong shapes, and
    images that do not begin and end as JPEG files do. Images are not decoded.
    """
    if "json" not in members:
        raise UserError(f"sample with members {sorted(members)}", got="no json", expected="one", do="convert it again")
    header = parse_header(members["json"], "a sample")
    where = f"sample {header['key']} of source {header['source']}"
    if sorted(members) != sorted(declared_members(header)):
        raise UserError(
            f"{where}, members", got=sorted(members), expected=declared_members(header), do="convert the source again"
        )
    cameras = list(header["cameras"])
    if not cameras or cameras != [name for name in CAMERAS if name in cameras]:
        raise UserError(f"{where}, cameras", got=cameras, expected=f"some of {list(CAMERAS)}, in order", do="rename")
    images = {camera: members[f"{camera}.jpg"] for camera in cameras}
    for camera, jpeg in images.items():
        if jpeg[:2] != b"\xff\xd8" or jpeg[-2:] != b"\xff\xd9":
            raise UserError(f"{where}, {camera}.jpg", got="no whole JPEG", expected="one JPEG file", do="convert again")
    return _sample(header, members.get("lowdim.npz", b""), images, where)


def parse_head(json_member: bytes, lowdim_member: bytes) -> Sample:
    """The sample with these two members (the second empty if it has no numbers), every picture as empty bytes.

    Refuses (UserError naming the key) what `parse_sample` refuses, pictures apart.
    """
    header = parse_header(json_member, "a sample")
    where = f"sample {header['key']} of source {header['source']}"
    if bool(lowdim_member) != bool(header["lowdim"]):
        raise UserError(
            f"{where}, lowdim.npz",
            got=f"{len(lowdim_member)} bytes",
            expected=f"the arrays {header['lowdim']}",
            do="convert the source again",
        )
    return _sample(header, lowdim_member, dict.fromkeys(header["cameras"], b""), where)


def _sample(header: dict[str, Any], lowdim: bytes, images: dict[str, bytes], where: str) -> Sample:
    if header["kind"] not in KINDS or header["split"] not in ("train", "heldout"):
        raise UserError(
            f"{where}, kind and split",
            got=(header["kind"], header["split"]),
            expected=f"one of {list(KINDS)}, and train or heldout",
            do="correct the converter",
        )
    fields = {name: header[name] for name in (*_PLAIN, *_TAIL)}
    fields |= parse_lowdim(lowdim, header) if header["lowdim"] else {}
    try:
        return Sample(images=images, boxes=tuple(Box(**box) for box in header["boxes"]), **fields)
    except TypeError as error:
        raise UserError(f"{where}, boxes", got=error, expected="the fields of Box", do="convert it again") from error


def check_sample(sample: Sample, card: SourceCard) -> None:
    """Refuse (UserError naming the key) a sample that is not what its source's card declares."""
    where = f"sample {sample.key} of source {sample.source}"

    def require(what: str, got: object, expected: object) -> None:
        if got != expected:
            raise UserError(f"{where}, {what}", got=got, expected=f"the card's {expected}", do="correct one of them")

    require("source", sample.source, card.name)
    require("kind", sample.kind, card.kind)
    if surplus := [camera for camera in sample.images if camera not in card.cameras]:
        raise UserError(f"{where}, cameras", got=surplus, expected=f"some of {card.cameras}", do="correct the card")
    if sample.state is not None or card.has_actions:
        require("state_dim", 0 if sample.state is None else len(sample.state), card.state_dim)
    if sample.kind in ACTION_KINDS:
        require("action_dim", 0 if sample.actions is None else sample.actions.shape[1], card.action_dim)
        require("control_mode", sample.control_mode, card.control_mode)
        require("rate_hz", sample.rate_hz, card.rate_hz)
    elif sample.actions is not None:
        require("action_dim", sample.actions.shape[1], 0)
