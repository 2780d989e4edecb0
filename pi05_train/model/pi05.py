"""The whole network: vision tower, backbone and action expert, assembled; pi0.5 and, by `ModelConfig.family`, the
models it came from: pi0 and pi0-FAST.

Source: pi0.5 paper section IV, openpi models/pi0.py and pi0_fast.py. Parameter names map one to one to openpi's tree.

Shape letters: B segments, N backbone rows, V image tokens, L labels, A segments with actions, K flow draws,
G = A * K chunks, H horizon, D action dims, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.action import ActionEnds, action_ends
from pi05_train.model.batch import Batch
from pi05_train.model.cache import PrefixCache
from pi05_train.model.chunk_plan import DenoisingPlan, denoising_plan
from pi05_train.model.compilation import compiled
from pi05_train.model.config import ModelConfig
from pi05_train.model.denoising import ChunkLayer, Denoiser, chunk_layer
from pi05_train.model.flow import noisy_actions
from pi05_train.model.gemma import GemmaBlock, RMSNorm, Rotation, rotation
from pi05_train.model.init import init_parameters
from pi05_train.model.joint import JointBlock, KeysValues
from pi05_train.model.plan import (
    BackbonePlan,
    ExpertPlan,
    Segments,
    backbone_plan,
    decode_plan,
    ends_plan,
    expert_plan,
    last_backbone_plan,
    prefix_plan,
)
from pi05_train.model.precision import compute_dtype
from pi05_train.model.siglip import VisionTower


@dataclass(frozen=True)
class Output:
    """What one forward pass computes."""

    logits_LV: Tensor
    """Scores of the token after each label row, [L, vocab_size]."""
    velocity_AKHD: Tensor | None
    """None without an expert."""


class Pi05(nn.Module):
    """pi0.5 (or another family) with (`expert=True`) or without its action expert."""

    def __init__(self, config: ModelConfig, *, expert: bool) -> None:
        super().__init__()
        assert not (expert and config.family == "pi0_fast"), "pi0-FAST has no action expert"
        self.config = config
        self.vision = VisionTower(config.vision, config.backbone.width)
        self.embedding = nn.Embedding(config.vocab_size, config.backbone.width)
        self.layers = nn.ModuleList(JointBlock(config) for _ in range(config.depth))
        self.final_norm = RMSNorm(config.backbone.width)
        self.action: ActionEnds | None = None
        if expert:
            for layer in self._layers():
                layer.expert = GemmaBlock(config.expert, config, adaptive=not config.state_token)
            self.action = action_ends(config)
        self._chunk_layer: ChunkLayer = chunk_layer

    def compile_inference(self) -> None:
        """From now on blocks run through torch.compile: fewer, larger kernels, after a minute or two at the start."""
        for block in (*self.vision.blocks, *self.layers):
            block.forward = compiled(block.forward)
        self._chunk_layer = compiled(chunk_layer)

    def init_weights(self, seed: int) -> None:
        """Draws every parameter; the same seed gives the same weights, with or without the expert."""
        init_parameters(self, [name for name, _ in self.named_parameters()], seed)

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of the vision tower and the backbone."""
        return ((name, p) for name, p in self.named_parameters() if not _of_expert(name))

    def expert_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of the expert's blocks and of the action and time projections."""
        return ((name, p) for name, p in self.named_parameters() if _of_expert(name))

    def forward(self, batch: Batch, *, insulation: bool = True) -> Output:
        """Logits at the label rows and velocities of the noisy actions.

        With `insulation` no gradient runs from the actions into the backbone; the numbers stay the same.
        """
        segments = Segments(batch.prefix_lengths, batch.target_lengths)
        by = self.rotation(batch.positions_N)
        plan = backbone_plan(segments, by)
        last = last_backbone_plan(segments, by, segments.target)
        x: Tensor | None = self.embed(batch)
        chunk = condition = actions = None
        if self.action is not None:
            draws = batch.time_AK.shape[1]
            chunk_segments = [s for s in batch.action_segments for _ in range(draws)]
            chunk, condition = self._embed_actions(self.action, batch, chunk_segments)
            actions = self._expert_plan(segments, chunk_segments, by)
        for index, layer in enumerate(self.layers):
            is_last = index == self.config.depth - 1
            x, chunk, _ = layer(x, chunk, condition, last if is_last else plan, actions, insulation=insulation)
        assert x is not None
        assert last.rows is not None
        logits = self._logits(x[torch.searchsorted(last.rows, batch.label_rows_L)])
        if self.action is None:
            return Output(logits, None)
        assert chunk is not None
        return Output(logits, self.action.velocity(chunk, condition).view(batch.noise_AKHD.shape))

    @torch.no_grad()
    def prefill(self, batch: Batch) -> PrefixCache:
        """Runs the prefixes of a batch without targets once; text and actions are then computed from the cache."""
        segments = Segments(batch.prefix_lengths, batch.target_lengths)
        by = self.rotation(batch.positions_N)
        x, memory = self.read_prefix(self.embed(batch), prefix_plan(segments, by))
        ends = [start + length - 1 for start, length in zip(segments.starts, segments.prefix, strict=True)]
        return PrefixCache(
            segments, memory, by, x[torch.tensor(ends).to(x.device)], batch.states_BD, tuple(range(batch.num_segments))
        )

    @torch.no_grad()
    def read_prefix(self, x_NW: Tensor, plan: BackbonePlan) -> tuple[Tensor, list[KeysValues]]:
        """The stream before the last layer, and every layer's keys and values: all that is ever read of a prefix."""
        *before, last = self._layers()
        memory = []
        for layer in before:
            x, _, seen = layer(x_NW, None, None, plan, None)
            assert x is not None
            x_NW = x
            memory.append(seen)
        return x_NW, [*memory, last.keys_values(x_NW, plan.rotation)]

    @torch.no_grad()
    def first_logits(self, cache: PrefixCache) -> Tensor:
        """Scores of the first target token of every answer, [R, vocab_size]."""
        *_, last = self._layers()
        plan = ends_plan(cache.segments, self.config.head_dim, cache.rotation)
        logits = self._logits(last.answer(cache.ends_BW, plan, cache.memory[-1]))
        return logits[torch.tensor(cache.owners).to(logits.device)]

    @torch.no_grad()
    def decode(self, cache: PrefixCache, token_ids_R: Tensor) -> Tensor:
        """Appends one target token per answer and returns the scores of the next one, [R, vocab_size]."""
        plan = decode_plan(
            cache.segments,
            cache.owners,
            cache.decoded,
            self.config.head_dim,
            cache.rotation,
            skipped_positions=int(self.config.pi0_fast_quirks),
        )
        x = self._embed_text(token_ids_R)
        for index, layer in enumerate(self.layers):
            x, _, cache.memory[index] = layer(x, None, None, plan, None, cache.memory[index])
        cache.decoded += 1
        return self._logits(x)

    def denoiser(self, cache: PrefixCache, times_T: Tensor) -> Denoiser:
        """The velocities of one chunk per cached prefix at these flow times; decoded tokens are unseen."""
        rows = cache.segments.rows
        plan = denoising_plan(cache.segments, self.config, cache.rotation)
        return self.planned_denoiser([(k[:rows], v[:rows]) for k, v in cache.memory], cache.states_BD, times_T, plan)

    @torch.no_grad()
    def planned_denoiser(
        self, memory: Sequence[KeysValues], states_BD: Tensor, times_T: Tensor, plan: DenoisingPlan
    ) -> Denoiser:
        """The same from the keys and values of the prefix rows alone."""
        assert self.action is not None, "this model was built without an action expert"
        experts = [layer.expert for layer in self._layers() if layer.expert is not None]
        return Denoiser(self.action, experts, memory, states_BD, times_T, plan, self._chunk_layer)

    def _layers(self) -> Iterator[JointBlock]:
        for layer in self.layers:
            assert isinstance(layer, JointBlock)
            yield layer

    def rotation(self, positions_N: Tensor) -> Rotation:
        """The rotation of rows at these positions."""
        return rotation(positions_N, self.config.head_dim, self.embedding.weight.dtype)

    def _expert_plan(self, segments: Segments, chunk_segments: Sequence[int], by: Rotation) -> ExpertPlan:
        horizon, head_dim, state_token = self.config.action_horizon, self.config.head_dim, self.config.state_token
        return expert_plan(segments, chunk_segments, horizon, head_dim, by, state_token=state_token)

    def _to_compute(self, x: Tensor) -> Tensor:
        return x.to(compute_dtype(self.embedding.weight))

    def _embed_text(self, token_ids: Tensor) -> Tensor:
        embedded = self.embedding(token_ids) * math.sqrt(self.config.backbone.width)
        return self._to_compute(embedded)

    def embed(self, batch: Batch) -> Tensor:
        """The backbone's stream [N, W]: scaled text embeddings, and image tokens, which are not scaled."""
        return self.join(self.vision(batch.images_ICHW), batch.image_rows_V, batch.token_ids_N)

    def join(self, images_ISW: Tensor, image_rows_V: Tensor, token_ids_N: Tensor) -> Tensor:
        """The same from the vision tower's tokens."""
        text = self._embed_text(token_ids_N)
        return text.index_copy(0, image_rows_V, images_ISW.flatten(0, 1).to(text.dtype))

    def _embed_actions(
        self, action: ActionEnds, batch: Batch, chunk_segments: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Rows [G, rows, W] and conditions [G, W] of the noisy chunks."""
        noisy = noisy_actions(batch.actions_AHD, batch.noise_AKHD, batch.time_AK).flatten(0, 1)
        segments = torch.tensor(chunk_segments, dtype=torch.int64).to(batch.states_BD.device, non_blocking=True)
        chunk, condition = action.embed(noisy, batch.time_AK.flatten(), batch.states_BD[segments])
        return self._to_compute(chunk), condition

    def _logits(self, rows: Tensor) -> Tensor:
        normed, _ = self.final_norm(rows)
        return functional.linear(normed, self.embedding.weight)


def _of_expert(name: str) -> bool:
    return name.startswith("action.") or ".expert." in name
