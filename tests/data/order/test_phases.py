from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.order.phases import PhasePlan, plan_phases
from pi05_train.data.order.schedule import Draw, Schedule
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import (
    GroupEntry,
    MixtureConfig,
    PhaseEntry,
    PowerWeight,
    SourceEntry,
    check_mixture,
)

ROWS = {"arm": 500, "web": 70, "words": 230}
BATCH = 32


def mixture(phases: dict[str, PhaseEntry] | None = None, **changes: dict[str, object]) -> MixtureConfig:
    """Three sources at 0.7, 0.2 and 0.1; `changes` are by source."""
    sources = {}
    for name, kind, weight in (("arm", "ME", 0.7), ("web", "WD", 0.2), ("words", "HL", 0.1)):
        card = SourceCard(name=name, kind=kind, shards=name)
        sources[name] = replace(SourceEntry(card, weight), **changes.get(name, {}))
    return MixtureConfig("toy", sources, phases=phases or {})


def plan(config: MixtureConfig, steps: int = 1000, batch: int = BATCH, group: int = 1) -> PhasePlan:
    check_mixture(config)
    rows = {name: ROWS[name] for name, entry in config.sources.items() if entry.enabled}
    return plan_phases(config, rows, global_batch=batch, steps=steps, read_group=group)


def schedule(planned: PhasePlan, batch: int = BATCH, group: int = 1) -> Schedule:
    first = [planned.phases[0].share(name) for name in ROWS]
    return Schedule(
        0,
        list(ROWS),
        list(ROWS.values()),
        first,
        batch,
        read_group=group,
        phases=planned.phases[1:],
        end_step=planned.end_step,
    )


def drawn(schedule: Schedule, steps: int) -> dict[str, list[Draw]]:
    """Draws of each source in their order."""
    every = [draw for step in range(steps) for draw in schedule.draws(step)]
    return {name: sorted((d for d in every if d.source == name), key=lambda d: d.draw) for name in ROWS}


def test_without_phases_there_is_one_and_its_weights_are_the_configurations() -> None:
    planned = plan(mixture())
    assert [(phase.from_step, dict(phase.weights)) for phase in planned.phases] == [
        (0, {"arm": 0.7, "web": 0.2, "words": 0.1})
    ]
    assert planned.end_step is None


def test_a_phase_changes_what_it_names_and_leaves_the_rest() -> None:
    later = PhaseEntry(30, weights={"web": 0.0}, groups={"HL": GroupEntry(share=0.5)})
    planned = plan(mixture({"last": PhaseEntry(60, weights={"web": 0.7}), "middle": later}))
    assert [(phase.name, phase.from_step) for phase in planned.phases] == [("", 0), ("middle", 30), ("last", 60)]
    assert dict(planned.phases[1].weights) == pytest.approx({"arm": 0.5, "words": 0.5})
    assert dict(planned.phases[2].weights) == pytest.approx({"arm": 0.25, "web": 0.25, "words": 0.5})


def test_a_source_may_begin_later() -> None:
    phases = {"early": PhaseEntry(0, weights={"words": 0.0}), "late": PhaseEntry(5, weights={"words": 0.5})}
    planned = plan(mixture(phases))
    assert [phase.name for phase in planned.phases] == ["early", "late"]
    found = schedule(planned)
    assert found.counts(5)["words"] == 0
    assert found.counts(6)["words"] > 0
    assert schedule(plan(mixture(phases), steps=1)).draws(0) == found.draws(0)


def test_realised_shares_follow_each_phase_and_the_order_inside_a_source_goes_on() -> None:
    phases = {"second": PhaseEntry(41, weights={"arm": 0.2}), "third": PhaseEntry(77, weights={"web": 0.0})}
    planned = plan(mixture(phases))
    found, plain = schedule(planned), schedule(plan(mixture()))
    ends = [phase.from_step for phase in planned.phases[1:]] + [120]
    for phase, end in zip(planned.phases, ends, strict=True):
        before, after = found.counts(phase.from_step), found.counts(end)
        draws = (end - phase.from_step) * BATCH
        for name in ROWS:
            assert abs(after[name] - before[name] - draws * phase.share(name)) <= 3
    requested = found.requested(120)
    with_phases, without = drawn(found, 120), drawn(plain, 120)
    for name in ROWS:
        assert abs(len(with_phases[name]) - requested[name] * 120 * BATCH) <= 9
        assert [draw.draw for draw in with_phases[name]] == list(range(len(with_phases[name])))
        common = min(len(with_phases[name]), len(without[name]))
        assert with_phases[name][:common] == without[name][:common]


def test_the_batch_of_a_step_does_not_depend_on_which_steps_came_before_or_come_after() -> None:
    phases = {"second": PhaseEntry(41, weights={"arm": 0.2})}
    config = mixture(phases, web={"on_exhaust": "drop", "max_epochs": 5.5})
    planned = plan(config)
    warm = schedule(planned)
    batches = [warm.draws(step) for step in range(100)]
    for step in (99, 0, 41, 40, 42):
        assert schedule(planned).draws(step) == batches[step]
        shorter = schedule(plan(config, steps=step + 1))
        assert shorter.draws(step) == batches[step]


