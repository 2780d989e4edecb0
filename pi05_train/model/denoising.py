"""The action expert on cached prefixes: what no Euler step changes is computed once, the steps only run the expert.

Once: the keys and values that chunks see, laid out so that a step only overwrites the chunks' own rows; rotations;
everything that follows from the flow times, which are known in advance. pi0's state token sees the prefix and itself
alone, so it too is computed once and joins the cache. A step has one attention call per layer.

Shape letters: B segments with one chunk each, H horizon, D action dims, W width of the expert, T flow times,
R key-value heads, E head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.action import ActionEnds
from pi05_train.model.attention import RaggedCall, attend_in_order
from pi05_train.model.chunk_plan import ChunkPlan, DenoisingPlan
from pi05_train.model.gemma import AdaptiveRMSNorm, GemmaBlock, Modulation, RMSNorm, WideRotation
from pi05_train.model.joint import KeysValues

Norm = AdaptiveRMSNorm | RMSNorm
Modulated = Modulation | None
"""None: the norm has no condition."""
Projection = Callable[[Tensor], Tensor]
ChunkLayer = Callable[..., Tensor]
"""`chunk_layer`."""


class Denoiser:
    """Velocities of chunks, given their prefixes' keys and values, at flow times known in advance."""

    def __init__(
        self,
        action: ActionEnds,
        blocks: Sequence[GemmaBlock],
        memory: Sequence[KeysValues],
        states_BD: Tensor,
        times_T: Tensor,
        plan: DenoisingPlan,
        layer: ChunkLayer,
    ) -> None:
        """`memory` holds the prefix rows of every layer, and no others; `layer` is `chunk_layer`, compiled or not."""
        self.action = action
        self.blocks = blocks
        self.times_T = times_T
        self.dtype = memory[0][0].dtype
        projections = [_joined([block.q_proj, block.k_proj, block.v_proj]) for block in blocks]
        if plan.states is not None:
            rows = action.state_rows(states_BD)
            assert rows is not None, "a network with a state token"
            memory = self._with_states(rows.to(self.dtype), _run(layer, projections, memory, plan.states), memory)
        self.run = _run(layer, projections, memory, plan.chunks)
        norms = [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)]
        self.modulations = self._modulations([*norms, action.final_norm])

    def velocity(self, x_BHD: Tensor, step: int) -> Tensor:
        """Velocity [B, H, D] of the noisy chunks at the flow time `times_T[step]`."""
        plan = self.run.plan
        time_B = self.times_T[step].expand(len(x_BHD))
        rows = self.action.action_rows(x_BHD[plan.order_G], time_B).to(self.dtype)
        *inner, final = self.modulations[step]
        for layer, block in enumerate(self.blocks):
            rows = self.run(layer, block, rows, inner[2 * layer], inner[2 * layer + 1])
        velocity: Tensor = self.action.out_proj(_norm(self.action.final_norm, rows, final)[0])
        return velocity[plan.back_G]

    def _with_states(self, rows: Tensor, run: _Run, memory: Sequence[KeysValues]) -> list[KeysValues]:
        """`memory` with the state tokens' keys and values as its last rows, segment after segment."""
        rows = rows[run.plan.order_G]
        for layer, block in enumerate(self.blocks):
            rows = run(layer, block, rows, None, None)
        of_states = run.plan.own_rows_M[run.plan.back_G]
        return [
            (torch.cat([k, all_k[of_states]]), torch.cat([v, all_v[of_states]]))
            for (k, v), (all_k, all_v) in zip(memory, run.memory, strict=True)
        ]

    def _modulations(self, norms: Sequence[Norm]) -> list[list[Modulated]]:
        """For every flow time, what it does to every norm."""
        condition = self.action.condition(self.times_T)
        if condition is None:
            return [[None] * len(norms)] * len(self.times_T)
        found = []
        for norm in norms:
            assert isinstance(norm, AdaptiveRMSNorm)
            found.append(norm.modulations(condition, self.dtype))
        return [list(of_time) for of_time in zip(*found, strict=True)]


