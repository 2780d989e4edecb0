"""Everything that decides a batch of chunks, as tensors on the network's device.

Shape letters: I images, V image tokens, N rows of the prefixes, B segments, H horizon, D padded action dims, T flow
times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pi05_train.model.attention import RaggedCall
from pi05_train.model.batch import Batch
from pi05_train.model.chunk_plan import ChunkPlan, DenoisingPlan, denoising_plan
from pi05_train.model.pi05 import Pi05
from pi05_train.model.plan import BackbonePlan, Segments, prefix_plan

ROUND_UP = 64
"""Rows are filled up to a multiple of it where shapes must be few."""


@dataclass(frozen=True)
class Inputs:
    """Prompts, noise and the attention plans that follow from the prompts' lengths."""

    images_ICHW: Tensor
    image_rows_V: Tensor
    token_ids_N: Tensor
    states_BD: Tensor
    noise_BHD: Tensor
    dims_BD: Tensor
    """bool: dims that take part in the flow."""
    times_T: Tensor
    """Flow times at which the velocity is asked for."""
    prefix: BackbonePlan
    denoising: DenoisingPlan


def make_inputs(model: Pi05, batch: Batch, noise_BHD: Tensor, dims_BD: Tensor, times_T: Tensor) -> Inputs:
    """The inputs of a batch of prompts, no row more."""
    segments, by = Segments(batch.prefix_lengths, batch.target_lengths), model.rotation(batch.positions_N)
    return Inputs(
        batch.images_ICHW,
        batch.image_rows_V,
        batch.token_ids_N,
        batch.states_BD,
        noise_BHD,
        dims_BD,
        times_T,
        prefix_plan(segments, by),
        denoising_plan(segments, model.config, by),
    )


def make_shaped_inputs(model: Pi05, batch: Batch, noise_BHD: Tensor, dims_BD: Tensor, times_T: Tensor) -> Inputs:
    """The same chunks from inputs whose shapes follow from the numbers of segments and images and rounded lengths.

    One segment more fills the rows up: it has no chunk and nobody sees it. Where a segment begins and ends are numbers
    on the device, so one CUDA graph serves prompts of any length; variable-length attention alone can read them so.
    """
    lengths = batch.prefix_lengths
    rows, longest = _round_up(sum(lengths) + 1), _round_up(max(lengths))
    filling = rows - sum(lengths)
    by = model.rotation(torch.cat([batch.positions_N, torch.arange(filling, device=batch.positions_N.device)]))
    prefix = prefix_plan(Segments((*lengths, filling), (0,) * (len(lengths) + 1)), by)
    plan = denoising_plan(Segments(lengths, batch.target_lengths), model.config, by, memory_rows=rows)
    return Inputs(
        batch.images_ICHW,
        batch.image_rows_V,
        functional.pad(batch.token_ids_N, (0, filling)),
        batch.states_BD,
        noise_BHD,
        dims_BD,
        times_T,
        replace(prefix, calls=tuple(_at_most(call, longest, longest) for call in prefix.calls)),
        DenoisingPlan(
            _shaped(plan.chunks, rows, longest), None if plan.states is None else _shaped(plan.states, rows, longest)
        ),
    )


def _round_up(rows: int) -> int:
    return -(-rows // ROUND_UP) * ROUND_UP


def _shaped(plan: ChunkPlan, prefix_rows: int, longest: int) -> ChunkPlan:
    """Key rows filled up with rows that no chunk reads."""
    chunk_rows = plan.rotation.cos.shape[1]
    keys = prefix_rows + len(plan.order_G) * (chunk_rows + 1)
    missing = keys - len(plan.memory_rows_J)
    return replace(
        plan,
        call=_at_most(plan.call, plan.call.longest_query, longest + chunk_rows + 1),
        memory_rows_J=functional.pad(plan.memory_rows_J, (0, missing)),
    )


def _at_most(call: RaggedCall, query_length: int, key_length: int) -> RaggedCall:
    """The call, its lengths known to the host as bounds only."""
    return replace(call, stacks=(), longest_query=query_length, longest_key=key_length)
