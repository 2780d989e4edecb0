"""openpi's JAX checkpoints, read without JAX: orbax's tree of zarr arrays in one key-value database (OCDBT).

`<step>/params` holds the database (`manifest.ocdbt`, `d/`, `ocdbt.process_*`) and `_METADATA`, the tree it ought to
hold. A key is the dotted path of an array: `params.PaliGemma.llm.layers.attn.q_einsum.w`, and with `.value` behind it
in checkpoints that openpi's training saved (`training/checkpoints.py`, `models/model.py` restore_params).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from pi05_train.checkpoint.storage.place import Place, is_url
from pi05_train.checkpoint.storage.source import Source, half_there
from pi05_train.checkpoint.storage.zarr import ZarrArray, parse, read
from pi05_train.errors import UserError

MANIFEST = "manifest.ocdbt"
ROOT = "params"
SUFFIX = "value"


class OrbaxSource(Source):
    """The arrays of a `<step>` or `<step>/params`, a folder or address, named `PaliGemma/llm/layers/attn/q_einsum/w`.

    Everything is checked on opening but the numbers themselves: that each array of the tree is there and that no data
    file is absent or cut short.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        place = _params_place(where)
        self._database = place.database()
        paths, zeros_stored = _tree(place)
        keys = self._keys = set(self._database.names())
        _check_present(where, paths, keys)
        described = self._database.read_all([f"{key}/.zarray" for key in paths])
        arrays = {key: parse(key, described[f"{key}/.zarray"], where) for key in paths}
        _check_data(self._database, arrays.values(), keys, zeros_stored=zeros_stored)
        self._arrays = {"/".join(path): arrays[key] for key, path in _without_suffix(paths).items()}
        self.specs = {name: array.spec for name, array in self._arrays.items()}

    def _read(self, name: str) -> Tensor:
        return read(self._arrays[name], self._database, self._keys)


def _params_place(where: str) -> Place:
    """The folder with the database: `where` itself or `params` in it."""
    place = Place(where)
    for candidate in (place, place.below(ROOT)):
        if candidate.read(MANIFEST) is not None:
            return candidate
    raise UserError(
        f"openpi checkpoint {where}",
        got=f"no {MANIFEST} there nor in its {ROOT}/",
        expected=f"a checkpoint's folder with {ROOT}/, or that {ROOT} folder, saved by orbax",
        do="check the address; other formats are read from a local copy only"
        if is_url(where)
        else "check the path, or finish fetching the folder",
    )


def _tree(place: Place) -> tuple[dict[str, tuple[str, ...]], bool]:
    """The arrays that ought to be there, as key -> path below `params`; and whether zeros were stored as well."""
    content = place.read("_METADATA")
    if content is None:
        raise half_there(place.where, "_METADATA", "no such file")
    try:
        metadata = json.loads(content)
        leaves = [leaf for leaf in metadata["tree_metadata"].values() if _is_array(leaf)]
        paths = [tuple(str(part["key"]) for part in leaf["key_metadata"]) for leaf in leaves]
    except (ValueError, KeyError, TypeError) as error:
        raise half_there(place.where, "_METADATA", f"content that does not read ({error!r})") from error
    inside = {".".join(path): path[1:] for path in paths if path[0] == ROOT}
    if not inside or metadata.get("use_zarr3"):
        roots = ", ".join(sorted({path[0] for path in paths})) or "nothing"
        raise UserError(
            f"openpi checkpoint {place.where}",
            got="arrays of zarr 3" if inside else f"a tree of {roots}",
            expected="arrays of zarr 2, as openpi saves them" if inside else f"a tree of {ROOT}",
            do="give the folder of parameters that openpi saved",
        )
    stored = bool(metadata.get("store_array_data_equal_to_fill_value", False))
    return inside, stored


def _is_array(leaf: Mapping[str, Any]) -> bool:
    """Whether a leaf of the tree has numbers; orbax also notes empty branches."""
    return not leaf["value_metadata"].get("skip_deserialize", False)


def _without_suffix(paths: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Paths without the last `value`, if all have it: SigLIP's attention has a branch of that name, too."""
    if all(path[-1] == SUFFIX for path in paths.values()):
        return {key: path[:-1] for key, path in paths.items()}
    return dict(paths)


def _check_present(where: str, wanted: Collection[str], keys: set[str]) -> None:
    missing = [key for key in wanted if f"{key}/.zarray" not in keys]
    if missing:
        got = f"none: of the {len(wanted)} arrays that _METADATA lists, {len(missing)} are missing"
        raise half_there(where, f"array {missing[0]}", got)


def _check_data(database: Place, arrays: Iterable[ZarrArray], keys: set[str], *, zeros_stored: bool) -> None:
    """Refuse chunks that are not stored, or whose last byte cannot be read: a file is absent or cut short.

    A chunk of zeros may be left out, unless the tree says that it is not.
    """
    chunks = {key: array.name for array in arrays for key, _ in array.chunks()}
    absent = next((key for key in chunks if key not in keys), None)
    if absent is not None and zeros_stored:
        raise half_there(database.where, f"array {chunks[absent]}", f"no chunk {absent}")
    last_byte = slice(-1, None)
    asked = [(chunks[key], database.ask(key, last_byte)) for key in chunks if key in keys]
    for array, answer in asked:
        if not database.wait(answer, f"array {array}").value:  # what an absent file gives, without an error
            raise half_there(database.where, f"array {array}", "no data file with its numbers")
