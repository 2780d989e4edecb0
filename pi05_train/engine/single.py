"""One process, one device: the engine every other must agree with."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig
from pi05_train.engine.ema import WeightAverage
from pi05_train.engine.optimizer import clip, gradient_norm, make_optimizer
from pi05_train.engine.protocol import StepResult
from pi05_train.engine.tallies import SegmentLosses, non_finite_segments, source_names, sums_by_source, tallies
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import Counts, count, total_loss
from pi05_train.processing.augmentation import augmented

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class SingleEngine:
    """fp32 masters and AdamW on one device; compute in fp32 or, through autocast, bf16.

    Parameters that need no gradient are frozen: they have no optimizer state, and are their own average.
    """

    rank = 0
    world_size = 1

    def __init__(
        self, model: Pi05, objective: ObjectiveConfig, optimizer: OptimizerConfig, engine: EngineConfig
    ) -> None:
        refuse_several_processes()
        self._device = resolve_device(engine.device)
        self._model = model.to(self._device).float().train()
        self._objective = objective
        self._config = optimizer
        self._bf16 = engine.precision == "bf16"
        self._named = dict(self._model.named_parameters())
        self._trained = {name: p for name, p in self._named.items() if p.requires_grad}
        self._backbone = [p for name, p in self._model.backbone_parameters() if name in self._trained]
        self._expert = [p for name, p in self._model.expert_parameters() if name in self._trained]
        assert len(self._backbone) + len(self._expert) == len(self._trained), "a parameter belongs to neither group"
        self._optimizer = make_optimizer(self._backbone, self._expert, optimizer)
        self._average = None if optimizer.ema_decay is None else WeightAverage(self._named, optimizer.ema_decay)
        self._step = 0

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """See `Engine.train_step`. The device is waited for once, before the optimizer step."""
        losses, total = self._backward(micro_batches)
        norms = gradient_norm(self._backbone), gradient_norm(self._expert)
        sources = source_names(micro_batches)
        sums = sums_by_source(losses, sources)
        loss, backbone_norm, expert_norm, *flat = _to_host(total, *norms, sums)
        self._refuse_non_finite(losses, sources, (loss, backbone_norm, expert_norm))
        clip((self._backbone, self._expert), norms, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()
        self._step += 1
        text, flow, samples = tallies(losses, sources, (flat[: len(sources)], flat[len(sources) :]))
        return StepResult(
            loss=loss,
            text=text,
            flow=flow,
            samples=samples,
            tokens=sum(sum(b.prefix_lengths) + sum(b.target_lengths) for b in micro_batches),
            backbone_norm=backbone_norm,
            expert_norm=None if norms[1] is None else expert_norm,
        )

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

    def _backward(self, micro_batches: Sequence[Batch]) -> tuple[list[SegmentLosses], Tensor]:
        """Gradients of the global loss, accumulated over the micro-batches, and that loss."""
        parts = [count(batch) for batch in micro_batches]
        counts = Counts(text=sum(part.text for part in parts), flow=sum(part.flow for part in parts))
        losses, total = [], torch.zeros((), device=self._device)
        for batch in micro_batches:
            on_device = augmented(batch.to(self._device))
            with self._compute():
                output = self._model(on_device, insulation=self._objective.insulation)
                terms = total_loss(output, on_device, self._objective, counts)
            terms.total.backward()  # type: ignore[no-untyped-call]
            total += terms.total.detach()
            losses.append(SegmentLosses(batch, terms.text_B, terms.flow_A))
        return losses, total

    def _compute(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def _refuse_non_finite(
        self, losses: Sequence[SegmentLosses], sources: Sequence[str], numbers: Sequence[float]
    ) -> None:
        if all(math.isfinite(number) for number in numbers):
            return
        self._optimizer.zero_grad(set_to_none=True)
        bad = non_finite_segments(losses)
        raise UserError(
            f"step {self._step}",
            got=f"a loss that is not finite in {', '.join(bad)}" if bad else "gradients that are not finite",
            expected=f"finite losses and gradients from the sources {', '.join(sources)}",
            do="look at these samples; the weights are unchanged"
            if bad
            else "lower the learning rate or raise precision",
        )


def refuse_several_processes() -> None:
    """torchrun with more than one process would train the same run several times over."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise UserError("engine=single", got=f"{processes} processes", expected="one", do="set --nproc-per-node 1")


def resolve_device(name: str) -> torch.device:
    """The device for engine.device "auto", "cpu" or "cuda"."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device", got="cuda", expected="a CUDA device in this machine", do="use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _to_host(total: Tensor, backbone: Tensor | None, expert: Tensor | None, sums: Tensor) -> list[float]:
    """One transfer for every number of the step; an absent norm is 0."""
    zero = torch.zeros_like(total)
    norms = [zero if norm is None else norm for norm in (backbone, expert)]
    numbers: list[float] = torch.cat([torch.stack([total, *norms]).float(), sums.flatten()]).tolist()
    return numbers


def _copy(into: dict[str, Any], values: dict[str, Any]) -> None:
    assert into.keys() == values.keys(), (sorted(into), sorted(values))
    for name, value in into.items():
        if isinstance(value, dict):
            _copy(value, values[name])
        else:
            value.copy_(values[name])