@pytest.mark.parametrize("epochs", [None, 1.5, 3.0])
def test_a_dropped_source_is_seen_as_often_as_allowed_and_the_others_share_its_part(epochs: float | None) -> None:
    planned = plan(mixture(web={"on_exhaust": "drop", "max_epochs": epochs}))
    assert [phase.name for phase in planned.phases] == ["", "without web"]
    assert dict(planned.phases[1].weights) == {"arm": 0.7, "words": 0.1}
    found = schedule(planned)
    allowed = int((epochs or 1) * ROWS["web"])
    seen = found.counts(1000)["web"]
    assert allowed - 0.2 * BATCH - 1 <= seen <= allowed
    assert len(found.draws(planned.phases[1].from_step)) == BATCH
    rows = Counter(draw.row for draw in drawn(found, 100)["web"])
    assert max(rows.values()) <= -(-allowed // ROWS["web"])


def test_exhaustion_after_exhaustion_ends_the_run() -> None:
    each = {"on_exhaust": "drop", "max_epochs": 2}
    planned = plan(mixture(arm=each, web=each, words=each))
    assert [phase.name for phase in planned.phases] == ["", "without web", "without arm"]
    assert planned.end_step is not None
    assert planned.end_reason == "all sources are exhausted"
    found = schedule(planned)
    for name, epochs in found.epochs(planned.end_step).items():
        assert 2 - BATCH / ROWS[name] <= epochs <= 2
    with pytest.raises(UserError, match=rf"step {planned.end_step}.*on_exhaust"):
        found.draws(planned.end_step)


def test_a_source_that_stops_the_run_names_itself() -> None:
    planned = plan(mixture(words={"on_exhaust": "stop"}, web={"on_exhaust": "drop", "max_epochs": 2}))
    assert (planned.phases[-1].name, planned.end_reason) == ("without web", "source words is exhausted")
    assert plan(mixture(words={"on_exhaust": "stop"}), steps=10).end_step is None


def test_powers_and_groups_are_resolved_again_when_a_source_leaves() -> None:
    config = mixture(
        arm={"weight": PowerWeight(0.43)},
        web={"weight": PowerWeight(0.43), "on_exhaust": "drop"},
        words={"weight": 1.0},
    )
    config = replace(config, groups={"HL": GroupEntry(share=0.25)})
    planned = plan(config)
    assert planned.phases[0].weights["arm"] / planned.phases[0].weights["web"] == pytest.approx((500 / 70) ** 0.43)
    assert dict(planned.phases[1].weights) == pytest.approx({"arm": 0.75, "words": 0.25})


@settings(max_examples=60, deadline=None)
@given(
    weights=st.tuples(*[st.floats(1e-3, 1)] * 3),
    epochs=st.tuples(*[st.none() | st.floats(1.5, 9)] * 3),
    most_samples=st.integers(1, 64),
    group=st.just(1) | st.integers(2, 9),
)
def test_no_source_is_ever_overdrawn_nor_left_early(
    weights: tuple[float, ...], epochs: tuple[float | None, ...], most_samples: int, group: int
) -> None:
    batch = max(1, most_samples // group) * group
    changes = {
        name: {"weight": weight} | ({} if most is None else {"max_epochs": most, "on_exhaust": "drop"})
        for name, weight, most in zip(ROWS, weights, epochs, strict=True)
    }
    planned = plan(mixture(**changes), batch=batch, steps=3000, group=group)
    found = schedule(planned, batch=batch, group=group)
    end = planned.end_step or 3000
    for name, most in zip(ROWS, epochs, strict=True):
        last = max(i for i, phase in enumerate(planned.phases) if phase.share(name))
        if most is not None:
            assert found.counts(end)[name] <= most * ROWS[name]
            if last + 1 < len(planned.phases) or planned.end_step:
                assert found.counts(end)[name] > int(most * ROWS[name]) - batch - (group - 1)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (mixture({"a": PhaseEntry(5), "b": PhaseEntry(5)}), r"phases\.b\.from_step: got 5"),
        (mixture({"a": PhaseEntry(-1)}), r"phases\.a\.from_step: got -1"),
        (mixture({"a": PhaseEntry(5, weights={"wib": 1.0})}), r"phases\.a\.weights: got 'wib'"),
        (mixture({"a": PhaseEntry(5, weights={"web": -1.0})}), r"phases\.a\.weights\.web: got -1\.0"),
        (mixture({"a": PhaseEntry(5, weights=dict.fromkeys(ROWS, 0.0))}), "phase a: got no source with a weight"),
        (mixture(web={"max_epochs": 2.0}), r"sources\.web\.max_epochs: got 2\.0 with on_exhaust repeat"),
        (mixture(web={"max_epochs": -2.0, "on_exhaust": "drop"}), r"sources\.web\.max_epochs: got -2\.0"),
        (mixture(web={"on_exhaust": "explode"}), r"sources\.web\.on_exhaust: got 'explode'"),
        (mixture(web={"on_exhaust": "drop", "max_epochs": 0.01}), "source web, max_epochs: got 0 draws"),
        (replace(mixture(), weight_unit="tokens"), "weight_unit: got 'tokens', expected examples"),
        (replace(mixture(), groups={"XX": GroupEntry(share=0.1)}), r"groups\.XX: got 'XX'"),
        (replace(mixture(), groups={"WD": GroupEntry(share=1.5)}), r"groups\.WD\.share: got 1\.5"),
        (replace(mixture(), groups={"WD": GroupEntry(share=0.5, weight=1.0)}), "a share and a weight"),
        (replace(mixture(), groups={"WD": GroupEntry(of=["WD", "HL"])}), r"groups\.WD\.share: got nothing"),
        (replace(mixture(), groups={"WD": GroupEntry(share=0.5, of=["HL"])}), r"groups\.WD\.of: .*WD itself"),
        (
            replace(mixture(), groups={"WD": GroupEntry(0.5, ["WD", "HL"]), "HL": GroupEntry(0.5, ["ME", "HL"])}),
            r"groups\.WD\.of: got HL, itself a fraction",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(config: MixtureConfig, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        plan(config)
    assert "\n" not in str(refused.value)
