from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.policy import Chunk, Policy
from pi05_train.samples.schema import Sample
from tests.policy.toy_policy import toy_policy, toy_processor, toy_samples

COMMAND = replace(toy_samples("toy_mobile")[0], task="tidy the room", subtask="what the simulator knows")


class Listener:
    """A policy that says numbered subtasks and notes what it was asked."""

    def __init__(self, said: str = "Bounding boxes:\n<loc0000><loc0000><loc1023><loc1023>cup\nSubtask: do {}") -> None:
        self.processor = toy_processor()
        self.said, self.thoughts, self.done = said, list[list[Sample]](), list[Sample]()
        self.left = list[Remainder | None]()

    def text(self, samples: Sequence[Sample], max_tokens: int) -> list[str]:
        assert max_tokens > 0
        self.thoughts.append(list(samples))
        return [self.said.format(len(self.thoughts)) for _ in samples]

    def actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[Chunk]:
        self.done += samples
        self.left += remainders
        return [np.full((1, 1), seed, dtype=np.float32) for seed in seeds]


def hierarchy(listener: Listener, mode: str = "hierarchical", **options: float) -> Hierarchy:
    return Hierarchy(cast(Policy, listener), mode, high_level_source="toy_subtasks", **options)


def live(levels: Hierarchy, turns: list[tuple[float, str, str]]) -> list[str]:
    """Subtasks acted on by one robot at times, with commands and corrections."""
    state, subtasks = RobotState(), []
    for time_s, command, correction in turns:
        ((_, state),) = levels.act([Turn(replace(COMMAND, task=command), state, time_s, 0, correction)])
        subtasks.append(state.subtask)
    return subtasks


def test_the_subtask_lives_for_its_period_and_a_new_command_ends_it() -> None:
    turns = [(0.0, "a", ""), (0.5, "a", ""), (0.9, "a", ""), (1.0, "a", ""), (1.2, "b", ""), (2.1, "b", "")]
    assert live(hierarchy(Listener()), turns) == ["do 1", "do 1", "do 1", "do 2", "do 3", "do 3"]


def test_a_correction_replaces_the_subtask_at_once_and_holds() -> None:
    turns = [(0.0, "a", ""), (0.2, "a", "put it on the rack"), (1.5, "a", ""), (5.1, "a", ""), (5.2, "b", "")]
    rack = "put it on the rack"
    assert live(hierarchy(Listener(), correction_s=4.0), turns) == ["do 1", rack, rack, "do 2", "do 3"]
    assert live(hierarchy(Listener(), "flat", correction_s=4.0), turns) == ["", rack, rack, "", ""]
    ended = [(0.0, "a", rack), (0.1, "b", "")]
    assert live(hierarchy(Listener()), ended) == [rack, "do 1"]


def test_actions_are_asked_for_with_the_subtask_and_thoughts_with_the_command() -> None:
    listener = Listener()
    rest = Remainder(np.zeros((2, 1), np.float32), 1)
    ((chunk, state),) = hierarchy(listener).act([Turn(COMMAND, RobotState(), 0.0, 7, remainder=rest)])
    (((question,),), (action,)) = listener.thoughts, listener.done
    assert (question.kind, question.source, question.task, question.subtask) == (
        "HL", "toy_subtasks", "tidy the room", "",
    )  # fmt: skip
    assert question.images == COMMAND.images
    assert (action.kind, action.source, action.subtask) == ("MM", "toy_mobile", "do 1")
    assert chunk[0, 0] == 7
    assert listener.left == [rest]
    assert [box.label for box in state.boxes] == ["cup"]
    assert state.answer.endswith("Subtask: do 1")


def test_flat_and_oracle_never_ask() -> None:
    for mode, subtask in (("flat", ""), ("oracle", "what the simulator knows")):
        listener = Listener()
        hierarchy(listener, mode).act([Turn(COMMAND, RobotState(), 0.0, 0)])
        assert not listener.thoughts
        assert [sample.subtask for sample in listener.done] == [subtask]


def test_an_answer_without_a_subtask_changes_nothing_but_is_kept_to_be_read() -> None:
    listener = Listener()
    levels = hierarchy(listener)
    ((_, state),) = levels.act([Turn(COMMAND, RobotState(), 0.0, 0)])
    listener.said = "Subtask: "
    ((_, state),) = levels.act([Turn(COMMAND, state, 1.0, 0)])
    assert (state.subtask, state.answer, state.chosen_at_s) == ("do 1", "Subtask: ", 1.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.sampled_from(["", "", "no"])), max_size=8))
def test_robots_do_not_notice_each_other(script: list[tuple[int, str, str]]) -> None:
    """A robot that comes in late and says nothing sees the same subtasks alone and beside another."""
    mine = [(0.6 * i, "a", "") for i in range(len(script))]
    levels = hierarchy(Listener("Subtask: constant"))
    alone = live(levels, mine)
    states, together = [RobotState(), RobotState()], []
    clock = 0
    for (time_s, command, _), (passed, other, said) in zip(mine, script, strict=True):
        clock += passed
        turns = [
            Turn(replace(COMMAND, task=command), states[0], time_s, 0),
            Turn(replace(COMMAND, task=other), states[1], float(clock), 1, said),
        ]
        states = [state for _, state in levels.act(turns)]
        together.append(states[0].subtask)
    assert together == alone


def test_a_real_network_goes_through_both_levels() -> None:
    levels = Hierarchy(toy_policy(), "hierarchical", high_level_source="toy_subtasks", max_text_tokens=5)
    turns = [
        Turn(replace(s, task="tidy the room"), RobotState(), 0.0, i) for i, s in enumerate(toy_samples("toy_arm")[:2])
    ]
    for chunk, state in levels.act(turns):
        assert np.isfinite(chunk).all()
        assert state.command == "tidy the room"
        assert state.chosen_at_s == 0.0


@pytest.mark.parametrize(("mode", "source"), [("deep", None), ("flat", "toy_mobile"), ("flat", "nobody")])
def test_unknown_modes_and_sources_are_refused(mode: str, source: str | None) -> None:
    with pytest.raises(UserError, match=r"expected .*one of"):
        Hierarchy(toy_policy(), mode, high_level_source=source)
