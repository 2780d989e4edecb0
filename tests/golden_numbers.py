"""openpi's reference numbers: all of them where `../shared/golden` lies, an extract of them everywhere else.

The extract (`tests/golden/`, numbers only) holds large arrays at every n-th element of some axes; `assert_golden`
compares those elements. Tiny weights and pictures are not stored at all: they are drawn again from their seeds, and a
test proves that they are the same. `python -m tests.golden_numbers` writes the extract anew from the complete numbers.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")) / "golden"
EXTRACT = Path(__file__).resolve().parent / "golden"
COMPLETE = SHARED.is_dir()
"""Whether all numbers are at hand."""
INPUT_SEEDS = {"pi05_tiny": 7, "pi05_lora_tiny": 7, "pi0_tiny": 9, "pi0_fast_tiny": 21}
SAME_INPUTS = {"openpi_jax/pi05_lora_tiny_io": "openpi_jax/pi05_tiny_io"}
"""A file whose inputs are another one's; the extract holds them once."""
EXTRACTED: dict[str, list[tuple[str, int | None]]] = {
    "openpi_jax/pi05_tiny_io": [(r"in\.image(_u8)?\..*", None), (r".*(prefix|hidden|emb).*", 4500)],
    "openpi_jax/pi05_lora_tiny_io": [(r"in\.image(_u8)?\..*", None), (r".*(prefix|hidden|emb).*", 4500)],
    "openpi_jax/pi0_tiny_io": [(r"in\.image(_u8)?\..*", None), (r".*(prefix|hidden|emb).*", 4500)],
    "openpi_jax/pi0_fast_tiny_io": [
        (r"in\.image(_u8)?\..*", None), (r"mid\.sample\.step_logits|out\.sample\..*", 10**6), (r".*", 6000),
    ],
    "openpi_jax/pi05_tiny_grads": [(r".*", 1024)],
    "openpi_jax/lr_schedules": [],
    "preprocessing/normalization": [],
    "preprocessing/numerics": [(r"posemb.*d1024", 2560)],
    "preprocessing/resize_with_pad": [(r"[AB]\..*|.*_f32_.*|.*\.jax_u8", None)],
    "fast_tokenizer/fast_chunks": [],
}  # fmt: skip
"""File -> for the first pattern that an array's name matches, the most elements kept of it; None leaves it out."""
JSONS = (
    "configs", "openpi_jax/lora_freeze_filters", "preprocessing/prompt_strings", "fast_tokenizer/fast_tokens",
    "preprocessing/norm_stats_example/norm_stats", "preprocessing/paligemma_tokens_published",
)  # fmt: skip


def golden(name: str) -> Arrays:
    """Every array of a reference file by its name without ".npz"; skips the test where neither place has the file.

    `<file>_l2` gives the norm of each of its arrays instead.
    """
    if COMPLETE and name.endswith("_l2"):
        return {key: np.linalg.norm(array) for key, array in _load(SHARED / f"{name.removesuffix('_l2')}.npz").items()}
    path = _find(f"{name}.npz")
    arrays = _load(path)
    if path.is_relative_to(SHARED):
        return arrays
    other = golden(SAME_INPUTS[name]) if name in SAME_INPUTS else {}
    return _pictures(name) | {key: array for key, array in other.items() if key.startswith("in.")} | arrays


def golden_json(name: str) -> Any:
    """The content of a reference JSON file, named without ".json"; skips the test where neither place has it."""
    return json.loads(_find(f"{name}.json").read_text())


def complete_path(name: str) -> Path:
    """A file or folder of the complete numbers; skips the test where they are absent."""
    if not (SHARED / name).exists():
        pytest.skip(f"reference numbers {name} are not present")
    return SHARED / name


def _find(file: str) -> Path:
    """The file among the complete numbers, or else in the extract, which also has a few of its own."""
    for folder in (SHARED, EXTRACT) if COMPLETE else (EXTRACT,):
        if (folder / file).is_file():
            return folder / file
    pytest.skip(f"reference numbers {file} are not present")


