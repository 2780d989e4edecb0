"""Twelve MetaWorld tasks whose shipped experts are quick and reliable, in our own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetaWorldTask:
    """One task: `approach` and `act` name what the expert does far from and near the object."""

    policy: str
    """Class name of the shipped expert."""
    instruction: str
    approach: str
    act: str
    thing: str
    """Label of the object's box."""
    bodies: tuple[str, ...]
    """Bodies of the model that make up the object; a trailing `/` takes their children along."""
    near_m: float
    """Below this distance between hand and object the expert acts on it."""
    goal: tuple[float, float, float] | None = None
    """Colour of the goal's marker where the goal is otherwise invisible."""
    max_steps: int = 60


METAWORLD_TASKS = {
    "reach": MetaWorldTask(
        "SawyerReachV3Policy", "move the gripper to the red ball", "move the gripper to the red ball",
        "move the gripper to the red ball", "red ball", (), 0.07, goal=(1.0, 0.1, 0.1),
    ),
    "push": MetaWorldTask(
        "SawyerPushV3Policy", "push the puck to the green ball", "move above the puck",
        "push the puck to the green ball", "puck", ("obj",), 0.065, goal=(0.1, 0.9, 0.1),
    ),
    "drawer-open": MetaWorldTask(
        "SawyerDrawerOpenV3Policy", "open the drawer", "move to the drawer handle", "pull the drawer open",
        "drawer", ("drawer/",), 0.065,
    ),
    "drawer-close": MetaWorldTask(
        "SawyerDrawerCloseV3Policy", "close the drawer", "move in front of the drawer", "push the drawer shut",
        "drawer", ("drawer/",), 0.07,
    ),
    "door-open": MetaWorldTask(
        "SawyerDoorOpenV3Policy", "open the door of the safe", "move to the door handle", "pull the door open",
        "safe", ("door/",), 0.06,
    ),
    "door-close": MetaWorldTask(
        "SawyerDoorCloseV3Policy", "close the door of the safe", "move behind the door", "push the door shut",
        "safe", ("door/",), 0.22,
    ),
    "button-press": MetaWorldTask(
        "SawyerButtonPressV3Policy", "press the red button on the front", "move in front of the button",
        "push the button in", "button", ("button",), 0.12,
    ),
    "button-press-topdown": MetaWorldTask(
        "SawyerButtonPressTopdownV3Policy", "press the red button from above", "move above the button",
        "push the button down", "button", ("button",), 0.12,
    ),
    "window-open": MetaWorldTask(
        "SawyerWindowOpenV3Policy", "open the window", "move to the window handle", "slide the window open",
        "window", ("window/",), 0.11,
    ),
    "window-close": MetaWorldTask(
        "SawyerWindowCloseV3Policy", "close the window", "move to the window handle", "slide the window shut",
        "window", ("window/",), 0.11,
    ),
    "handle-press": MetaWorldTask(
        "SawyerHandlePressV3Policy", "press the red handle down", "move above the handle", "push the handle down",
        "handle", ("handle_link",), 0.06,
    ),
    "faucet-open": MetaWorldTask(
        "SawyerFaucetOpenV3Policy", "turn the faucet on", "move beside the faucet handle", "turn the faucet handle",
        "faucet", ("faucetBase/",), 0.09,
    ),
}  # fmt: skip
