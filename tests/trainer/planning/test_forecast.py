"""Seconds of a step: never less for less, and equal to a count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pi05_train.config.cluster import ClusterConfig
from pi05_train.trainer.devices import DEVICES
from pi05_train.trainer.planning.engines import traffic
from pi05_train.trainer.planning.forecast import GIB, Forecaster
from pi05_train.trainer.planning.lengths import Samples
from tests.trainer.planning.jobs import network
from tests.trainer.planning.test_lengths import samples

CLUSTER = ClusterConfig(4, 8, "h200", 400.0)


def forecaster(cluster: ClusterConfig = CLUSTER) -> Forecaster:
    return Forecaster(network().config, cluster, network(), [samples(256)])


@pytest.mark.parametrize("engine", forecaster().engines())
def test_the_worst_is_never_quicker_than_the_best_and_a_faster_network_never_slower(engine: str) -> None:
    slower, faster = (
        forecaster(cluster).forecast(engine, forecaster(cluster).work(8))
        for cluster in (CLUSTER, replace(CLUSTER, network_gigabits=800.0))
    )
    for forecast in (slower, faster):
        assert forecast.compute_seconds < forecast.seconds[0] < forecast.seconds[1]
    assert faster.seconds[0] <= slower.seconds[0]
    assert faster.seconds[1] < slower.seconds[1]


def test_transfers_by_hand() -> None:
    """Estimates for the full size: 72 ms in a node at the 370 GB/s that NVLink gives in practice; 0.6 s at 400 Gb/s
    where shards lie on several nodes; and what hsdp sends between nodes."""
    parameters = network().parameters
    one_node = replace(CLUSTER, nodes=1)
    inside, across, replicated = (
        forecaster(cluster).transfer_seconds(engine, traffic(engine, network(), cluster, micro_batches=1))
        for engine, cluster in (("fsdp2 reshard", one_node), ("fsdp2 reshard", CLUSTER), ("hsdp", CLUSTER))
    )
    assert inside == pytest.approx(0.072 * 370e9 / DEVICES["h200"].link, rel=0.15)
    assert across == pytest.approx(0.6, rel=0.15)
    between_nodes = replicated - (2 + 4) * parameters * 7 / 8 / DEVICES["h200"].link
    assert between_nodes == pytest.approx(2 * 4 * parameters / 8 * 3 / 4 / 50e9, rel=1e-9)


@pytest.mark.parametrize(
    ("stage", "samples_of_micro_batch", "blocks", "allocated", "in_use"),
    [
        ("posttrain", 12, "none", 110.5, 116.8),
        ("pretrain", 16, "none", 118.2, 124.5),
        ("posttrain", 16, "selective", 92.3, 99.9),
        ("posttrain", 32, "full", 70.9, 75.1),
        ("posttrain", 16, "compile", 108.6, 114.7),
        ("posttrain", 20, "compile", 121.5, 127.6),
    ],
)
def test_memory_is_what_an_h200_needed(
    stage: str, samples_of_micro_batch: int, blocks: str, allocated: float, in_use: float
) -> None:
    """GiB from benchmarks/results/gpu_step-2026-11-27.md, within a twentieth."""
    checkpointing, compile = ("none", "true") if blocks == "compile" else (blocks, "false")
    planned = network(
        f"experiment=pi05_{stage}", "engine=single", f"engine.compile={compile}",
        f"engine.activation_checkpointing={checkpointing}", "data.micro_batch_samples=64",
    )  # fmt: skip
    own = samples_of_micro_batch
    batch = Samples(
        np.full(own, 3), np.full(own, 968), np.full(own, 100), np.full(own, planned.config.stage.objective.expert)
    )
    one = Forecaster(
        replace(planned.config, data=replace(planned.config.data, global_batch_samples=own)),
        ClusterConfig(1, 1, "h200", 400.0),
        planned,
        [batch],
    )
    memory = one.forecast("single", one.work(own)).memory()
    assert memory.allocated / GIB == pytest.approx(allocated, rel=0.05)
    assert memory.total / GIB == pytest.approx(in_use, rel=0.05)
