"""openpi's JAX checkpoints, written without JAX, in the layout that openpi's training saves and its loader restores."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts
from torch import Tensor

from pi05_train.checkpoint.integrity import no_space
from pi05_train.checkpoint.storage.orbax import ROOT, SUFFIX
from pi05_train.checkpoint.storage.place import CACHE_BYTES
from pi05_train.checkpoint.storage.source import TensorSpec, announced
from pi05_train.checkpoint.storage.zarr import BITS

CHUNK_BYTES = 256 << 20
"""Largest chunk, where an array has more than one row: what reading and writing need beside the array."""
HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
DICT_KEY = 2
"""orbax's number for a step of a path that is a dictionary's key."""
CODEC = {"id": "zstd", "level": 1}


def write_orbax(folder: Path, specs: Mapping[str, TensorSpec], arrays: Iterable[tuple[str, Tensor]]) -> None:
    """Fill `folder`, which exists and is empty, as openpi's `<step>/`: `params/` and a note that the save was finished.

    Names are paths below `params` with slashes. `arrays` come in any order, each announced in `specs`. Call it inside
    `write_atomically`, which puts away what a failure leaves.
    """
    begun = time.time_ns()
    params = folder / ROOT
    params.mkdir()
    base = {"driver": "file", "path": f"{params.resolve()}/", "file_io_sync": False}  # the whole folder is, at the end
    database = {"driver": "ocdbt", "base": base, "config": {"max_inline_value_bytes": 1024}}
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    for name, array in announced(specs, arrays):
        try:
            _write_array(database | {"path": f"{'.'.join(_path(name))}/"}, context, array)
        except ValueError as error:  # all that tensorstore raises
            if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise no_space(folder, "a full disk") from error
            raise
        del array
    (params / "_METADATA").write_text(json.dumps(_tree(specs)))
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(_finished(begun)))


def _path(name: str) -> tuple[str, ...]:
    return (ROOT, *name.split("/"), SUFFIX)


def _write_array(kvstore: dict[str, Any], context: Any, array: Tensor) -> None:
    chunk = _chunk(array)
    dtype = str(array.dtype).removeprefix("torch.")
    store = ts.open(
        {"driver": "zarr", "kvstore": kvstore, "metadata": {"chunks": chunk, "compressor": CODEC}},
        create=True,
        dtype=dtype,
        shape=list(array.shape),
        context=context,
    ).result()
    bits = array.detach().cpu().contiguous().view(BITS[array.itemsize]).numpy().view(ts.dtype(dtype).numpy_dtype)
    if not array.ndim:
        store.write(bits).result()
        return
    for first in range(0, len(bits), chunk[0]):
        rows = bits[first : first + chunk[0]]
        store[first : first + len(rows)].write(rows).result()


def _chunk(array: Tensor) -> list[int]:
    """Whole rows of the first axis, which in stacked arrays is the layer."""
    if not array.ndim:
        return []
    row = array.itemsize * math.prod(array.shape[1:])
    return [max(1, min(len(array), CHUNK_BYTES // max(1, row))), *(max(1, size) for size in array.shape[1:])]


def _tree(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """orbax's `_METADATA`, under the paths that openpi's own saves have."""
    leaves = {}
    for name, spec in specs.items():
        leaves[str(_path(name))] = {
            "key_metadata": [{"key": part, "key_type": DICT_KEY} for part in _path(name)],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(spec.shape)},
        }
    return {
        "tree_metadata": leaves,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _finished(begun: int) -> dict[str, Any]:
    """orbax's note beside `params`: which handler wrote it, and when (nanoseconds)."""
    return {
        "item_handlers": {ROOT: HANDLER},
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": begun,
        "commit_timestamp_nsecs": time.time_ns(),
        "custom_metadata": {},
    }
