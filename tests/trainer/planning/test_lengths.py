"""How a step's batch is divided over ranks for a plan: whatever the division, it is the same work."""

from __future__ import annotations

import numpy as np
import pytest

from pi05_train.config.cluster import ClusterConfig
from pi05_train.trainer.flops import total
from pi05_train.trainer.planning.lengths import Samples, divided
from tests.trainer.planning.jobs import job

WORLDS = [ClusterConfig(1, 1, "h200", 400.0), ClusterConfig(2, 4, "h200", 400.0)]


def samples(number: int) -> Samples:
    rng = np.random.default_rng(number)
    images = rng.integers(0, 4, number)
    return Samples(
        images, images * 256 + rng.integers(1, 90, number), rng.integers(0, 70, number), rng.random(number) < 0.5
    )


@pytest.mark.parametrize("cluster", WORLDS, ids=str)
@pytest.mark.parametrize("micro_batch", [1, 3, 8, None], ids=str)
def test_every_division_is_the_same_work(cluster: ClusterConfig, micro_batch: int | None) -> None:
    config, _ = job("data.micro_batch_tokens=2000", "stage.objective.flow_draws=2")
    batch = samples(48)
    (step,) = divided(config, cluster, [batch], micro_batch).ranks
    assert len(step) == cluster.world_size
    assert total(load for rank in step for load in rank) == batch.load(slice(None), flow_draws=2)
    if micro_batch is None:
        assert max(load.rows for rank in step for load in rank) <= 2000
    else:
        assert {len(rank) for rank in step} == {-(-48 // cluster.world_size // micro_batch)}
