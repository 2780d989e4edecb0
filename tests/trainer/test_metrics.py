"""What a row of metrics.jsonl says."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.order.schedule import Phase, Schedule
from pi05_train.engine.protocol import StepResult, Tally
from pi05_train.trainer.flops import training_flops
from pi05_train.trainer.metrics import Losses, Speed, memory_row, mixture_row
from tests.engine.tiny import TINY, tiny_batch

KINDS = {"arm": "ME", "web": "WD", "page": "WD"}
STEP = StepResult(
    loss=3.0,
    text={"arm": Tally(4.0, 2), "web": Tally(6.0, 1)},
    flow={"arm": Tally(1.0, 2)},
    samples={"arm": 2, "web": 1},
    tokens=100,
    backbone_norm=0.5,
    expert_norm=2.0,
)


def test_losses_are_means_over_segments_of_the_window_and_shares_over_the_run() -> None:
    losses = Losses()
    losses.add(STEP)
    losses.add(replace(STEP, loss=5.0, text={"web": Tally(2.0, 3)}, flow={}, samples={"web": 3}, expert_norm=None))
    assert losses.row(KINDS) == {
        "loss/total": 4.0,
        "loss/text": 12.0 / 6,
        "loss/text/arm": 2.0,
        "loss/text/web": 2.0,
        "loss/flow": 0.5,
        "loss/flow/arm": 0.5,
        "kind/text/ME": 2.0,
        "kind/text/WD": 2.0,
        "kind/flow/ME": 0.5,
        "gradient_norm/backbone": 0.5,
        "gradient_norm/expert": 2.0,
        "share/arm": 1 / 3,
        "share/web": 2 / 3,
        "samples": 6,
        "tokens": 200,
    }
    losses = losses.restart()
    losses.add(replace(STEP, text={}, flow={}, samples={"arm": 6}, expert_norm=None))
    row = losses.row(KINDS)
    assert row["loss/total"] == 3.0
    assert row["share/arm"] == 8 / 12
    assert row["samples"] == 12
    assert not {"loss/text", "loss/flow", "gradient_norm/expert"} & row.keys(), "what did not occur is absent"


def test_a_kind_is_the_mean_over_the_segments_of_all_its_sources() -> None:
    losses = Losses()
    losses.add(replace(STEP, text={"web": Tally(6.0, 1), "page": Tally(3.0, 2)}))
    assert losses.row(KINDS)["kind/text/WD"] == 9.0 / 3


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, st.integers(1, 9)), min_size=2, max_size=6), st.data())
def test_a_checkpoint_keeps_the_sums_to_the_bit(steps: list[tuple[float, float, int]], data: st.DataObject) -> None:
    results = [replace(STEP, loss=loss, text={"arm": Tally(text, n)}, samples={"arm": n}) for loss, text, n in steps]
    cut = data.draw(st.integers(1, len(results) - 1))
    whole, first = Losses(), Losses()
    for result in results:
        whole.add(result)
    for result in results[:cut]:
        first.add(result)
    resumed = Losses.from_state(json.loads(json.dumps(first.state())))
    for result in results[cut:]:
        resumed.add(result)
    assert resumed.row(KINDS) == whole.row(KINDS)
    assert resumed == whole


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_from_elapsed_time() -> None:
    clock, batch = Clock(), tiny_batch([0, 1, 2])
    speed = Speed(TINY, "NVIDIA H200", clock)
    for _ in range(2):
        with speed.waiting_for_data():
            clock.now += 1.0
        clock.now += 4.0
        speed.add([batch], STEP)
    flops = 2 * training_flops(batch, TINY) / 10.0
    assert speed.samples_per_second == pytest.approx(0.6)
    assert speed.row() == pytest.approx(
        {
            "speed/samples_per_second": 0.6,
            "speed/tokens_per_second": 20.0,
            "speed/data_wait": 0.2,
            "speed/device_tflops": flops / 1e12,
            "speed/mfu": flops / 989e12,
        }
    )
    clock.now += 2.0
    speed.add([batch], STEP)
    assert speed.row()["speed/samples_per_second"] == pytest.approx(1.5), "the next row starts anew"


def test_unknown_accelerator_gets_one_warning_and_no_mfu() -> None:
    clock = Clock()
    with pytest.warns(UserWarning, match="Mystery") as caught:
        speed = Speed(TINY, "Mystery 9000", clock)
    assert len(caught) == 1
    clock.now += 1.0
    assert "speed/mfu" not in speed.row()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "speed/mfu" not in Speed(TINY, "cpu", clock).row()


def test_what_was_asked_of_a_source_stands_beside_what_it_had() -> None:
    phases = [Phase("later", 2, {"arm": 1.0})]
    schedule = Schedule(0, ["arm", "web"], [10, 4], [3.0, 1.0], global_batch=8, phases=phases)
    assert mixture_row(schedule, 2) == {
        "share_requested/arm": 0.75,
        "share_requested/web": 0.25,
        "epochs/arm": 12 / 10,
        "epochs/web": 4 / 4,
    }
    row = mixture_row(schedule, 4)
    assert (row["share_requested/web"], row["epochs/web"]) == (0.125, 1.0)


def test_memory_is_that_of_this_process_and_a_cpu_has_no_device_peak() -> None:
    row = memory_row("cpu")
    assert row.keys() == {"memory/host_gigabytes"}
    # A process that has loaded torch holds at least tens of megabytes, and its machine not petabytes.
    assert 0.05 < row["memory/host_gigabytes"] < 1e6
