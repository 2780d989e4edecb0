"""First say what to do, then do it: subtasks from the high level at its own rate, actions on the latest subtask.

Nothing is remembered here: what the high level knows of a robot is a `RobotState` that its owner passes in and gets
back. Source: pi0.5 paper section IV-B (two inferences of one network); Hi Robot asks about once a second and on every
new command; a person's words replace what the network would do (paper, figure 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.processing.sequence import parse_high_level
from pi05_train.samples.schema import Box, Sample

if TYPE_CHECKING:  # a server imports turns and states without torch
    from pi05_train.policy.policy import Chunk, Policy

MODES = ("hierarchical", "flat", "oracle")
"""hierarchical: the network names the subtask. flat: it acts on the command alone ("implicit HL"). oracle: it acts on
the subtask of the sample, which somebody knows."""


@dataclass(frozen=True)
class RobotState:
    """What the high level knows of one robot; the default for a new robot or episode."""

    command: str = ""
    subtask: str = ""
    """What is being done; "": the command itself."""
    boxes: tuple[Box, ...] = ()
    """What the network pointed at when it chose the subtask."""
    answer: str = ""
    """The network's last words, as written; "" if a person chose the subtask."""
    chosen_at_s: float = -math.inf
    corrected: bool = False
    """Whether a person chose the subtask."""


@dataclass(frozen=True)
class Turn:
    """One robot asks for a chunk."""

    sample: Sample
    """Of a kind with actions, as observed now, with all cameras; `task` is the command."""
    state: RobotState
    time_s: float
    """On a clock of the robot's own that only runs forward; steps / rate in simulation."""
    seed: int
    correction: str = ""
    """What a person says to do now instead."""
    remainder: Remainder | None = None
    """What is left of the chunk in execution, for one that goes on with it; None: a chunk of its own."""


class Hierarchy:
    """The two levels of one policy, for any number of robots at once."""

    def __init__(
        self,
        policy: Policy,
        mode: str,
        *,
        high_level_source: str | None = None,
        period_s: float = 1.0,
        correction_s: float = 10.0,
        max_text_tokens: int = 64,
    ) -> None:
        """Subtasks live `period_s`, a person's `correction_s`; a new command ends both.

        `high_level_source` is the source whose card names the cameras of the high level; None: the robot's own.
        """
        if mode not in MODES:
            raise UserError("mode", got=repr(mode), expected="one of " + ", ".join(MODES), do="correct it")
        known = sorted(name for name, card in policy.processor.cards.items() if card.kind == "HL")
        if high_level_source is not None and high_level_source not in known:
            raise UserError(
                "high_level_source",
                got=repr(high_level_source),
                expected=f"one of {known}, the policy's high-level sources",
                do="name one, or none",
            )
        self.policy = policy
        self.mode = mode
        self.high_level_source = high_level_source
        self.period_s = period_s
        self.correction_s = correction_s
        self.max_text_tokens = max_text_tokens

    def act(self, turns: Sequence[Turn]) -> list[tuple[Chunk, RobotState]]:
        """A chunk [H, action_dim] in physical units and the new state per turn: one call per level for all robots."""
        states = self.think(turns)
        samples = [
            replace(turn.sample, subtask=state.subtask, boxes=()) for turn, state in zip(turns, states, strict=True)
        ]
        chunks = self.policy.actions(samples, [turn.seed for turn in turns], [turn.remainder for turn in turns])
        return list(zip(chunks, states, strict=True))

    def think(self, turns: Sequence[Turn]) -> list[RobotState]:
        """What every robot is to do now; the network is asked for those whose subtask is over."""
        states = [self._heard(turn) for turn in turns]
        if self.mode != "hierarchical":
            return states
        due = [i for i, turn in enumerate(turns) if self._over(states[i], turn.time_s)]
        questions = [self.question(turns[i].sample) for i in due]
        answers = self.policy.text(questions, self.max_text_tokens) if due else []
        for i, answer in zip(due, answers, strict=True):
            states[i] = _answered(states[i], answer, turns[i].time_s)
        return states

    def _heard(self, turn: Turn) -> RobotState:
        """The state after what people said."""
        command = turn.sample.task
        state = turn.state if turn.state.command == command else RobotState(command)
        if turn.correction:
            return RobotState(command, turn.correction, chosen_at_s=turn.time_s, corrected=True)
        if state.corrected and turn.time_s - state.chosen_at_s < self.correction_s:
            return state
        if self.mode == "hierarchical":
            return state
        return RobotState(command, turn.sample.subtask if self.mode == "oracle" else "")

    def _over(self, state: RobotState, time_s: float) -> bool:
        return time_s - state.chosen_at_s >= (self.correction_s if state.corrected else self.period_s)

    def question(self, sample: Sample) -> Sample:
        """What the high level is asked where the robot is as in a sample with actions."""
        return replace(sample, kind="HL", source=self.high_level_source or sample.source, subtask="", boxes=())


def _answered(state: RobotState, answer: str, time_s: float) -> RobotState:
    """An answer without a subtask changes nothing that is done; it can be read in the state."""
    boxes, subtask = parse_high_level(answer)
    if not subtask:
        return replace(state, answer=answer, chosen_at_s=time_s, corrected=False)
    return RobotState(state.command, subtask, tuple(boxes), answer, time_s)
