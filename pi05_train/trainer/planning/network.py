"""The network of a run on the meta device: its parameters by part, and where its gradients run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pi05_train.config.schema import Config
from pi05_train.model.adaptation import is_lora
from pi05_train.model.init import NoDraws
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.trainer.flops import Load, forward_flops

PARTS = ("vision", "backbone", "embedding", "expert")
"""Of the parameters; the embedding is the output head too."""


@dataclass(frozen=True)
class Part:
    """Numbers of parameters."""

    parameters: int = 0
    trained: int = 0
    lora: int = 0
    """Of those, LoRA's."""

    @property
    def trained_share(self) -> float:
        """Of what is not LoRA's, the share that trains."""
        own = self.parameters - self.lora
        return (self.trained - self.lora) / own if own else 0.0


@dataclass(frozen=True)
class Network:
    """What a plan needs to know of the network and its objective."""

    config: Config
    parts: Mapping[str, Part]
    blocks: tuple[int, ...]
    """Parameters of every block: the units in which an engine gathers."""

    @classmethod
    def of(cls, config: Config) -> Network:
        """Builds it as a run does, without memory. Refuses (UserError) what `adapt` refuses."""
        with torch.device("meta"), NoDraws():
            model = Pi05(config.model, expert=config.stage.objective.expert)
            adapt(model, config.adaptation)
        expert = {name for name, _ in model.expert_parameters()}
        counts = {part: [0, 0, 0] for part in PARTS}
        for name, parameter in model.named_parameters():
            count = counts["expert" if name in expert else _backbone_part(name)]
            count[0] += parameter.numel()
            count[1] += parameter.numel() * parameter.requires_grad
            count[2] += parameter.numel() * is_lora(name)
        blocks = (*map(_size, model.vision.blocks), *map(_size, model.layers))
        return cls(config, {part: Part(*count) for part, count in counts.items()}, blocks)

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    @property
    def trained(self) -> int:
        return sum(part.trained for part in self.parts.values())

    @property
    def outside_blocks(self) -> int:
        """Parameters that are needed all along: the embedding above all."""
        return self.parameters - sum(self.blocks)

    @property
    def backbone_backward(self) -> bool:
        """Whether a gradient runs back through the backbone at all."""
        objective = self.config.stage.objective
        asked = objective.text or not objective.insulation
        return asked and any(self.parts[part].trained for part in ("vision", "backbone", "embedding"))

    @property
    def vision_backward(self) -> bool:
        """Whether it goes on through the vision tower."""
        return self.backbone_backward and self.parts["vision"].trained > 0

    def step_flops(self, load: Load) -> dict[str, float]:
        """Operations of forward and backward by part (`flops.PARTS`): `training_flops`, less what is frozen.

        A weight that trains costs its forward operations again, and so does the gradient that runs on through a part.
        LoRA's factors come on top. Where part of a tower is frozen, the gradient is taken to run through all of it.
        """
        model, parts = self.config.model, self.parts
        forward = forward_flops(load, model)
        back, seen = self.backbone_backward, self.vision_backward
        patches = load.images * model.vision.tokens_per_image
        chunk_rows = load.chunks * model.chunk_rows
        return {
            "vision": _both(forward["vision"], parts["vision"], patches, through=seen),
            "backbone": _both(forward["backbone"], parts["backbone"], load.rows, through=back),
            "attention": forward["attention"] * (1 + 2 * back),
            "head": forward["head"] * (1 + back + back * parts["embedding"].trained_share),
            "expert": _both(forward["expert"], parts["expert"], chunk_rows, through=True),
        }


def _backbone_part(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in ("vision", "embedding") else "backbone"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _both(forward: float, part: Part, rows: float, *, through: bool) -> float:
    """Forward and backward of a part; `through`: whether a gradient reaches it."""
    lora = 2 * rows * part.lora
    if not through:
        return forward + lora
    return forward * (2 + part.trained_share) + 3 * lora
