"""openpi's JAX parameter tree, which is also that of PaliGemma's own npz files: layers stacked, kernels [in, out].

Source: openpi models/{gemma,gemma_fast,lora,siglip,pi0,pi0_fast}.py. Shape letters: L layers, N query heads,
K key-value heads, W width, H head_dim, F mlp_dim, P patch size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pi05_train.checkpoint.foreign.layout import Layout, Leaf, Piece, Shape
from pi05_train.model.config import ModelConfig, TowerConfig

Leaves = dict[str, Leaf]
_OF_EXPERT = "_1"
"""What openpi puts behind the names of its second tower."""


def openpi_layout(config: ModelConfig, ours: Mapping[str, Shape]) -> Layout:
    """openpi's checkpoints of every family; `ours` are the parameters of the model, with or without LoRA."""
    leaves = _backbone(config, ours, "PaliGemma/")
    if "action.in_proj.weight" in ours:
        leaves |= _tower(config, config.expert, ours, "PaliGemma/llm", "expert", _OF_EXPERT)
        leaves |= _norm(f"PaliGemma/llm/final_norm{_OF_EXPERT}", ["action.final_norm"], ours, stacked=False)
        leaves |= _ends(config, ours)
    return Layout(f"openpi's JAX checkpoint of a {config.family} model", ours, leaves)


def paligemma_npz_layout(config: ModelConfig, ours: Mapping[str, Shape]) -> Layout:
    """PaliGemma's npz files, by the authors of PaliGemma; a model without an expert."""
    return Layout("PaliGemma's npz file", ours, _backbone(config, ours, ""))


def _backbone(config: ModelConfig, ours: Mapping[str, Shape], root: str) -> Leaves:
    embedding, llm = f"{root}llm/embedder/input_embedding", f"{root}llm"
    leaves = {embedding: Leaf((config.vocab_size, config.backbone.width), (Piece("embedding.weight"),))}
    leaves |= _vision(config, ours, f"{root}img")
    leaves |= _tower(config, config.backbone, ours, llm, "backbone", "")
    return leaves | _norm(f"{llm}/final_norm", ["final_norm"], ours, stacked=False)


def _tower(
    config: ModelConfig, tower: TowerConfig, ours: Mapping[str, Shape], llm: str, name: str, suffix: str
) -> Leaves:
    """The blocks of the backbone or of the expert."""
    blocks = [f"layers.{i}.{name}" for i in range(config.depth)]
    W, F, N, K, H = tower.width, tower.mlp_dim, config.heads, config.kv_heads, config.head_dim
    attention, mlp = f"{llm}/layers/attn", f"{llm}/layers/mlp{suffix}"
    leaves = _norm(f"{llm}/layers/pre_attention_norm{suffix}", [f"{b}.attention_norm" for b in blocks], ours)
    if N == K:  # openpi puts the three into one array then
        qkv = f"{attention}/qkv_einsum{suffix}/{{}}"
        leaves |= _linear(blocks, ours, qkv, ["q_proj", "k_proj", "v_proj"], (N, W, H), (0, 2, 1))
    else:
        leaves |= _linear(blocks, ours, f"{attention}/q_einsum{suffix}/{{}}", ["q_proj"], (N, W, H), (0, 2, 1))
        kv = f"{attention}/kv_einsum{suffix}/{{}}"
        leaves |= _linear(blocks, ours, kv, ["k_proj", "v_proj"], (K, W, H), (0, 2, 1))
    leaves |= _linear(blocks, ours, f"{attention}/attn_vec_einsum{suffix}/{{}}", ["o_proj"], (N, H, W), (2, 0, 1))
    leaves |= _norm(f"{llm}/layers/pre_ffw_norm{suffix}", [f"{b}.mlp_norm" for b in blocks], ours)
    leaves |= _linear(blocks, ours, f"{mlp}/gating_einsum_{{}}", ["gate_proj", "up_proj"], (W, F), (1, 0))
    return leaves | _linear(blocks, ours, f"{mlp}/linear_{{}}", ["down_proj"], (F, W), (1, 0))


def _linear(
    blocks: list[str], ours: Mapping[str, Shape], path: str, names: list[str], shape: Shape, order: tuple[int, ...]
) -> Leaves:
    """One array with the weights `names` of every block, each of `shape`, and the arrays of their LoRA if they have it.

    The path's last part is `w`, `lora_a` or `lora_b`; openpi's feed-forward arrays lack the `w` and its slash.
    """
    leaves = {path.format("w").removesuffix("_w"): _stack(blocks, names, "weight", shape, order)}
    for part, low_rank in (("lora_a", (*shape[:-1], None)), ("lora_b", (*shape[:-2], None, shape[-1]))):
        first = ours.get(f"{blocks[0]}.{names[0]}.{part}")
        if first is None:
            continue
        rank = first[-1] if part == "lora_a" else first[-2]
        expected = tuple(rank if n is None else n for n in low_rank)
        # Ours is [groups, rows, columns]. What openpi's tree has no place for stays homeless, and is refused there.
        if all(_same(ours.get(f"{b}.{name}.{part}"), expected) for b in blocks for name in names):
            leaves[path.format(part)] = _stack(blocks, names, part, expected, None)
    return leaves


