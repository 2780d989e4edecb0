"""What the forward pass keeps for the backward one, in bytes, counted from the network's code.

Every term is a tensor that autograd saves; tests hold the sum against what a real network saves. Letters as in
`model/`: e bytes of a number in compute precision, W width, Q width of all query heads, R of all key-value heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pi05_train.model.config import TowerConfig
from pi05_train.trainer.flops import Load
from pi05_train.trainer.planning.network import Network

_FP32 = 4
COMPILED = 0.74
"""Of what eager blocks save, compiled ones do: measured, benchmarks/results/gpu_step-2026-11-27.md."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch at the moment the backward pass begins, and what one layer adds while it runs."""

    vision: float
    backbone: float
    expert: float
    logits: float
    """Logits, their softmax and the gradients of both: all there at once when the backward pass begins."""
    transient: float
    """Gradients inside the largest layer, after those of the logits are gone; and that layer itself, where
    it is computed again."""

    @property
    def saved(self) -> float:
        return self.vision + self.backbone + self.expert

    @property
    def peak(self) -> float:
        return self.saved + max(self.logits, self.transient)


def saved_for_backward(load: Load, network: Network, *, element: int, cuda: bool = True) -> Activations:
    """Activations without checkpointing.

    `element`: bytes of a number in compute precision. `cuda`: autocast has LayerNorm in float32, and RMSNorm is one
    kernel that keeps its input alone; on a CPU RMSNorm keeps its result before the scale too.
    """
    model = network.config.model
    depth = model.depth
    vision = backbone = 0.0
    if network.vision_backward:
        vision = load.images * model.vision.tokens_per_image * _patch(network, element, cuda=cuda)
        vision += load.images * 3 * model.vision.image_size**2 * (_FP32 if cuda else element)
    norm = (element + _FP32 * (1 if cuda else 2)) * model.backbone.width
    block = _rows(load.rows, model.backbone, network, element) + load.rows * 2 * norm
    if network.backbone_backward:
        keys = load.prefix_rows * (depth - 1) + (load.prefix_rows + load.target_rows) * depth
        backbone = block * (depth - 1) + keys * _key(network, element)
        backbone += load.rows * norm  # the last layer's, for its keys
        backbone += _rows(load.labels, model.backbone, network, element) + load.labels * 2 * norm  # and the final norm
    return Activations(
        vision=vision,
        backbone=backbone,
        expert=_expert(load, network, element),
        logits=load.labels * model.vocab_size * 2 * (element + _FP32),
        transient=3 * load.rows * model.backbone.mlp_dim * element * network.backbone_backward,
    )


def saved_selectively(load: Load, network: Network, *, element: int, cuda: bool = True) -> Activations:
    """Activations where a block keeps its input and the results of matrix products and attention."""
    model = network.config.model
    whole = saved_for_backward(load, network, element=element, cuda=cuda)
    patches, chunk_rows = load.images * model.vision.tokens_per_image, load.chunks * model.chunk_rows
    patch = element * (6 * model.vision.width + model.vision.mlp_dim) + _FP32 * model.vision.heads
    backbone = load.rows * _products(model.backbone, network, element) * (model.depth - 1)
    backbone += load.rows * element * model.backbone.width + load.labels * _products(model.backbone, network, element)
    block = (whole.backbone + whole.expert) / model.depth
    return Activations(
        vision=patches * model.vision.depth * patch * network.vision_backward,
        backbone=backbone * network.backbone_backward,
        expert=chunk_rows * _products(model.expert, network, element) * model.depth,
        logits=whole.logits,
        transient=whole.transient + max(block, whole.vision / model.vision.depth),
    )


def compiled(activations: Activations) -> Activations:
    """Activations of compiled blocks, from those of eager ones."""
    parts = {part: COMPILED * getattr(activations, part) for part in ("vision", "backbone", "expert")}
    return replace(activations, **parts)


def saved_with_checkpointing(load: Load, network: Network, *, element: int, cuda: bool = True) -> Activations:
    """Activations where every block keeps its input alone and is computed again."""
    model = network.config.model
    whole = saved_for_backward(load, network, element=element, cuda=cuda)
    patches, chunk_rows = load.images * model.vision.tokens_per_image, load.chunks * model.chunk_rows
    block = (whole.backbone + whole.expert) / model.depth
    return Activations(
        vision=patches * model.vision.width * model.vision.depth * element * network.vision_backward,
        backbone=load.rows * model.backbone.width * model.depth * element * network.backbone_backward,
        expert=chunk_rows * model.expert.width * model.depth * element,
        logits=whole.logits,
        transient=whole.transient + max(block, whole.vision / model.vision.depth),
    )


def logits_saved(load: Load, network: Network) -> float:
    """Of the logits, what is saved: the float32 log-softmax."""
    return load.labels * network.config.model.vocab_size * _FP32


def _patch(network: Network, e: int, *, cuda: bool) -> float:
    """One image patch: per block, inputs and outputs of norms, q, k, v, attended, and the MLP before and after GELU."""
    vision, width = network.config.model.vision, network.config.model.vision.width
    norm_input = _FP32 if cuda else e
    block = 2 * norm_input * width + 6 * e * width + 2 * e * vision.mlp_dim + _FP32 * vision.heads + 4 * _FP32
    return vision.depth * block + (norm_input + e) * width


def _rows(rows: float, tower: TowerConfig, network: Network, e: int) -> float:
    """Rows through one layer of a tower, without norms and keys: queries, attended before and after they are put in
    order; gate, its GELU, up and their product; one number per head and norm."""
    model = network.config.model
    queries = model.heads * model.head_dim
    return rows * (3 * e * queries + 4 * e * tower.mlp_dim + _FP32 * (model.heads + 2))


def _products(tower: TowerConfig, network: Network, e: int) -> float:
    """One row's input of a layer; its queries, keys, values and attended; output, gate, up and down."""
    model = network.config.model
    heads = 2 * model.heads + 2 * model.kv_heads
    return e * (3 * tower.width + heads * model.head_dim + 2 * tower.mlp_dim) + _FP32 * model.heads


def _key(network: Network, e: int) -> float:
    """One key and one value row of an attention call."""
    model = network.config.model
    return 2 * e * model.head_dim * model.kv_heads


def _expert(load: Load, network: Network, e: int) -> float:
    """Chunks through the expert: as the backbone, and what adaptive norms and gates keep."""
    model = network.config.model
    rows, width = load.chunks * model.chunk_rows, model.expert.width
    keys = (load.chunk_prefix_rows + rows) * _key(network, e)
    norm = rows * (_FP32 + e) * width
    layer = _rows(rows, model.expert, network, e) + keys + 2 * norm
    if model.state_token:
        return layer * model.depth + norm
    adaptive = rows * _FP32 * width + load.chunks * 3 * e * width
    gated = rows * e * width
    return (layer + 2 * (adaptive + gated)) * model.depth + norm + adaptive
