"""What every engine keeps on a rank and sends in a step: one table, and the formulas that read it.

Letters: P parameters, T those that train, N ranks, S ranks of a shard group, m micro-batches of a rank in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.config.cluster import ClusterConfig
from pi05_train.trainer.planning.network import Network

_FP32 = 4
_BUCKET_PARAMETERS = 500_000_000
"""DeepSpeed's default size of a bucket, of which it fills one for gradients and one for parameters."""


@dataclass(frozen=True)
class EngineFacts:
    """How an engine divides what a training step needs."""

    sharded: frozenset[str]
    """Which of weights, gradients, optimizer and average (all fp32) are divided over the shard group."""
    group: str
    """The shard group: "" (there is none), "world", or "node", which its replicas all-reduce between."""
    copy: str
    """Weights in compute precision: "whole" on every rank, gathered by "block" for as long as it computes, or
    "divided" and gathered by block."""
    buckets: bool = False
    """Gradients lie in buffers that stay from step to step."""
    deepspeed: bool = False
    """Masters belong to the optimizer, gradients are reduced in every micro-batch, through buckets."""
    note: str = ""


_ALL = frozenset({"weights", "gradients", "optimizer", "average"})
_STATE = frozenset({"weights", "optimizer", "average"})

ENGINES = {
    "single": EngineFacts(frozenset(), "", "whole", note="one process, one device"),
    "ddp": EngineFacts(frozenset(), "", "whole", buckets=True, note="everything on every rank"),
    "hsdp": EngineFacts(_ALL, "node", "whole", note="sharded in a node, replicas over nodes"),
    "hsdp reshard": EngineFacts(_ALL, "node", "block", note="the same, gathered by block"),
    "fsdp2": EngineFacts(_ALL, "world", "whole", note="sharded over all ranks"),
    "fsdp2 reshard": EngineFacts(_ALL, "world", "block", note="the same, gathered by block"),
    "zero1": EngineFacts(_STATE, "world", "whole", buckets=True, deepspeed=True, note="optimizer sharded"),
    "zero2": EngineFacts(_ALL, "world", "whole", buckets=True, deepspeed=True, note="optimizer and gradients sharded"),
    "zero3": EngineFacts(_ALL, "world", "divided", buckets=True, deepspeed=True, note="all sharded, gathered by block"),
}
"""In the order of preference among equals. "reshard": weights are freed after a block's forward pass."""


@dataclass(frozen=True)
class State:
    """Bytes on a rank before anything is computed."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    working_copy: float
    buffers: float
    """Of collectives on their way."""
    gradients_before: float
    """Of the gradients, those that are there when the last backward pass is past the head."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.average + self.working_copy + self.buffers


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends in a step."""

    gathers: float
    """Of weights, inside the shard group."""
    reductions: float
    """Of gradients, inside the shard group."""
    replicas: float = 0.0
    """Of gradients, between replicas on different nodes."""

    @property
    def total(self) -> float:
        return self.gathers + self.reductions + self.replicas


def usable(name: str, cluster: ClusterConfig) -> bool:
    """Whether the engine has anything to do there: one device needs `single`, several need the others; hsdp needs
    several nodes of several devices."""
    facts = ENGINES[name]
    if cluster.world_size == 1:
        return name == "single"
    if facts.group == "node":
        return cluster.nodes > 1 and cluster.devices_per_node > 1
    return name != "single"


def shard_size(facts: EngineFacts, cluster: ClusterConfig) -> int:
    """Ranks over which sharded state is divided."""
    return {"": 1, "node": cluster.devices_per_node, "world": cluster.world_size}[facts.group]


def state(name: str, network: Network, cluster: ClusterConfig, *, micro_batches: int) -> State:
    """What a rank keeps.

    Gradients of several micro-batches are summed unsharded where that saves communication (FSDP2).
    """
    facts, size = ENGINES[name], shard_size(ENGINES[name], cluster)
    element, parameters, trained = compute_bytes(network), network.parameters, network.trained

    def part(of: str, amount: int) -> float:
        return amount / size if of in facts.sharded else amount

    gradients = part("gradients", _FP32 * trained)
    if facts.group and not facts.deepspeed and micro_batches > 1:
        gradients += _FP32 * trained
    head = _FP32 * network.parts["embedding"].trained * network.backbone_backward
    average = 0.0 if network.config.optimizer.ema_decay is None else part("average", _FP32 * trained)
    return State(
        weights=part("weights", _FP32 * parameters),
        gradients=gradients,
        optimizer=part("optimizer", 2 * _FP32 * trained),
        average=average,
        working_copy=_working_copy(facts, network, size, element),
        buffers=_buffers(facts, network, element),
        gradients_before=gradients if facts.buckets or micro_batches > 1 else part("gradients", head),
    )


def traffic(name: str, network: Network, cluster: ClusterConfig, *, micro_batches: int) -> Traffic:
    """What a rank sends in a step, with ring algorithms."""
    facts, size = ENGINES[name], shard_size(ENGINES[name], cluster)
    weights, gradients = compute_bytes(network) * network.parameters, _FP32 * network.trained
    if name == "single":
        return Traffic(0.0, 0.0)
    if not facts.group:
        return Traffic(0.0, 2 * gradients * _ring(cluster.world_size))
    gathered = 2 * micro_batches if facts.copy != "whole" else 1
    reduced = micro_batches if facts.deepspeed and "gradients" in facts.sharded else 1
    replicas = 2 * gradients / size * _ring(cluster.world_size // size)
    return Traffic(gathered * weights * _ring(size), reduced * gradients * _ring(size), replicas)


def compute_bytes(network: Network) -> int:
    """Of a number in compute precision."""
    return 2 if network.config.engine.precision == "bf16" else _FP32


def _ring(ranks: int) -> float:
    """Share of the data that a rank sends to reduce-scatter or to all-gather it."""
    return (ranks - 1) / ranks


def _working_copy(facts: EngineFacts, network: Network, size: int, element: int) -> float:
    """Weights in compute precision beside the masters; without sharding fp32 computes with the masters themselves."""
    if facts.copy == "whole":
        return 0.0 if element == _FP32 and not facts.group else element * network.parameters
    gathered = element * (network.outside_blocks + max(network.blocks))
    return gathered + (element * network.parameters / size if facts.copy == "divided" else 0.0)


def _buffers(facts: EngineFacts, network: Network, element: int) -> float:
    """DeepSpeed's two buckets; FSDP's next block on its way in and the last one's gradients on their way out."""
    if facts.deepspeed:
        return 2 * element * min(_BUCKET_PARAMETERS, network.parameters)
    return (2 * element + _FP32) * max(network.blocks) if facts.group else 0.0
