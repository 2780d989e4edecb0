"""openpi's parameter tree under our names: which leaf, which layer, which layout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Leaf = NDArray[np.float32]


def to_our_names(leaves: Mapping[str, Leaf]) -> dict[str, Tensor]:
    """Every leaf (a parameter, or its gradient) as tensors of `Pi05.state_dict()`."""
    ours: dict[str, Leaf] = {"embedding.weight": leaves["PaliGemma/llm/embedder/input_embedding"]}
    ours["final_norm.scale"] = leaves["PaliGemma/llm/final_norm/scale"]
    has_expert = "action_in_proj/kernel" in leaves
    if has_expert:
        _norm(ours, "action.final_norm", leaves, "PaliGemma/llm/final_norm_1")
        for theirs in ("action_in_proj", "action_out_proj", "state_proj", "time_mlp_in", "time_mlp_out"):
            _linear(ours, f"action.{theirs.removeprefix('action_')}", leaves, theirs)
        for name in ("time_mlp_in", "time_mlp_out"):  # pi0's
            _linear(ours, f"action.{name}", leaves, f"action_{name}")
    for i in range(len(leaves["PaliGemma/llm/layers/mlp/linear"])):
        _block(ours, f"layers.{i}.backbone", leaves, i, "")
        if has_expert:
            _block(ours, f"layers.{i}.expert", leaves, i, "_1")
    _vision(ours, leaves)
    return lora_to_our_names(leaves) | {
        name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in ours.items()
    }


def lora_to_our_names(leaves: Mapping[str, Leaf]) -> dict[str, Tensor]:
    """The LoRA leaves alone, with the heads of openpi's einsums as groups."""
    ours: dict[str, Leaf] = {}
    for part in ("lora_a", "lora_b"):
        for tower, suffix in (("backbone", ""), ("expert", "_1")):
            attention, mlp = (
                f"PaliGemma/llm/layers/attn/{{}}_einsum{suffix}/{part}",
                f"PaliGemma/llm/layers/mlp{suffix}",
            )
            whole: dict[str, Leaf] = {}  # [depth, groups, ...] each
            if (q := attention.format("q")) in leaves:
                whole |= {"q_proj": leaves[q], "o_proj": leaves[attention.format("attn_vec")]}
                whole |= dict(zip(("k_proj", "v_proj"), leaves[attention.format("kv")].swapaxes(0, 1), strict=True))
            if (linear := f"{mlp}/linear_{part}") in leaves:
                both = leaves[f"{mlp}/gating_einsum_{part}"].swapaxes(0, 1)
                whole |= {
                    "gate_proj": both[0][:, None],
                    "up_proj": both[1][:, None],
                    "down_proj": leaves[linear][:, None],
                }
            for proj, array in whole.items():
                ours |= {f"layers.{i}.{tower}.{proj}.{part}": layer for i, layer in enumerate(array)}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in ours.items()}


def _linear(ours: dict[str, Leaf], name: str, leaves: Mapping[str, Leaf], path: str, layer: int | None = None) -> None:
    if f"{path}/kernel" not in leaves:
        return
    kernel, bias = leaves[f"{path}/kernel"], leaves[f"{path}/bias"]
    if layer is not None:
        kernel, bias = kernel[layer], bias[layer]
    ours[f"{name}.weight"], ours[f"{name}.bias"] = kernel.T, bias


def _norm(ours: dict[str, Leaf], name: str, leaves: Mapping[str, Leaf], path: str, layer: int | None = None) -> None:
    """pi0.5's adaptive norm, or a plain one."""
    _linear(ours, f"{name}.modulation", leaves, f"{path}/Dense_0", layer)
    if f"{path}/scale" in leaves:
        scale = leaves[f"{path}/scale"]
        ours[f"{name}.scale"] = scale if layer is None else scale[layer]


def _block(ours: dict[str, Leaf], name: str, leaves: Mapping[str, Leaf], i: int, tower: str) -> None:
    layers = "PaliGemma/llm/layers"
    q, (k, v) = leaves[f"{layers}/attn/q_einsum{tower}/w"][i], leaves[f"{layers}/attn/kv_einsum{tower}/w"][i]
    out = leaves[f"{layers}/attn/attn_vec_einsum{tower}/w"][i]
    gate, up = leaves[f"{layers}/mlp{tower}/gating_einsum"][i]
    for proj, heads in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
        ours[f"{name}.{proj}.weight"] = heads.transpose(0, 2, 1).reshape(-1, heads.shape[1])
    ours[f"{name}.o_proj.weight"] = out.reshape(-1, out.shape[-1]).T
    ours[f"{name}.gate_proj.weight"] = gate.T
    ours[f"{name}.up_proj.weight"] = up.T
    ours[f"{name}.down_proj.weight"] = leaves[f"{layers}/mlp{tower}/linear"][i].T
    for norm, theirs in (("attention_norm", "pre_attention_norm"), ("mlp_norm", "pre_ffw_norm")):
        _norm(ours, f"{name}.{norm}", leaves, f"{layers}/{theirs}{tower}", i)


def _vision(ours: dict[str, Leaf], leaves: Mapping[str, Leaf]) -> None:
    img = "PaliGemma/img"
    ours["vision.patch_embedding.weight"] = leaves[f"{img}/embedding/kernel"].transpose(3, 2, 0, 1)
    ours["vision.patch_embedding.bias"] = leaves[f"{img}/embedding/bias"]
    ours["vision.position_embedding"] = leaves[f"{img}/pos_embedding"][0]
    _linear(ours, "vision.head", leaves, f"{img}/head")
    ours["vision.norm.weight"] = leaves[f"{img}/Transformer/encoder_norm/scale"]
    ours["vision.norm.bias"] = leaves[f"{img}/Transformer/encoder_norm/bias"]
    blocks = f"{img}/Transformer/encoderblock"
    for i, width in enumerate(len(row) for row in leaves[f"{blocks}/LayerNorm_0/scale"]):
        name = f"vision.blocks.{i}"
        for norm, theirs in (("attention_norm", "LayerNorm_0"), ("mlp_norm", "LayerNorm_1")):
            ours[f"{name}.{norm}.weight"] = leaves[f"{blocks}/{theirs}/scale"][i]
            ours[f"{name}.{norm}.bias"] = leaves[f"{blocks}/{theirs}/bias"][i]
        for proj, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out")):
            path = f"{blocks}/MultiHeadDotProductAttention_0/{theirs}"
            ours[f"{name}.{proj}.weight"] = leaves[f"{path}/kernel"][i].reshape(width, width).T
            ours[f"{name}.{proj}.bias"] = leaves[f"{path}/bias"][i].reshape(width)
        _linear(ours, f"{name}.fc1", leaves, f"{blocks}/MlpBlock_0/Dense_0", i)
        _linear(ours, f"{name}.fc2", leaves, f"{blocks}/MlpBlock_0/Dense_1", i)
