"""Seconds of a step: never less for less, and equal to a count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi05_train.config.cluster import ClusterConfig
from pi05_train.trainer.devices import DEVICES
from pi05_train.trainer.planning.engines import traffic
from pi05_train.trainer.planning.forecast import Forecaster
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