@dataclass(frozen=True)
class _Run:
    """Chunks on their way through the layers, and the keys and values they see there."""

    layer: ChunkLayer
    projections: Sequence[Projection]
    memory: Sequence[KeysValues]
    """Per layer, [J, R, E]; the chunks' own rows are overwritten by every step."""
    rotation: WideRotation
    plan: ChunkPlan

    def __call__(self, index: int, block: GemmaBlock, x: Tensor, attention: Modulated, mlp: Modulated) -> Tensor:
        """The chunks [B, rows, W] after a layer."""
        call, rows = self.plan.call, self.plan.own_rows_M
        return self.layer(
            block, self.projections[index], x, self.memory[index], rows, self.rotation, call, attention, mlp
        )


def chunk_layer(
    block: GemmaBlock,
    projection: Projection,
    x: Tensor,
    memory: KeysValues,
    own_rows_M: Tensor,
    by: WideRotation,
    call: RaggedCall,
    attention: Modulated,
    mlp: Modulated,
) -> Tensor:
    """The chunks [B, rows, W] after a layer. What it takes is all that changes from layer to layer and step to step."""
    normed, gate = _norm(block.attention_norm, x, attention)
    kv_heads = memory[0].shape[1]
    heads = torch.unflatten(projection(normed), -1, (-1, block.head_dim))
    rotated = by(heads[..., :-kv_heads, :])
    q, own_k, own_v = rotated[..., :-kv_heads, :], rotated[..., -kv_heads:, :], heads[..., -kv_heads:, :]
    k, v = _with_own(memory, own_rows_M, own_k.flatten(0, 1), own_v.flatten(0, 1))
    attended = attend_in_order(_fold(q, kv_heads), k, v, call)
    x = _residual(x, block.o_proj(_unfold(attended, x.shape[:2])), gate)
    normed, gate = _norm(block.mlp_norm, x, mlp)
    hidden = functional.gelu(block.gate_proj(normed), approximate="tanh") * block.up_proj(normed)
    return _residual(x, block.down_proj(hidden), gate)


def _with_own(memory: KeysValues, rows_M: Tensor, own_k: Tensor, own_v: Tensor) -> KeysValues:
    """What the chunks see in a layer. For gradients it is a copy: they need every step's own."""
    k, v = memory
    if torch.is_grad_enabled():
        return k.index_copy(0, rows_M, own_k), v.index_copy(0, rows_M, own_v)
    return k.index_copy_(0, rows_M, own_k), v.index_copy_(0, rows_M, own_v)


def _run(layer: ChunkLayer, projections: Sequence[Projection], memory: Sequence[KeysValues], plan: ChunkPlan) -> _Run:
    laid_out = [(k[plan.memory_rows_J], v[plan.memory_rows_J]) for k, v in memory]
    return _Run(layer, projections, laid_out, WideRotation.of(plan.rotation), plan)


def _joined(layers: Sequence[nn.Module]) -> Projection:
    """What linear layers make of the same input, side by side: one product, where none of them has LoRA."""
    weights = [layer.weight for layer in layers if type(layer) is nn.Linear]
    if len(weights) == len(layers):
        return partial(functional.linear, weight=torch.cat(weights))
    return lambda x: torch.cat([layer(x) for layer in layers], dim=-1)


def _fold(q: Tensor, kv_heads: int) -> Tensor:
    """Queries [B, rows, Q, E] as [B * rows * Q / R, R, E]: heads that share keys become rows."""
    return torch.unflatten(q, -2, (kv_heads, -1)).transpose(-3, -2).flatten(0, 2)


def _unfold(attended: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_fold`, heads joined: [B, rows, Q * E]."""
    return torch.unflatten(attended, 0, (*shape, -1)).transpose(-3, -2).flatten(2)


def _norm(norm: Norm, x: Tensor, modulation: Modulated) -> tuple[Tensor, Tensor | None]:
    if modulation is not None:
        return modulation(x), modulation.gate_W
    normed, gate = norm(x)
    return normed, gate


def _residual(x: Tensor, update: Tensor, gate: Tensor | None) -> Tensor:
    return x + update if gate is None else torch.addcmul(x, update, gate)
