"""The devices a run is planned for. A run itself finds its devices where it is started."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError


@dataclass(frozen=True)
class ClusterConfig:
    """Nodes that are alike."""

    nodes: int
    devices_per_node: int
    device: str
    """A name in `DEVICES` (trainer/devices.py)."""
    network_gigabits: float
    """Between nodes, per device and direction, per second."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.devices_per_node


def check_cluster(cluster: ClusterConfig) -> None:
    """Refuse a cluster that cannot be."""
    for key in ("nodes", "devices_per_node"):
        if getattr(cluster, key) < 1:
            raise UserError(f"cluster.{key}", got=getattr(cluster, key), expected="at least 1", do="raise it")
    if not cluster.network_gigabits > 0:
        raise UserError(
            "cluster.network_gigabits", got=cluster.network_gigabits, expected="a positive number", do="correct it"
        )
