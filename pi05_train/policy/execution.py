"""How a robot spends its chunks: when it asks for the next one, what it does meanwhile, where the next one is joined.

Time is counted in control steps. A chunk begins at its observation: when it arrives, the commands that were executed
since then are skipped. Whoever moves the robot decides how long an answer takes; nothing here waits or draws.

Shape letters: H horizon, R steps that are left of a chunk, D the robot's action dims.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError

Chunk = NDArray[np.float32]

STRATEGIES = ("open_loop", "receding_horizon", "real_time")
"""open_loop: a chunk to its end, then the next. receding_horizon: the next one is asked for after `execute_steps`,
whatever it is. real_time: the same, and the policy is told what is left of the former chunk, so that the next one goes
on with it (arXiv 2506.07339)."""
REMEMBERED_DELAYS = 10


@dataclass(frozen=True)
class Remainder:
    """What is left of the chunk in execution when the robot observes."""

    actions_RD: Chunk
    """Physical units; the first is the next command."""
    delay_steps: int
    """How many of them will have been executed when the next chunk arrives: those cannot be changed any more."""


class Execution:
    """One robot's chunks in execution."""

    def __init__(self, strategy: str, *, horizon: int, execute_steps: int, delay_steps: int = 0) -> None:
        """`execute_steps`: commands from one observation to the next (an open loop executes all `horizon`).

        `delay_steps` is the first guess of how long an answer takes; afterwards the longest of the latest counts.
        """
        if strategy not in STRATEGIES:
            raise UserError("strategy", got=repr(strategy), expected="one of " + ", ".join(STRATEGIES), do="correct it")
        if not 0 < execute_steps <= horizon:
            raise UserError("execute_steps", got=execute_steps, expected=f"from 1 to {horizon}", do="correct it")
        if not 0 <= delay_steps <= horizon:
            raise UserError("delay_steps", got=delay_steps, expected=f"from 0 to {horizon}", do="correct it")
        self.strategy = strategy
        self.horizon = horizon
        self.execute_steps = horizon if strategy == "open_loop" else execute_steps
        self.delays = deque([delay_steps], maxlen=REMEMBERED_DELAYS)
        self.waiting = False
        """Whether the policy is at work on the next chunk."""
        self._plan: Chunk | None = None
        self._next = 0
        """The next step of the plan."""
        self._executed = 0
        """Commands since the latest observation."""

    @property
    def due(self) -> bool:
        """Whether it is time to observe and to ask for a chunk."""
        return not self.waiting and (self._plan is None or self._executed >= self.execute_steps or not self._left)

    def ask(self) -> Remainder | None:
        """The robot observes now and asks the policy; what to tell it of the chunk in execution."""
        assert self.due, "asked too early"
        self.waiting, self._executed = True, 0
        if self.strategy != "real_time" or self._plan is None or not self._left:
            return None
        return Remainder(self._plan[self._next :].copy(), min(max(self.delays), self._left))

    def receive(self, chunk_HD: Chunk) -> None:
        """The answer to the latest question has arrived; it is executed from the present moment on."""
        assert self.waiting, "nothing was asked for"
        assert len(chunk_HD) == self.horizon, chunk_HD.shape
        if self._plan is not None:
            self.delays.append(self._executed)
        self.waiting, self._plan, self._next = False, chunk_HD, self._executed

    def command(self) -> Chunk | None:
        """The next command [D]; None where nothing is left and the robot has to hold still."""
        if self._plan is None or not self._left:
            return None
        command: Chunk = self._plan[self._next]
        self._next += 1
        self._executed += 1
        return command

    @property
    def _left(self) -> int:
        return 0 if self._plan is None else self.horizon - self._next
