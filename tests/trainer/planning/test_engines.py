"""State and traffic of every engine against formulas by hand and against a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from pi05_train.config.cluster import ClusterConfig
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.trainer.planning.engines import ENGINES, State, state, traffic, usable
from tests.trainer.planning.jobs import job, network

GIB = 2**30
PARAMETERS = 3_353_433_872


def cluster(nodes: int, devices: int) -> ClusterConfig:
    return ClusterConfig(nodes, devices, "h200", 400.0)


def full_size(engine: str, nodes: int, devices: int, micro_batches: int = 1) -> State:
    return state(engine, network(), cluster(nodes, devices), micro_batches=micro_batches)


def test_memory_agrees_with_the_table_counted_by_hand() -> None:
    """GiB of the full size with fp32 masters on one device, and on each of eight that share."""
    one, eight, reshard = full_size("single", 1, 1), full_size("fsdp2", 1, 8), full_size("fsdp2 reshard", 1, 8)
    for kept, masters, average in ((one, 50.0, 12.5), (eight, 6.2, 1.6), (reshard, 6.2, 1.6)):
        assert (kept.weights + kept.gradients + kept.optimizer) / GIB == pytest.approx(masters, rel=0.1)
        assert kept.average / GIB == pytest.approx(average, rel=0.1)
    assert one.working_copy / GIB == pytest.approx(6.2, rel=0.1)
    assert eight.working_copy / GIB == pytest.approx(6.2, rel=0.1)
    assert reshard.working_copy / GIB == pytest.approx(1.2, rel=0.1)
    zero2 = full_size("zero2", 1, 8)
    assert (zero2.total - zero2.average) / GIB == pytest.approx(14, rel=0.1)
    whole = state("zero2", network(), cluster(1, 1), micro_batches=1)
    assert (whole.total - whole.average - whole.buffers) / GIB == pytest.approx(56.2, rel=0.1)


@pytest.mark.parametrize("adaptation", ["none", "openpi_lora"])
def test_a_real_engine_keeps_what_is_forecast(adaptation: str) -> None:
    overrides = ("experiment=demo_posttrain", f"adaptation={adaptation}", "engine.device=cpu")
    config, _ = job(*overrides)
    model = Pi05(config.model, expert=True)
    adapt(model, config.adaptation)
    engine = PyTorchEngine(model, config.stage.objective, config.optimizer, config.engine, ALONE)
    kept, frozen = engine.state(), [p for p in model.parameters() if not p.requires_grad]
    forecast = state("single", network(*overrides), cluster(1, 1), micro_batches=1)
    steps = 4 * len(kept["optimizer"]["step"])
    assert size(kept["model"]) == forecast.weights
    assert size(kept["optimizer"]) - steps == forecast.optimizer
    assert size(kept["ema"]) - sum(p.nbytes for p in frozen) == forecast.average
    assert forecast.gradients == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert forecast.working_copy == 0  # fp32 computes with the masters


def size(tree: Any) -> int:
    return tree.nbytes if isinstance(tree, Tensor) else sum(size(child) for child in tree.values())


def test_traffic_by_hand() -> None:
    """The full size on four nodes of eight, two micro-batches a step; bf16 gathers, fp32 gradients."""
    found = {
        name: traffic(name, network(), cluster(4, 8), micro_batches=2).total / PARAMETERS
        for name in ENGINES
        if usable(name, cluster(4, 8))
    }
    by_hand = {
        "ddp": 2 * 4 * 31 / 32,
        "hsdp": (2 + 4) * 7 / 8 + 2 * 4 / 8 * 3 / 4,
        "hsdp reshard": (2 * 2 * 2 + 4) * 7 / 8 + 2 * 4 / 8 * 3 / 4,
        "fsdp2": (2 + 4) * 31 / 32,
        "fsdp2 reshard": (2 * 2 * 2 + 4) * 31 / 32,
        "zero1": (2 + 4) * 31 / 32,
        "zero2": (2 + 2 * 4) * 31 / 32,
        "zero3": (2 * 2 * 2 + 2 * 4) * 31 / 32,
    }
    assert found == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in ("single", "ddp")])
def test_more_ranks_never_keep_more(engine: str) -> None:
    totals = [full_size(engine, nodes, 8, micro_batches=2).total for nodes in (2, 4, 8)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] < full_size("ddp", 2, 8, micro_batches=2).total


@pytest.mark.parametrize(
    ("nodes", "devices", "engines"),
    [
        (1, 1, {"single"}),
        (1, 8, set(ENGINES) - {"single", "hsdp", "hsdp reshard"}),
        (8, 1, set(ENGINES) - {"single", "hsdp", "hsdp reshard"}),
        (2, 8, set(ENGINES) - {"single"}),
    ],
)
def test_engines_stand_where_they_have_something_to_do(nodes: int, devices: int, engines: set[str]) -> None:
    assert {name for name in ENGINES if usable(name, cluster(nodes, devices))} == engines
