"""What a step of a run needs on a rank under each engine: memory against the device's, traffic, and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.schema import Config
from pi05_train.trainer.devices import Device, device_named
from pi05_train.trainer.flops import total
from pi05_train.trainer.planning.activations import (
    Activations,
    compiled,
    saved_for_backward,
    saved_selectively,
    saved_with_checkpointing,
)
from pi05_train.trainer.planning.engines import (
    ENGINES,
    State,
    Traffic,
    compute_bytes,
    shard_size,
    state,
    traffic,
    usable,
)
from pi05_train.trainer.planning.lengths import Samples, Steps, divided
from pi05_train.trainer.planning.network import Network

GIB = 2**30
CONTEXT_GIB = 2.0
"""The driver's context, NCCL and the workspaces of the libraries."""
FRAGMENTATION = 0.05
"""Of everything else: what the allocator cannot use."""
UTILISATION = (0.30, 0.55)
"""Of the device's peak, while it computes: what is published for networks of this size on these devices. One H200 gave
0.39 eager and 0.46 to 0.49 compiled, optimizer included (benchmarks/results/gpu_step-2026-11-27.md)."""
LINKS = (0.5, 0.8)
"""Of the bandwidth of links."""
STEP_BYTES = 49
"""Read and written per parameter of a rank after the backward pass: AdamW 28, clipping, casts, average."""
MEMORY_EFFICIENCY = 0.85


SAVED = {"none": saved_for_backward, "selective": saved_selectively, "full": saved_with_checkpointing}
"""By `engine.activation_checkpointing`."""
AGAIN = {"none": 1.0, "selective": 1.0, "full": 4 / 3}
"""Operations of a step with what is computed again, by the same."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank."""

    state: State
    activations: Activations

    @property
    def allocated(self) -> float:
        """At the worst moment: when the backward pass begins, or when it has made the last gradient."""
        state = self.state
        return state.total - state.gradients + max(state.gradients, state.gradients_before + self.activations.peak)

    @property
    def allowance(self) -> float:
        return CONTEXT_GIB * GIB + FRAGMENTATION * self.allocated

    @property
    def total(self) -> float:
        return self.allocated + self.allowance


@dataclass(frozen=True)
class Work:
    """What the steps that are looked at ask of a rank, whatever the engine, with one size of micro-batches."""

    micro_batch: int | None
    """Samples; None: as the budgets of `data` divide."""
    micro_batches: int
    """Of a rank in a step, at most."""
    activations: Mapping[str, Activations]
    """Of the micro-batch that needs most, by `engine.activation_checkpointing`."""
    flops: dict[str, float]
    """Of the slowest rank in a step, by part."""


@dataclass(frozen=True)
class Forecast:
    """One engine, one size of micro-batches."""

    engine: str
    work: Work
    state: State
    checkpointing: str
    """As configured."""
    traffic: Traffic
    compute_seconds: float
    """Of a step's operations, at the better utilisation."""
    seconds: tuple[float, float]
    """Of a step: if all goes well, and if little does."""

    def memory(self, checkpointing: str | None = None) -> Memory:
        """As configured, or with another `engine.activation_checkpointing`."""
        return Memory(self.state, self.work.activations[checkpointing or self.checkpointing])

    def fits(self, device: Device, checkpointing: str | None = None) -> bool:
        return self.memory(checkpointing).total <= device.memory_gib * GIB


@dataclass(frozen=True)
class Forecaster:
    """Makes forecasts of one job; the batches of its steps are looked at once."""

    config: Config
    cluster: ClusterConfig
    network: Network
    batches: Sequence[Samples]

    @property
    def device(self) -> Device:
        return device_named(self.cluster.device)

    @property
    def samples_per_rank(self) -> int:
        return self.config.data.global_batch_samples // self.cluster.world_size

    @property
    def asked(self) -> int | None:
        """The micro-batch that the configuration asks for: at most a rank's part of the batch; None for budgets."""
        data = self.config.data
        if data.micro_batch_tokens is not None or data.micro_batch_images is not None:
            return None
        return min(data.micro_batch_samples, self.samples_per_rank)

    def engines(self) -> list[str]:
        """Those with something to do on the cluster."""
        return [name for name in ENGINES if usable(name, self.cluster)]

    def work(self, micro_batch: int | None) -> Work:
        """The looked-at steps, divided into micro-batches of that size."""
        steps = divided(self.config, self.cluster, self.batches, micro_batch)
        element = compute_bytes(self.network)
        activations = {
            checkpointing: max((saved(load, self.network, element=element) for load in steps.loads), key=_peak)
            for checkpointing, saved in SAVED.items()
        }
        if self.config.engine.compile:
            activations["none"] = compiled(activations["none"])
        return Work(
            micro_batch=micro_batch,
            micro_batches=steps.micro_batches,
            activations=activations,
            flops=self._slowest(steps),
        )

    def sizes(self) -> list[Work]:
        """Every size of micro-batches that divides a rank's part of the batch, the largest first."""
        own = self.samples_per_rank
        return [self.work(size) for size in range(own, 0, -1) if own % size == 0]

    def forecast(self, engine: str, work: Work) -> Forecast:
        """The engine on that work."""
        kept = state(engine, self.network, self.cluster, micro_batches=work.micro_batches)
        sent = traffic(engine, self.network, self.cluster, micro_batches=work.micro_batches)
        checkpointing = self.config.engine.activation_checkpointing
        flops = sum(work.flops.values()) * AGAIN[checkpointing]
        return Forecast(
            engine=engine,
            work=work,
            state=kept,
            checkpointing=checkpointing,
            traffic=sent,
            compute_seconds=flops / (self._peak * UTILISATION[1]),
            seconds=self._seconds(engine, flops, sent),
        )

    @property
    def _peak(self) -> float:
        return self.device.peak_bf16 if self.config.engine.precision == "bf16" else self.device.peak_fp32

    def _slowest(self, steps: Steps) -> dict[str, float]:
        """Mean over the steps of the rank with most operations, which the others wait for."""
        slowest = []
        for step in steps.ranks:
            ranks = [self.network.step_flops(total(rank)) for rank in step]
            slowest.append(max(ranks, key=lambda parts: sum(parts.values())))
        return {part: sum(step[part] for step in slowest) / len(slowest) for part in slowest[0]}

    def _seconds(self, engine: str, flops: float, sent: Traffic) -> tuple[float, float]:
        device, facts, peak = self.device, ENGINES[engine], self._peak
        trained = self.network.trained / (shard_size(facts, self.cluster) if "optimizer" in facts.sharded else 1)
        optimizer = STEP_BYTES * trained / (MEMORY_EFFICIENCY * device.bandwidth)
        (slow, fast), (congested, free) = UTILISATION, LINKS
        transfer = self.transfer_seconds(engine, sent)
        best = max(flops / (peak * fast), transfer / free) + optimizer
        return best, flops / (peak * slow) + transfer / congested + optimizer

    def transfer_seconds(self, engine: str, sent: Traffic) -> float:
        """Of a step's traffic at the full bandwidth of the links: inside a node, or between nodes where it crosses."""
        network = self.cluster.network_gigabits * 1e9 / 8
        crosses = self.cluster.nodes > 1 and ENGINES[engine].group != "node"
        inside = sent.gathers + sent.reductions
        return inside / (network if crosses else self.device.link) + sent.replicas / network


def _peak(activations: Activations) -> float:
    return activations.peak


def best(forecasts: Sequence[Forecast]) -> Forecast:
    """The quickest step in the middle of its range; of equals the first."""
    return min(forecasts, key=lambda forecast: sum(forecast.seconds))