def assert_golden(got: torch.Tensor | Array, expected: Array, *, rtol: float, atol: float, name: str = "") -> None:
    """`got` (whole) is close to `expected`, of which the extract may hold every n-th element along each axis."""
    tensor = torch.as_tensor(got).detach().cpu()
    assert tensor.ndim == expected.ndim, (name, tensor.shape, expected.shape)
    if not COMPLETE:
        strides = [n // kept for n, kept in zip(tensor.shape, expected.shape, strict=True)]
        tensor = tensor[tuple(slice(None, None, stride) for stride in strides)]
    wanted = torch.as_tensor(expected).to(tensor.dtype)
    torch.testing.assert_close(tensor, wanted, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")


def tiny_parameters(model: str) -> Arrays:
    """The weights of "pi05_tiny", "pi0_tiny", "pi05_lora_tiny" or "pi0_fast_tiny" under openpi's paths, float32.

    One generator draws every leaf in sorted order. pi0 and the LoRA model were drawn whole, but keep of their draw only
    the leaves that pi05_tiny lacks, and take the rest from it.
    """
    sizes = golden_json("configs")[model]
    seed = re.match(r"\d+", str(sizes["param_seed"]))
    assert seed is not None
    drawn = _draw(openpi_shapes(sizes), int(seed.group()))
    if model == "pi0_fast_tiny":
        for pattern, factor in (("attn_vec_einsum|mlp/linear", 3), ("q_einsum", 2), ("input_embedding", 0.4)):
            for path in drawn:
                if re.search(pattern, path):
                    drawn[path] = drawn[path] * np.float32(factor)
    if model in ("pi0_tiny", "pi05_lora_tiny"):
        base = tiny_parameters("pi05_tiny")
        return {path: base.get(path, leaf) for path, leaf in drawn.items()}
    return drawn


def openpi_shapes(sizes: Mapping[str, Any]) -> Shapes:
    """Paths and shapes of openpi's parameter tree for an entry of `configs.json`, or one of the same form."""
    backbone, vision, expert = sizes["backbone"], sizes["siglip"], sizes.get("expert")
    shapes = _vision_shapes(vision, sizes["image_tokens_per_camera"])
    shapes |= {"PaliGemma/llm/embedder/input_embedding": (sizes["vocab_size"], backbone["width"])}
    shapes |= _tower_shapes(backbone, "", adaptive=False)
    if expert is None:
        return shapes
    pi05, width, dims = sizes["pi05"], expert["width"], sizes["action_dim"]
    shapes |= _tower_shapes(expert, "_1", adaptive=pi05)
    shapes |= _dense_shapes("action_in_proj", dims, width) | _dense_shapes("action_out_proj", width, dims)
    if pi05:
        return shapes | _dense_shapes("time_mlp_in", width, width) | _dense_shapes("time_mlp_out", width, width)
    shapes |= _dense_shapes("action_time_mlp_in", 2 * width, width) | _dense_shapes("state_proj", dims, width)
    return shapes | _dense_shapes("action_time_mlp_out", width, width)


def _tower_shapes(tower: Mapping[str, Any], suffix: str, *, adaptive: bool) -> Shapes:
    root, width, depth, mlp = "PaliGemma/llm/layers", tower["width"], tower["depth"], tower["mlp_dim"]
    heads, kv_heads, dim = tower["num_heads"], tower["num_kv_heads"], tower["head_dim"]
    einsums = {
        f"{root}/attn/q_einsum{suffix}": (depth, heads, width, dim),
        f"{root}/attn/kv_einsum{suffix}": (depth, 2, kv_heads, width, dim),
        f"{root}/attn/attn_vec_einsum{suffix}": (depth, heads, dim, width),
    }
    linears = {
        f"{root}/mlp{suffix}/gating_einsum": (depth, 2, width, mlp),
        f"{root}/mlp{suffix}/linear": (depth, mlp, width),
    }
    shapes = {f"{path}/w": shape for path, shape in einsums.items()} | linears
    lora = tower.get("lora", {})
    for paths, part, name in ((einsums, "attn", "{}/lora_{}"), (linears, "ffn", "{}_lora_{}")):
        for path, shape in paths.items() if part in lora else ():
            shapes[name.format(path, "a")] = (*shape[:-1], lora[part]["rank"])
            shapes[name.format(path, "b")] = (*shape[:-2], lora[part]["rank"], shape[-1])
    for path, layers in (
        (f"{root}/pre_attention_norm{suffix}", (depth,)),
        (f"{root}/pre_ffw_norm{suffix}", (depth,)),
        (f"PaliGemma/llm/final_norm{suffix}", ()),
    ):
        if adaptive:
            shapes |= {
                f"{path}/Dense_0/kernel": (*layers, width, 3 * width),
                f"{path}/Dense_0/bias": (*layers, 3 * width),
            }
        else:
            shapes[f"{path}/scale"] = (*layers, width)
    return shapes


def _vision_shapes(vision: Mapping[str, Any], tokens: int) -> Shapes:
    root, width, depth, heads = "PaliGemma/img", vision["width"], vision["depth"], vision["num_heads"]
    block, patch, dim = f"{root}/Transformer/encoderblock", vision["patch_size"], vision["width"] // vision["num_heads"]
    shapes: Shapes = {
        f"{root}/embedding/kernel": (patch, patch, 3, width),
        f"{root}/embedding/bias": (width,),
        f"{root}/pos_embedding": (1, tokens, width),
    }
    shapes |= _dense_shapes(f"{root}/head", width, vision["head_out"])
    norms = {f"{root}/Transformer/encoder_norm": (width,)}
    norms |= {f"{block}/LayerNorm_{i}": (depth, width) for i in (0, 1)}
    shapes |= {f"{path}/{part}": shape for path, shape in norms.items() for part in ("scale", "bias")}
    shapes |= _dense_shapes(f"{block}/MlpBlock_0/Dense_0", width, vision["mlp_dim"], depth)
    shapes |= _dense_shapes(f"{block}/MlpBlock_0/Dense_1", vision["mlp_dim"], width, depth)
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value"):
        shapes |= {
            f"{attention}/{name}/kernel": (depth, width, heads, dim),
            f"{attention}/{name}/bias": (depth, heads, dim),
        }
    return shapes | {f"{attention}/out/kernel": (depth, heads, dim, width), f"{attention}/out/bias": (depth, width)}


def _dense_shapes(path: str, rows: int, columns: int, *layers: int) -> Shapes:
    return {f"{path}/kernel": (*layers, rows, columns), f"{path}/bias": (*layers, columns)}


def _draw(shapes: Shapes, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    leaves: Arrays = {}
    for path in sorted(shapes):
        scale, offset = _spread(path, shapes[path])
        leaves[path] = np.float32(offset) + np.float32(scale) * rng.standard_normal(shapes[path]).astype(np.float32)
    return leaves


def _spread(path: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Scale and offset of a leaf's normal draws."""
    if re.search(r"LayerNorm|encoder_norm", path):
        return (0.3, 1.0) if path.endswith("scale") else (0.1, 0.0)
    adaptive = "_norm_1/Dense_0" in path
    fixed = {"scale": 0.3, "bias": 0.4 if adaptive else 0.1, "pos_embedding": 0.5}
    for ending, scale in fixed.items():
        if path.endswith(ending):
            return scale, 0.0
    if "lora" in path:
        return 0.15, 0.0
    return (0.7 if adaptive else 1.0) / np.sqrt(_fan_in(path, shape)), 0.0


def _fan_in(path: str, shape: tuple[int, ...]) -> int:
    if path.endswith("input_embedding"):
        return shape[-1]
    if re.search(r"(query|key|value)/kernel", path):
        return shape[-3]
    if re.search(r"/out/kernel|attn_vec", path):
        return shape[-3] * shape[-2]
    return int(np.prod(shape[:-1])) if path.endswith("embedding/kernel") else shape[-2]


def _pictures(name: str) -> Arrays:
    """The input pictures of an `_io` file: three in a row from one generator, as bytes and in [-1, 1]."""
    model = name.removeprefix("openpi_jax/").removesuffix("_io")
    if model not in INPUT_SEEDS:
        return {}
    sizes, rng = golden_json("configs")[model], np.random.default_rng(INPUT_SEEDS[model])
    side = sizes["image_resolution"]
    found: Arrays = {}
    for camera in sizes["camera_order"]:
        picture = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        found[f"in.image_u8.{camera}"] = picture
        found[f"in.image.{camera}"] = picture.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return found


def _load(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def thinned(array: Array, most: int, *, last_axis_only: bool) -> Array:
    """Every second element along the longest axis (or the last one), again and again, until at most `most` are left."""
    while array.size > most:
        axis = array.ndim - 1 if last_axis_only else int(np.argmax(array.shape))
        assert array.shape[axis] % 2 == 0, (array.shape, most)
        array = array[tuple(slice(None, None, 2 if i == axis else 1) for i in range(array.ndim))]
    return array.copy()


def extract_of(name: str, arrays: Arrays) -> Arrays:
    """What the extract keeps of a complete file."""
    kept: Arrays = {}
    for key, array in arrays.items():
        limits = [most for pattern, most in EXTRACTED[name] if re.fullmatch(pattern, key)]
        most = limits[0] if limits else array.size
        if most is None or (name in SAME_INPUTS and key.startswith("in.")):
            continue
        kept[key] = thinned(array, most, last_axis_only=name.endswith("_io"))
    return kept


def write_extract() -> None:
    """Write `tests/golden/` from the complete numbers."""
    for name in EXTRACTED:
        path = EXTRACT / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **extract_of(name, _load(SHARED / f"{name}.npz")))
        if name.endswith("_grads"):
            np.savez_compressed(EXTRACT / f"{name}_l2.npz", **golden(f"{name}_l2"))
    for name in JSONS:
        path = EXTRACT / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads((SHARED / f"{name}.json").read_text())
        remarks = [key for key in content if key in ("WARNING", "rule_for_state_part", "edges_note")]
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in remarks}) + "\n")


if __name__ == "__main__":
    if not COMPLETE:
        sys.exit(f"no reference numbers at {SHARED}")
    write_extract()
