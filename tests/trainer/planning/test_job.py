"""Whole plans: what is suggested holds, and what cannot be is refused in a sentence."""

from __future__ import annotations

import re

import pytest

from pi05_train.errors import UserError
from pi05_train.trainer.devices import DEVICES
from pi05_train.trainer.planning.job import JobPlan, plan_job
from tests.trainer.planning.jobs import job


def planned(*overrides: str, engine: str | None = None) -> JobPlan:
    return plan_job(*job(*overrides), engine)


@pytest.mark.parametrize("cluster", ["cluster.nodes=4", "cluster.devices_per_node=1"])
def test_the_suggestion_fits_and_the_next_larger_micro_batch_would_not(cluster: str) -> None:
    overrides = ("data.global_batch_samples=2048", cluster)
    suggested = planned(*overrides).suggested
    assert suggested is not None
    assert suggested.work.micro_batch is not None
    at_suggested, larger = (
        next(fit for fit in planned(*overrides, size).engines if fit.forecast.engine == suggested.engine)
        for size in (f"data.micro_batch_samples={factor * suggested.work.micro_batch}" for factor in (1, 2))
    )
    assert at_suggested.forecast == suggested
    assert (at_suggested.fits, at_suggested.most) == (True, suggested.work.micro_batch)
    assert not larger.fits


def test_operations_do_not_depend_on_how_many_devices_share_them() -> None:
    """What all ranks compute: the slowest one, times their number, is the batch and its imbalance."""
    one = planned("cluster.devices_per_node=1")
    eight = planned("cluster.nodes=1")
    whole, shared = (sum(plan.shown.work.flops.values()) * plan.cluster.world_size for plan in (one, eight))
    assert whole <= shared <= 1.3 * whole


def test_disk_is_that_of_the_checkpoints_kept_and_the_one_being_written() -> None:
    plan = planned("run.steps=5000", "schedule.decay_steps=5000", "checkpoint.every_steps=2000")
    assert plan.checkpoint_bytes == 16 * plan.network.parameters
    assert plan.disk_bytes == 3 * plan.checkpoint_bytes  # after 2000, 4000 and 5000 steps; three and one may be kept
    some = planned("run.steps=9000", "checkpoint.every_steps=1000", "checkpoint.keep_every_steps=3000")
    assert some.config.checkpoint.keep_last == 3
    assert some.disk_bytes == 7 * some.checkpoint_bytes


def test_samples_over_the_run_are_all_of_it() -> None:
    plan = planned()
    assert sum(source.samples for source in plan.sources) == 80_000 * 256
    assert all(source.epochs is None and not source.counted for source in plan.sources)  # no shards, no rows declared


REFUSALS = [
    (("cluster.device=b300",), None, f"cluster.device: got 'b300', expected one of {', '.join(DEVICES)};"),
    (("cluster.nodes=0",), None, "cluster.nodes: got 0, expected at least 1; raise it."),
    (("cluster.network_gigabits=0",), None, "cluster.network_gigabits: got 0.0, expected a positive number;"),
    (("cluster.node=2",), None, "cluster.node: got an unknown key, expected one of"),
    (
        ("cluster.nodes=3",),
        None,
        "data.global_batch_samples: got 256 over 24 ranks (3 nodes of 8), expected a multiple of the number of ranks; "
        "set it to 240 or 264, or change the number of nodes.",
    ),
    (
        ("cluster.nodes=64",),
        None,
        "data.global_batch_samples: got 256 over 512 ranks (64 nodes of 8), expected a multiple of the number of "
        "ranks; set it to 512, or change the number of nodes.",
    ),
    ((), "fsdp", "--engine: got 'fsdp', expected one of single, ddp, hsdp, hsdp reshard, fsdp2,"),
    ((), "single", "--engine: got single on 8 devices, expected one device;"),
    ((), "hsdp", "--engine: got hsdp on 1 nodes of 8 devices, expected one of ddp, fsdp2,"),
    (
        ("cluster.devices_per_node=1", "cluster.device=a100_40gb"),
        None,
        "memory of a100_40gb: got 39 GiB, expected at least 74",
    ),
    (("cluster.device=a100_40gb",), "ddp", "which the job takes even with engine ddp, one sample per micro-batch"),
    (("data.micro_batch_tokens=500",), None, "data.micro_batch_tokens: got 500, expected at least 1114, which a"),
]


@pytest.mark.parametrize(("overrides", "engine", "sentence"), REFUSALS, ids=[r[2][:40] for r in REFUSALS])
def test_what_cannot_be_is_refused(overrides: tuple[str, ...], engine: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        planned(*overrides, engine=engine)


def test_budgets_of_tokens_are_kept() -> None:
    plan = planned("data.micro_batch_tokens=8000", "cluster.nodes=1")
    assert plan.shown.work.micro_batch is None
    assert plan.shown.work.micro_batches == pytest.approx(32 * 850 / 8000, abs=1.1)
