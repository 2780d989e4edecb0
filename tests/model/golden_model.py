"""openpi's tiny reference models and inputs as ours: sizes, weights, and batches in which masked tokens are absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pi05_train.checkpoint.foreign.layout import TheirView
from pi05_train.checkpoint.foreign.openpi_jax import openpi_layout
from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05
from pi05_train.model.plan import Segments, backbone_plan
from tests.checkpoint.foreign.dict_source import DictSource
from tests.golden_numbers import golden_json, tiny_parameters
from tests.model.openpi_names import to_our_names

Arrays = Mapping[str, Any]


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def golden_config(sizes: Arrays, *, name: str = "golden") -> ModelConfig:
    """Our sizes for an entry of the reference's `configs.json`; without an expert its sizes do not matter."""
    vision, backbone = sizes["siglip"], sizes["backbone"]
    expert = sizes.get("expert", backbone)
    fast = sizes.get("model") == "Pi0FAST"
    names = ("width", "depth", "mlp_dim", "patch_size")
    return ModelConfig(
        name=name,
        vision=VisionConfig(
            image_size=sizes["image_resolution"], heads=vision["num_heads"], **{n: vision[n] for n in names}
        ),
        backbone=TowerConfig(width=backbone["width"], mlp_dim=backbone["mlp_dim"]),
        expert=TowerConfig(width=expert["width"], mlp_dim=expert["mlp_dim"]),
        depth=backbone["depth"],
        heads=backbone["num_heads"],
        kv_heads=backbone["num_kv_heads"],
        head_dim=backbone["head_dim"],
        vocab_size=sizes["vocab_size"],
        action_dim=sizes["action_dim"],
        action_horizon=sizes["action_horizon"],
        family="pi0_fast" if fast else "pi05" if sizes["pi05"] else "pi0",
        pi0_fast_quirks=fast,
    )


def golden_model(name: str) -> Pi05:
    """A reference model with its weights."""
    return model_of(golden_json("configs")[name], tiny_parameters(name))


def model_of(sizes: Arrays, parameters: Arrays) -> Pi05:
    """The model of these sizes with openpi's parameters."""
    config = golden_config(sizes)
    model = Pi05(config, expert=config.family != "pi0_fast")
    model.load_state_dict(to_our_names(parameters), strict=True)
    return model


def flow_batch(io: Arrays, config: ModelConfig, cameras: Sequence[str]) -> Batch:
    """The reference samples with their noise and time; masked cameras and padded prompt tokens are simply absent."""
    samples = range(len(io["in.tokens"]))
    prompts = [io["in.tokens"][s][io["in.token_mask"][s]].tolist() for s in samples]
    batch = _batch(io, config, cameras, prompts, [[] for _ in samples])
    actions = tensor(io["in.actions"])
    return Batch(
        **batch,
        action_segments=tuple(samples),
        actions_AHD=actions,
        action_mask_AHD=torch.ones_like(actions, dtype=torch.bool),
        noise_AKHD=tensor(io["in.noise"])[:, None],
        time_AK=tensor(io["in.time"])[:, None],
    )


def text_batch(
    io: Arrays, config: ModelConfig, cameras: Sequence[str], *, inputs: str = "in", gaps: bool = True
) -> Batch:
    """pi0-FAST's samples: tokens with `token_ar_mask` are the target; no actions.

    With `gaps` masked cameras and padding keep their positions, as in openpi's training.
    """
    tokens, valid = io[f"{inputs}.tokens"], io[f"{inputs}.token_mask"].astype(bool)
    targets = io[f"{inputs}.token_ar_mask"].astype(bool) & valid
    prompts = [ids[v & ~t].tolist() for ids, v, t in zip(tokens, valid, targets, strict=True)]
    batch = _batch(io, config, cameras, prompts, [ids[t].tolist() for ids, t in zip(tokens, targets, strict=True)])
    if gaps:
        per_image = config.vision.tokens_per_image
        kept = [
            np.concatenate([*(np.full(per_image, io[f"in.image_mask.{c}"][s]) for c in cameras), valid[s]])
            for s in range(len(tokens))
        ]
        batch["positions_N"] = torch.cat([tensor(np.flatnonzero(rows)) for rows in kept])
    shape = (config.action_horizon, config.action_dim)
    return Batch(
        **batch,
        action_segments=(),
        actions_AHD=torch.zeros(0, *shape),
        action_mask_AHD=torch.zeros(0, *shape, dtype=torch.bool),
        noise_AKHD=torch.zeros(0, 1, *shape),
        time_AK=torch.zeros(0, 1),
    )


def run_layers(model: Pi05, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Both streams after the embedding and after each layer, and each layer's keys and values."""
    segments = Segments(batch.prefix_lengths, batch.target_lengths)
    by = model.rotation(batch.positions_N)
    plan, x, chunk, condition, actions = backbone_plan(segments, by), model.embed(batch), None, None, None
    if model.action is not None:
        chunk, condition = model._embed_actions(model.action, batch, batch.action_segments)
        actions = model._expert_plan(segments, batch.action_segments, by)
    xs, chunks, memory = [x], [chunk], []
    for layer in model.layers:
        x, chunk, seen = layer(x, chunk, condition, plan, actions, insulation=False)
        xs.append(x)
        chunks.append(chunk)
        memory.append(seen)
    return xs, chunks, memory


def in_openpis_layout(model: Pi05, values: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Values of our parameters (their gradients, say) as leaves of openpi's tree; None is zero."""
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: values[name] for name in parameters}
    tensors = {name: torch.zeros(shapes[name]) if value is None else value for name, value in given.items()}
    view = TheirView(DictSource(tensors), openpi_layout(model.config, shapes))
    return {path: view.read(path) for path in view.specs}


def _batch(
    io: Arrays,
    config: ModelConfig,
    cameras: Sequence[str],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
) -> dict[str, Any]:
    per_image = config.vision.tokens_per_image
    images: list[Tensor] = []
    ids: list[int] = []
    positions: list[int] = []
    image_rows: list[int] = []
    label_rows: list[int] = []
    prefixes: list[int] = []
    for s, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        present = [c for c in cameras if io[f"in.image_mask.{c}"][s]]
        images += [tensor(io[f"in.image_u8.{c}"][s]).permute(2, 0, 1) for c in present]
        start, image_tokens = len(ids), len(present) * per_image
        image_rows += range(start, start + image_tokens)
        prefixes.append(image_tokens + len(prompt))
        ids += [0] * image_tokens + [*prompt, *target]
        positions += range(prefixes[-1] + len(target))
        label_rows += range(start + prefixes[-1] - 1, len(ids) - 1)
    return {
        "images_ICHW": torch.stack(images),
        "image_rows_V": torch.tensor(image_rows),
        "token_ids_N": torch.tensor(ids),
        "positions_N": torch.tensor(positions),
        "prefix_lengths": tuple(prefixes),
        "target_lengths": tuple(map(len, targets)),
        "label_rows_L": torch.tensor(label_rows, dtype=torch.int64),
        "labels_L": torch.tensor([t for target in targets for t in target], dtype=torch.int64),
        "label_segments_L": torch.tensor([s for s, t in enumerate(targets) for _ in t], dtype=torch.int64),
        "states_BD": tensor(io["in.state"]).float() if "in.state" in io else torch.zeros(len(ids), config.action_dim),
        "segments": tuple(SegmentInfo("golden", "CE", str(s), s) for s in range(len(prompts))),
    }