def _same(shape: Shape | None, theirs: Shape) -> bool:
    return shape is not None and shape[-2:] == theirs[-2:] and math.prod(shape) == math.prod(theirs)


def _stack(blocks: list[str], names: list[str], part: str, shape: Shape, order: tuple[int, ...] | None) -> Leaf:
    """[L, names, *shape], without the second axis where there is one name."""
    several = len(names) > 1
    pieces = tuple(
        Piece(f"{block}.{name}.{part}", (i, j) if several else (i,), order)
        for i, block in enumerate(blocks)
        for j, name in enumerate(names)
    )
    return Leaf((len(blocks), *((len(names),) if several else ()), *shape), pieces)


def _norm(path: str, names: list[str], ours: Mapping[str, Shape], *, stacked: bool = True) -> Leaves:
    """RMSNorms, or pi0.5's adaptive ones: one per layer, or the single last one."""
    if f"{names[0]}.modulation.weight" in ours:
        return _dense(f"{path}/Dense_0", [f"{name}.modulation" for name in names], ours, stacked=stacked)
    return {f"{path}/scale": _vectors([f"{name}.scale" for name in names], ours, stacked=stacked)}


def _dense(path: str, names: list[str], ours: Mapping[str, Shape], *, stacked: bool = True) -> Leaves:
    """Linear layers with bias."""
    rows, columns = ours[f"{names[0]}.weight"]
    pieces = tuple(Piece(f"{name}.weight", (i,) if stacked else (), (1, 0)) for i, name in enumerate(names))
    kernel = Leaf((*((len(names),) if stacked else ()), columns, rows), pieces)
    return {
        f"{path}/kernel": kernel,
        f"{path}/bias": _vectors([f"{name}.bias" for name in names], ours, stacked=stacked),
    }


def _vectors(names: list[str], ours: Mapping[str, Shape], *, stacked: bool = True) -> Leaf:
    pieces = tuple(Piece(name, (i,) if stacked else ()) for i, name in enumerate(names))
    return Leaf((*((len(names),) if stacked else ()), *ours[names[0]]), pieces)


def _ends(config: ModelConfig, ours: Mapping[str, Shape]) -> Leaves:
    """The projections beside the expert's blocks."""
    names = {"in_proj": "action_in_proj", "out_proj": "action_out_proj"}
    if config.state_token:
        names |= {"state_proj": "state_proj"}
        names |= {"time_mlp_in": "action_time_mlp_in", "time_mlp_out": "action_time_mlp_out"}
    else:
        names |= {"time_mlp_in": "time_mlp_in", "time_mlp_out": "time_mlp_out"}
    leaves: Leaves = {}
    for name, theirs in names.items():
        leaves |= _dense(theirs, [f"action.{name}"], ours, stacked=False)
    return leaves


def _vision(config: ModelConfig, ours: Mapping[str, Shape], img: str) -> Leaves:
    vision = config.vision
    W, P, N = vision.width, vision.patch_size, vision.heads
    H, blocks = W // N, [f"vision.blocks.{i}" for i in range(vision.depth)]
    block = f"{img}/Transformer/encoderblock"
    leaves = {
        f"{img}/embedding/kernel": Leaf((P, P, 3, W), (Piece("vision.patch_embedding.weight", (), (3, 2, 0, 1)),)),
        f"{img}/embedding/bias": Leaf((W,), (Piece("vision.patch_embedding.bias"),)),
        f"{img}/pos_embedding": Leaf((1, vision.tokens_per_image, W), (Piece("vision.position_embedding", (0,)),)),
    }
    leaves |= _layer_norm(f"{block}/LayerNorm_0", [f"{b}.attention_norm" for b in blocks], ours)
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for name, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        path = f"{attention}/{theirs}"
        leaves[f"{path}/kernel"] = _stack(blocks, [name], "weight", (W, N, H), (1, 2, 0))
        leaves[f"{path}/bias"] = _stack(blocks, [name], "bias", (N, H), None)
    leaves[f"{attention}/out/kernel"] = _stack(blocks, ["o_proj"], "weight", (N, H, W), (2, 0, 1))
    leaves[f"{attention}/out/bias"] = _stack(blocks, ["o_proj"], "bias", (W,), None)
    leaves |= _layer_norm(f"{block}/LayerNorm_1", [f"{b}.mlp_norm" for b in blocks], ours)
    for fc, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        leaves |= _dense(f"{block}/MlpBlock_0/{theirs}", [f"{b}.{fc}" for b in blocks], ours)
    leaves |= _layer_norm(f"{img}/Transformer/encoder_norm", ["vision.norm"], ours, stacked=False)
    return leaves | _dense(f"{img}/head", ["vision.head"], ours, stacked=False)


def _layer_norm(path: str, names: list[str], ours: Mapping[str, Shape], *, stacked: bool = True) -> Leaves:
    parts = {"scale": "weight", "bias": "bias"}
    return {
        f"{path}/{theirs}": _vectors([f"{n}.{part}" for n in names], ours, stacked=stacked)
        for theirs, part in parts.items()
    }
