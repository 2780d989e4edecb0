"""One layer of pi0.5: a backbone block and an action-expert block that attend jointly.

Both towers of a layer live in one module, so that an engine shards and checkpoints them as one unit.

Shape letters: N rows of the backbone's stream, G chunks (segment with actions x flow draw), H rows of a chunk, W width,
R key-value heads, E head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pi05_train.model.attention import attend
from pi05_train.model.config import ModelConfig
from pi05_train.model.gemma import GemmaBlock, Rotation
from pi05_train.model.plan import BackbonePlan, ExpertPlan

KeysValues = tuple[Tensor, Tensor]
"""Rotated keys and values of one layer's backbone rows, each [N, R, E]."""


class JointBlock(nn.Module):
    """Backbone layer i and, in a model with an expert, expert layer i."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = GemmaBlock(config.backbone, config, adaptive=False)
        self.expert: GemmaBlock | None = None

    def forward(
        self,
        x_NW: Tensor | None,
        chunk_GHW: Tensor | None,
        condition_GW: Tensor | None,
        backbone_plan: BackbonePlan | None,
        expert_plan: ExpertPlan | None,
        memory: KeysValues | None = None,
        *,
        insulation: bool = True,
    ) -> tuple[Tensor | None, Tensor | None, KeysValues]:
        """Both streams after this layer, and the keys and values of every backbone row seen so far.

        `memory` holds earlier backbone rows (inference). A stream that is None is left out.
        """
        if x_NW is not None:
            assert backbone_plan is not None
            x_NW, memory = self._backbone(x_NW, backbone_plan, memory)
        assert memory is not None
        if chunk_GHW is not None:
            assert expert_plan is not None
            condition = None if condition_GW is None else condition_GW[:, None]
            chunk_GHW = self._expert(chunk_GHW, condition, memory, expert_plan, insulation=insulation)
        return x_NW, chunk_GHW, memory

    def _backbone(self, x_NW: Tensor, plan: BackbonePlan, memory: KeysValues | None) -> tuple[Tensor, KeysValues]:
        block = self.backbone
        normed, _ = block.attention_norm(x_NW)
        k, v = block.keys_values(normed, plan.rotation)
        if memory is not None:
            k, v = torch.cat([memory[0], k]), torch.cat([memory[1], v])
        by = plan.rotation
        if plan.rows is not None:
            x_NW, normed, by = x_NW[plan.rows], normed[plan.rows], by.rows(plan.rows)
        q = block.queries(normed, by)
        attended = torch.cat([attend(q, k, v, call) for call in plan.calls])[plan.order]
        return block.finish(x_NW, attended, None, None), (k, v)

    def keys_values(self, x_NW: Tensor, by: Rotation) -> KeysValues:
        """What the backbone rows before this layer lend to others."""
        normed, _ = self.backbone.attention_norm(x_NW)
        return self.backbone.keys_values(normed, by)

    def answer(self, x_BW: Tensor, plan: BackbonePlan, memory: KeysValues) -> Tensor:
        """Backbone rows after this layer, [B, W], that are in `memory` already and lend nothing new."""
        block = self.backbone
        normed, _ = block.attention_norm(x_BW)
        q = block.queries(normed, plan.rotation)
        attended = torch.cat([attend(q, *memory, call) for call in plan.calls])[plan.order]
        return block.finish(x_BW, attended, None, None)

    def _expert(
        self, chunk_GHW: Tensor, condition: Tensor | None, memory: KeysValues, plan: ExpertPlan, *, insulation: bool
    ) -> Tensor:
        block = self.expert
        assert block is not None, "this model was built without an action expert"
        normed, gate = block.attention_norm(chunk_GHW, condition)
        q = block.queries(normed, plan.rotation)
        k, v = block.keys_values(normed, plan.rotation)
        # Knowledge insulation is these two detaches and nothing else (KI paper, equations 5 and 6).
        seen_k, seen_v = (x.detach() for x in memory) if insulation else memory
        rows, k, v = q.flatten(0, 1), torch.cat([seen_k, k.flatten(0, 1)]), torch.cat([seen_v, v.flatten(0, 1)])
        attended = torch.cat([attend(rows, k, v, call) for call in plan.calls])[plan.order]
        return block.finish(chunk_GHW, attended.view(q.shape), gate, condition)
