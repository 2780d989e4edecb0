"""What a step of a run needs on a rank under each engine: memory against the device's, traffic, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.schema import Config
from pi05_train.trainer.devices import Device, device_named
from pi05_train.trainer.flops import total
from pi05_train.trainer.planning.activations import Activations, saved_for_backward, saved_with_checkpointing
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
"""Of the device's peak, while it computes: what is published for networks of this size on these devices without
activation checkpointing (eager to compiled)."""
LINKS = (0.5, 0.8)
"""Of the bandwidth of links."""
STEP_BYTES = 49
"""Read and written per parameter of a rank after the backward pass: AdamW 28, clipping, casts, average."""
MEMORY_EFFICIENCY = 0.85


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank."""

    state: State
    activations: Activations

    @property
    def allowance(self) -> float:
        return CONTEXT_GIB * GIB + FRAGMENTATION * (self.state.total + self.activations.peak)

    @property
    def total(self) -> float:
        return self.state.total + self.activations.peak + self.allowance


@dataclass(frozen=True)
class Work:
    """What the steps that are looked at ask of a rank, whatever the engine, with one size of micro-batches."""

    micro_batch: int | None
    """Samples; None: as the budgets of `data` divide."""
    micro_batches: int
    """Of a rank in a step, at most."""
    plain: Activations
    """Of the micro-batch that needs most."""
    checkpointed: Activations
    """The same with every block computed again in the backward pass."""
    flops: dict[str, float]
    """Of the slowest rank in a step, by part."""


@dataclass(frozen=True)
class Forecast:
    """One engine, one size of micro-batches."""

    engine: str
    work: Work
    memory: Memory
    checkpointed: Memory
    traffic: Traffic
    compute_seconds: float
    """Of a step's operations, at the better utilisation."""
    seconds: tuple[float, float]
    """Of a step: if all goes well, and if little does."""

    def fits(self, device: Device, *, checkpointing: bool = False) -> bool:
        memory = self.checkpointed if checkpointing else self.memory
        return memory.total <= device.memory_gib * GIB


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
        plain = (saved_for_backward(load, self.network, element=element) for load in steps.loads)
        checkpointed = (saved_with_checkpointing(load, self.network, element=element) for load in steps.loads)
        return Work(
            micro_batch=micro_batch,
            micro_batches=steps.micro_batches,
            plain=max(plain, key=lambda activations: activations.peak),
            checkpointed=max(checkpointed, key=lambda activations: activations.peak),
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
        flops = sum(work.flops.values())
        return Forecast(
            engine=engine,
            work=work,
            memory=Memory(kept, work.plain),
            checkpointed=Memory(kept, work.checkpointed),
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


def best(forecasts: Sequence[Forecast]) -> Forecast:
    """The quickest step in the middle of its range; of equals the first."""
    return min(forecasts, key=lambda forecast: sum(forecast.seconds))
