"""The engine on PyTorch's own parts: one process, or several that replicate or shard the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig
from pi05_train.engine.ema import WeightAverage
from pi05_train.engine.optimizer import clip, gradient_norm, make_optimizer, trained_groups
from pi05_train.engine.protocol import StepResult
from pi05_train.engine.sharding import distribute
from pi05_train.engine.tallies import SegmentLosses, SourceNames, StepCounts, loss_sums, non_finite
from pi05_train.engine.world import World
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import Counts, LossTerms, total_loss
from pi05_train.processing.augmentation import augmented

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class PyTorchEngine:
    """fp32 masters and AdamW; compute in fp32 or, through autocast, bf16. On one rank the engine that every other
    must agree with.

    Parameters that need no gradient are frozen: they have no optimizer state, and are their own average.
    """

    def __init__(
        self, model: Pi05, objective: ObjectiveConfig, optimizer: OptimizerConfig, engine: EngineConfig, world: World
    ) -> None:
        refuse_wrong_world(engine, world)
        self.world = world
        self._device = resolve_device(engine.device, world.local_rank)
        self._model = model.float().train()
        self._distributed = distribute(self._model, engine, world, self._device)
        self._objective = objective
        self._config = optimizer
        self._bf16 = engine.precision == "bf16"
        self._named = dict(self._model.named_parameters())
        self._trained = {name: p for name, p in self._named.items() if p.requires_grad}
        self._backbone, self._expert = trained_groups(self._model)
        self._optimizer = make_optimizer(self._backbone, self._expert, optimizer)
        self._average = None if optimizer.ema_decay is None else WeightAverage(self._named, optimizer.ema_decay)
        self._sources = SourceNames(world, expert=objective.expert)
        self._step = 0

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """See `Engine.train_step`. The device is waited for once, before the optimizer step."""
        counts = self._sources.count(micro_batches)
        losses = self._backward(micro_batches, counts)
        norms = gradient_norm(self._backbone), gradient_norm(self._expert)
        sums = self.world.sum_on_device(loss_sums(losses, self._sources.names))
        backbone_norm, expert_norm, *flat = _to_host(*norms, sums)
        result = counts.result(flat, backbone_norm, None if norms[1] is None else expert_norm)
        if not result.finite:
            self._optimizer.zero_grad(set_to_none=True)
            raise non_finite(self._step, losses, self._sources)
        clip((self._backbone, self._expert), norms, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()
        self._step += 1
        return result

    def state(self) -> dict[str, Any]:
        """See `Engine.state`: "model" and "ema" of every parameter, "optimizer" of the trained ones, and "step"."""
        moments = {name: self._optimizer.state[parameter] for name, parameter in self._trained.items()}
        state: dict[str, Any] = {
            "model": {name: parameter.detach() for name, parameter in self._named.items()},
            "optimizer": {moment: {name: of[moment] for name, of in moments.items()} for moment in MOMENTS},
            "step": torch.tensor(self._step, dtype=torch.int64),
        }
        if self._average is not None:
            state["ema"] = dict(self._average.average)
        return state

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """See `Engine.load_state`."""
        mine = self.state()
        self._step = int(state["step"])
        _copy(mine, state)

    def _backward(self, micro_batches: Sequence[Batch], counts: StepCounts) -> list[SegmentLosses]:
        """Gradients of the global loss, accumulated over the micro-batches, whose losses are returned."""
        losses = []
        for place, batch in enumerate(micro_batches, start=1):
            with nullcontext() if place == len(micro_batches) else self._distributed.accumulating():
                terms = self._forward(batch, counts.of_losses)
                # Ranks average their gradients; the loss is a sum.
                (terms.total * self.world.size).backward()  # type: ignore[no-untyped-call]
            losses.append(SegmentLosses(batch, terms.total.detach(), terms.text_B, terms.flow_A))
        return losses

    def _forward(self, batch: Batch, counts: Counts) -> LossTerms:
        on_device = augmented(batch.to(self._device))
        with self._compute():
            output = self._distributed.forward(on_device, insulation=self._objective.insulation)
            return total_loss(output, on_device, self._objective, counts)

    def _compute(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16)


def refuse_wrong_world(engine: EngineConfig, world: World) -> None:
    """engine=single in several processes would train the same run several times over; the others need a launcher."""
    name = f"engine={engine.name}"
    if engine.name == "single" and world.size > 1:
        raise UserError(name, got=f"{world.size} processes", expected="one", do="set --nproc-per-node 1, or engine=ddp")
    if engine.name != "single" and not world.group:
        raise UserError(
            name,
            got="no launcher",
            expected="processes started together",
            do="use launch/torchrun.sh, or engine=single",
        )


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for engine.device "auto", "cpu" or "cuda"; each process of a machine has one of its CUDA devices."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    devices = torch.cuda.device_count()
    if not devices:
        raise UserError("engine.device", got="cuda", expected="a CUDA device in this machine", do="use auto or cpu")
    if local_rank >= devices:
        raise UserError(
            "engine.device",
            got=f"{local_rank + 1} or more processes on a machine with {devices} CUDA devices",
            expected="one process per device",
            do="lower --nproc-per-node",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _to_host(backbone: Tensor | None, expert: Tensor | None, sums: Tensor) -> list[float]:
    """One transfer for every number of the step; an absent norm is 0."""
    norms = [sums.new_zeros(()) if norm is None else norm.to(sums) for norm in (backbone, expert)]
    numbers: list[float] = torch.cat([torch.stack(norms), sums]).tolist()
    return numbers


def _copy(into: dict[str, Any], values: dict[str, Any]) -> None:
    assert into.keys() == values.keys(), (sorted(into), sorted(values))
    for name, value in into.items():
        if isinstance(value, dict):
            _copy(value, values[name])
        else:
            value.copy_(values[name])
