"""An example, and the packed batch that several make.

Shape letters as in `model/batch.py`: N backbone rows, I images, V image tokens, L labels, A segments with actions,
K flow draws, H horizon, D action dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.model.batch import Batch, ImageChanges, SegmentInfo
from pi05_train.model.config import ModelConfig
from pi05_train.processing.augmentation import UNCHANGED, Change


@dataclass(frozen=True)
class Example:
    """A tokenised sample: prefix (images, prompt), target ids, action chunk."""

    images: list[Tensor]
    """uint8 [3, S, S] each, in `CAMERAS` order; absent cameras are absent."""
    prefix_ids: list[int]
    """Prompt ids with BOS; the image tokens stand before them."""
    target_ids: list[int]
    """Text or FAST ids with EOS; empty for a prompt to be answered."""
    actions: NDArray[np.float32] | None
    """[H, D] normalised, zero padded; None without actions or when the stage has no expert."""
    action_mask: NDArray[np.bool_] | None
    """[H, D], False on padded dimensions and on steps past the episode's end."""
    source: str
    kind: str
    key: str
    state: NDArray[np.float32] | None = None
    """[D] normalised, zero padded; None where the sample or the model has none."""
    changes: Sequence[Change] = ()
    """What is still to be done with each image, none at all where there is nothing to do with any."""


@dataclass(frozen=True)
class FlowDraws:
    """K flow-matching draws for one chunk."""

    noise_KHD: NDArray[np.float32]
    time_K: NDArray[np.float32]
    """In (0, 1]: 1 is noise, 0 is data."""


def pack(
    examples: Sequence[Example], draws: Sequence[FlowDraws | None], draw_indices: Sequence[int], model: ModelConfig
) -> Batch:
    """One micro-step's batch, nothing padded. A draw may be None where its example has no actions."""
    assert len(examples) == len(draws) == len(draw_indices) > 0
    lengths = [(len(e.images) * model.vision.tokens_per_image, len(e.prefix_ids), len(e.target_ids)) for e in examples]
    totals = torch.tensor([sum(parts) for parts in lengths])
    starts = (totals.cumsum(0) - totals).tolist()
    no_images = torch.empty(0, 3, model.vision.image_size, model.vision.image_size, dtype=torch.uint8)
    images = [image for example in examples for image in example.images]
    labels = [token for example in examples for token in example.target_ids]
    return Batch(
        images_ICHW=torch.stack(images) if images else no_images,
        image_rows_V=_ranges([(start, parts[0]) for start, parts in zip(starts, lengths, strict=True)]),
        token_ids_N=_long([i for e, (v, _, _) in zip(examples, lengths, strict=True) for i in _row_ids(e, v)]),
        positions_N=_ranges([(0, sum(parts)) for parts in lengths]),
        prefix_lengths=tuple(v + p for v, p, _ in lengths),
        target_lengths=tuple(t for _, _, t in lengths),
        label_rows_L=_ranges([(start + v + p - 1, t) for start, (v, p, t) in zip(starts, lengths, strict=True)]),
        labels_L=_long(labels),
        label_segments_L=_long([i for i, (_, _, t) in enumerate(lengths) for _ in range(t)]),
        **_pack_actions(examples, draws, model),
        states_BD=_stack([_state(example, model) for example in examples], torch.float32, (model.action_dim,)),
        segments=tuple(
            SegmentInfo(source=e.source, kind=e.kind, key=e.key, draw=index)
            for e, index in zip(examples, draw_indices, strict=True)
        ),
        changes=_pack_changes(examples),
    )


def _row_ids(example: Example, image_tokens: int) -> list[int]:
    assert example.prefix_ids, example.key
    return [0] * image_tokens + example.prefix_ids + example.target_ids


def _long(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _ranges(spans: list[tuple[int, int]]) -> Tensor:
    """start, start + 1, ... for each (start, length), one after another."""
    return torch.cat([torch.arange(start, start + length, dtype=torch.int64) for start, length in spans])


def _pack_actions(examples: Sequence[Example], draws: Sequence[FlowDraws | None], model: ModelConfig) -> dict[str, Any]:
    shape = (model.action_horizon, model.action_dim)
    acting = tuple(i for i, example in enumerate(examples) if example.actions is not None)
    if not acting:
        return {
            "action_segments": (),
            "actions_AHD": torch.empty(0, *shape),
            "action_mask_AHD": torch.empty(0, *shape, dtype=torch.bool),
            "noise_AKHD": torch.empty(0, 1, *shape),
            "time_AK": torch.empty(0, 1),
        }
    flow = [draws[i] for i in acting]
    actions, masks = [examples[i].actions for i in acting], [examples[i].action_mask for i in acting]
    return {
        "action_segments": acting,
        "actions_AHD": _stack(actions, torch.float32, shape),
        "action_mask_AHD": _stack(masks, torch.bool, shape),
        "noise_AKHD": _stack([None if draw is None else draw.noise_KHD for draw in flow], torch.float32, shape),
        "time_AK": _stack([None if draw is None else draw.time_K for draw in flow], torch.float32, ()),
    }


def _pack_changes(examples: Sequence[Example]) -> ImageChanges | None:
    changes = [c for e in examples for c in e.changes or [UNCHANGED] * len(e.images)]
    assert len(changes) == sum(len(example.images) for example in examples), "an example changes some of its images"
    if all(change is UNCHANGED for change in changes):
        return None
    crops, colours = (np.stack(rows) for rows in zip(*((c.crop, c.colours) for c in changes), strict=True))
    return ImageChanges(torch.from_numpy(crops), torch.from_numpy(colours))


def _state(example: Example, model: ModelConfig) -> NDArray[np.float32]:
    return np.zeros(model.action_dim, dtype=np.float32) if example.state is None else example.state


def _stack(arrays: Sequence[NDArray[Any] | None], dtype: torch.dtype, tail: tuple[int, ...]) -> Tensor:
    found = [array for array in arrays if array is not None]
    assert len(found) == len(arrays), "an example with actions lacks its mask or its flow draws"
    stacked = torch.from_numpy(np.stack(found)).to(dtype)
    assert not tail or stacked.shape[-len(tail) :] == tail, (stacked.shape, tail)
    return stacked
