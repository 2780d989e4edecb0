"""What people say: high-level commands, and spoken corrections with the subtask each one asks for."""

from __future__ import annotations

HIGH_LEVEL = {
    "fetch-reach": ("point at the ball", "show me where the ball is", "go and touch the ball"),
    "fetch-push": ("slide the block over to the ball", "shove the block to the ball without lifting it"),
    "fetch-pick-place": ("tidy the table", "pick the block up and bring it to the ball"),
    "reach": ("point at the ball", "show me where the ball is"),
    "push": ("bring the puck to the ball", "put the puck where it belongs"),
    "drawer-open": ("get something out of the drawer", "I need the drawer open"),
    "drawer-close": ("tidy up the drawer", "the drawer should not stay open"),
    "door-open": ("unlock the safe for me", "I want to look into the safe"),
    "door-close": ("secure the safe", "the safe should not stay open"),
    "button-press": ("switch the machine on", "ring the bell on the front"),
    "button-press-topdown": ("switch the yellow box on", "hit the buzzer"),
    "window-open": ("let some air in", "it is too warm in here"),
    "window-close": ("it is cold in here", "keep the wind out"),
    "handle-press": ("make some toast", "work the lever"),
    "faucet-open": ("get some water", "fill the sink"),
}
"""Task to commands; each command names its task, so that the subtask follows from command and picture."""

GENERAL_CORRECTIONS: dict[str, tuple[str, ...]] = {
    "move the gripper to the left": ("no, more to the left", "a bit to the left please", "left, go left"),
    "move the gripper to the right": ("no, more to the right", "a bit to the right please", "right, go right"),
    "raise the gripper": ("higher please", "go up a little", "no, further up"),
    "lower the gripper": ("lower please", "go down a little", "no, further down"),
    "open the gripper": ("let go of it", "open your hand", "release that"),
    "close the gripper": ("close your hand", "hold it tight", "shut the gripper now"),
    "stop and wait": ("stop there", "hold on a moment", "wait, do not move"),
}
BLOCK_CORRECTIONS: dict[str, tuple[str, ...]] = {
    "move above the {colour} block": ("no, go over the block first", "get above the block"),
    "grasp the {colour} block": ("grab the block now", "take the block"),
    "carry the {colour} block to the red ball": ("take it over to the ball", "bring the block to the ball"),
    "push the {colour} block to the red ball": ("do not lift it, push it", "just shove the block over"),
}
"""The person does not say the colour: it has to be seen."""
PHASE_CORRECTIONS = ("no, {phase}", "not that, {phase} please", "listen, you should {phase}")
"""Ways to ask for one of the task's own phases."""


def corrections(phases: tuple[str, ...], colour: str) -> list[tuple[str, str]]:
    """(what the person says, the subtask they mean): those that make sense for a task.

    `colour` is the block's, or "" where there is none; `phases` are the task's subtasks in plain words.
    """
    found = [(said, meant) for meant, ways in GENERAL_CORRECTIONS.items() for said in ways]
    if colour:
        found += [(said, meant.format(colour=colour)) for meant, ways in BLOCK_CORRECTIONS.items() for said in ways]
    return found + [(way.format(phase=phase), phase) for phase in phases for way in PHASE_CORRECTIONS]
