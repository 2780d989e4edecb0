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
    tokens = model.vision.tokens_per_image
    images_B, prompts_B, targets_B = np.array(
        [(len(e.images) * tokens, len(e.prefix_ids), len(e.target_ids)) for e in examples], dtype=np.int64
    ).T
    prefixes_B, lengths_B = images_B + prompts_B, images_B + prompts_B + targets_B
    starts_B = lengths_B.cumsum() - lengths_B
    token_ids_N = _token_ids(examples, starts_B + images_B, int(lengths_B.sum()))
    label_rows_L = _ranges(starts_B + prefixes_B - 1, targets_B)
    return Batch(
        images_ICHW=_pack_images([image for example in examples for image in example.images], model),
        image_rows_V=_ranges(starts_B, images_B),
        token_ids_N=token_ids_N,
        positions_N=_ranges(np.zeros_like(starts_B), lengths_B),
        prefix_lengths=tuple(prefixes_B.tolist()),
        target_lengths=tuple(targets_B.tolist()),
        label_rows_L=label_rows_L,
        labels_L=token_ids_N[label_rows_L + 1],
        label_segments_L=torch.from_numpy(np.repeat(np.arange(len(examples)), targets_B)),
        **_pack_actions(examples, draws, model),
        states_BD=_stack([_state(example, model) for example in examples], torch.float32, (model.action_dim,)),
        segments=tuple(
            SegmentInfo(source=e.source, kind=e.kind, key=e.key, draw=index)
            for e, index in zip(examples, draw_indices, strict=True)
        ),
        changes=_pack_changes(examples),
    )


def _pack_images(images: Sequence[Tensor], model: ModelConfig) -> Tensor:
    """[I, C, H, W] with the colours last in memory, as the decoder writes them, so that whole pictures are copied."""
    if not images:
        return torch.empty(0, 3, model.vision.image_size, model.vision.image_size, dtype=torch.uint8)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _token_ids(examples: Sequence[Example], starts: NDArray[np.int64], rows: int) -> Tensor:
    """[N]: every example's ids from its start on, 0 elsewhere."""
    ids = np.zeros(rows, dtype=np.int64)
    for start, example in zip(starts.tolist(), examples, strict=True):
        assert example.prefix_ids, example.key
        mine = example.prefix_ids + example.target_ids
        ids[start : start + len(mine)] = mine
    return torch.from_numpy(ids)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
    """start, start + 1, ... for each start and length, one after another."""
    ends = lengths.cumsum()
    return torch.from_numpy(np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths))


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
