"""The engines zero1, zero2 and zero3: DeepSpeed's ZeRO behind the protocol of every engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig
from pi05_train.engine.optimizer import trained_groups
from pi05_train.engine.protocol import StepResult
from pi05_train.engine.pytorch import refuse_wrong_world, resolve_device
from pi05_train.engine.tallies import SegmentLosses, SourceNames, StepCounts, loss_sums, non_finite
from pi05_train.engine.world import World
from pi05_train.engine.zero_library import load_deepspeed
from pi05_train.engine.zero_optimizer import AVERAGE, MOMENTS, ShardedAdamW, clip_factors
from pi05_train.engine.zero_shards import Shards
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import total_loss
from pi05_train.processing.augmentation import augmented

WHOLE_BELOW = 100_000
"""Elements; zero3 keeps smaller parameters on every rank, where fetching would cost more than it saves."""


class ZeroEngine:
    """fp32 weights; compute in fp32 or, through autocast, bf16; gradients reduced in fp32.

    zero1 shards masters, moments and averages over the ranks, zero2 gradients too, zero3 weights too. ZeRO's own bf16
    mode is left alone: it rounds what the network keeps in fp32 (norms, the ends of the expert), so that the engines
    would not agree.

    A checkpoint does not show that ZeRO wrote it: `state` gathers masters, moments and averages by parameter name, one
    parameter at a time, and cuts them as fsdp2 does. Any engine on any number of ranks goes on from it, and ZeRO from
    any engine's.
    """

    def __init__(
        self, model: Pi05, objective: ObjectiveConfig, optimizer: OptimizerConfig, engine: EngineConfig, world: World
    ) -> None:
        refuse_wrong_world(engine, world)
        self.world = world
        self._device = resolve_device(engine.device, world.local_rank)
        deepspeed = load_deepspeed(self._device)
        self._objective = objective
        self._config = optimizer
        self._bf16 = engine.precision == "bf16"
        model = model.to(self._device).float().train()
        self._named = dict(model.named_parameters())
        self._trained = {name: p for name, p in self._named.items() if p.requires_grad}
        groups = trained_groups(model)
        self._groups = [name for name, group in zip(("backbone", "expert"), groups, strict=True) if group]
        self._optimizer = ShardedAdamW(groups, optimizer)
        self._engine = _initialize(deepspeed, model, self._optimizer, engine, self._device)
        self._shards = Shards(deepspeed, self._engine.optimizer, stage=_stage(engine), offload=engine.cpu_offload)
        self._optimizer.begin(self._shards.masters)
        self._shards.link_states()
        self._sources = SourceNames(world, expert=objective.expert)
        self._step = 0

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """See `Engine.train_step`. The device is waited for once, before the optimizer step.

        Once it has refused a step, the engine is not to be used any more.
        """
        counts = self._sources.count(micro_batches)
        losses = self._backward(micro_batches, counts)
        squares = self._shards.squared_gradient_norms(len(self._groups)).to(self._device)
        sums = self.world.sum_on_device(torch.cat([squares, loss_sums(losses, self._sources.names)])).cpu()
        norms, flat = sums[: len(self._groups)].sqrt(), sums[len(self._groups) :].tolist()
        norm_of = dict(zip(self._groups, norms.tolist(), strict=True))
        result = counts.result(flat, norm_of.get("backbone", 0.0), norm_of.get("expert"))
        if not result.finite:
            raise non_finite(self._step, losses, self._sources)
        factors = clip_factors(norms, self._groups, self._config)
        for group, factor in zip(self._optimizer.param_groups, factors, strict=True):
            group["lr"], group["scale"] = learning_rate, factor
        self._engine.step()
        self._step += 1
        return result

    def state(self) -> dict[str, Any]:
        """See `Engine.state`: the keys of every engine; copies on the host, each rank's of its share. A collective."""
        mesh = init_device_mesh("cpu", (self.world.size,))

        def cut(value: Tensor) -> DTensor:
            return distribute_tensor(value.cpu(), mesh, [Shard(0)], src_data_rank=None)

        def of_trained(kind: str) -> dict[str, DTensor]:
            return {name: cut(self._shards.read(p, kind)) for name, p in self._trained.items()}

        steps = self._optimizer.steps_done
        model = {name: cut(self._shards.read(p)) for name, p in self._named.items()}
        moments: dict[str, dict[str, Tensor]] = {moment: {**of_trained(moment)} for moment in MOMENTS}
        state: dict[str, Any] = {
            "model": model,
            "optimizer": moments | {"step": {name: torch.tensor(steps) for name in self._trained}},
            "step": torch.tensor(self._step, dtype=torch.int64),
        }
        if self._config.ema_decay is not None:
            state["ema"] = model | of_trained(AVERAGE)
        return state

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """See `Engine.load_state`. A collective."""
        for name, parameter in self._named.items():
            self._shards.write(parameter, state["model"][name].full_tensor())
        for name, parameter in self._trained.items():
            for moment in MOMENTS:
                self._shards.write(parameter, state["optimizer"][moment][name].full_tensor(), moment)
            if self._config.ema_decay is not None:
                self._shards.write(parameter, state["ema"][name].full_tensor(), AVERAGE)
        self._shards.publish()
        (self._optimizer.steps_done,) = {float(steps) for steps in state["optimizer"]["step"].values()}
        self._step = int(state["step"])

    def _backward(self, micro_batches: Sequence[Batch], counts: StepCounts) -> list[SegmentLosses]:
        """Gradients of the global loss, accumulated over the micro-batches, whose losses are returned."""
        losses = []
        for place, batch in enumerate(micro_batches, start=1):
            self._engine.set_gradient_accumulation_boundary(place == len(micro_batches))
            on_device = augmented(batch.to(self._device))
            # A bf16 copy in autocast's cache would outlive the weight, which zero3 drops after use.
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
                output = self._engine(on_device, insulation=self._objective.insulation)
                terms = total_loss(output, on_device, self._objective, counts.of_losses)
            # Ranks average their gradients; the loss is a sum.
            self._engine.backward(terms.total * self.world.size, scale_wrt_gas=False)
            losses.append(SegmentLosses(batch, terms.total.detach(), terms.text_B, terms.flow_A))
        return losses


def _initialize(
    deepspeed: Any, model: Pi05, optimizer: ShardedAdamW, engine: EngineConfig, device: torch.device
) -> Any:
    """DeepSpeed's engine; precision, clipping and accumulation are ours, so that engines do not differ there."""
    zero: dict[str, Any] = {"stage": _stage(engine), "stage3_param_persistence_threshold": WHOLE_BELOW}
    if engine.cpu_offload:
        for of in ("optimizer", "param") if _stage(engine) == 3 else ("optimizer",):
            zero[f"offload_{of}"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # asked for, used for nothing here
        "gradient_clipping": 0.0,  # by default it clips all groups together, to 1
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled, and neither average nor clip by group
        "zero_optimization": zero,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if _stage(engine) == 3:  # the logits use it outside its own module
        deepspeed.zero.register_external_parameter(model, model.embedding.weight)
    return made


def _stage(engine: EngineConfig) -> int:
    return int(engine.name.removeprefix("zero"))
