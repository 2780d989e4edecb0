"""The vision tower: SigLIP's transformer (PaliGemma's So400m/14), no pooling, then a projection to the backbone.

Source: openpi models/siglip.py. Shape letters: I images, S patches per image, W width of the tower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.config import VisionConfig
from pi05_train.model.precision import compute_dtype

_EPSILON = 1e-6


class VisionBlock(nn.Module):
    """A pre-norm transformer block; every patch of an image sees every other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.fc1 = nn.Linear(width, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, width)

    def forward(self, x_ISW: Tensor) -> Tensor:
        y = self.attention_norm(x_ISW)
        q, k, v = (self._heads(proj(y)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        attended = functional.scaled_dot_product_attention(q, k, v)
        x_ISW = x_ISW + self.o_proj(attended.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.fc1(self.mlp_norm(x_ISW)), approximate="tanh")
        out: Tensor = x_ISW + self.fc2(hidden)
        return out

    def _heads(self, x_ISW: Tensor) -> Tensor:
        return torch.unflatten(x_ISW, -1, (self.heads, -1)).transpose(1, 2)


class VisionTower(nn.Module):
    """Images to one token per patch in the backbone's width."""

    def __init__(self, config: VisionConfig, backbone_width: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.zeros(config.tokens_per_image, config.width))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.head = nn.Linear(config.width, backbone_width)

    def forward(self, images_ICHW: Tensor) -> Tensor:
        """uint8 images [I, 3, size, size] to tokens [I, S, backbone width], patches row by row."""
        x = self._embed(images_ICHW)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.head(self.norm(x))
        return tokens

    def _embed(self, images_ICHW: Tensor) -> Tensor:
        weight = self.patch_embedding.weight
        with torch.autocast(weight.device.type, enabled=False):
            pixels = images_ICHW.contiguous().to(weight.dtype) / 255 * 2 - 1
            patches: Tensor = self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding
        return patches.to(compute_dtype(self.head.weight))
