"""What the attributes and keys of a demonstration file mean: robomimic's layout and LIBERO's.

robomimic (also MimicGen and RoboCasa, which write it): pictures `<camera>_image`, upright; state of each robot
`eef_pos` 3 metres, `eef_quat` 4 (x, y, z, w), `gripper_qpos` 2 metres, or `joint_pos` 7 radians and the gripper where
the controller takes joints; its real robot `image`, `image_wrist`, `ee_pose` 7 and `gripper_position` 1. LIBERO:
pictures `agentview_rgb` and `eye_in_hand_rgb`, rotated by 180 degrees (openpi turns them too,
`examples/libero/main.py`) unless `macros_image_convention` is "opencv"; state `ee_states` 6 (position, axis-angle) and
`gripper_states` 2.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi05_train.errors import UserError
from pi05_train.samples.schema import CAMERAS

CAMERA_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "robomimic": {
        "base_0_rgb": (
            *("agentview_image", "robot0_agentview_left_image", "shouldercamera0_image", "frontview_image"),
            *("image", "image_side"),
        ),
        "base_1_rgb": ("robot0_agentview_right_image", "shouldercamera1_image", "sideview_image"),
        "left_wrist_0_rgb": ("robot0_eye_in_hand_image", "image_wrist"),
        "right_wrist_0_rgb": ("robot1_eye_in_hand_image",),
    },
    "libero": {"base_0_rgb": ("agentview_rgb",), "left_wrist_0_rgb": ("eye_in_hand_rgb",)},
}
"""Layout to our camera names to the observation keys that may be them; the first present is taken. The wrist of a
single arm is the left one, as openpi has it."""

INSTRUCTIONS = {
    "Lift": "lift the red cube",
    "Stack": "put the red cube on top of the green cube",
    "StackThree": "put the red cube on the green cube and the blue cube on top of both",
    "PickPlaceCan": "put the can into its bin",
    "PickPlace": "put every object into its bin",
    "NutAssemblySquare": "put the square nut over the square peg",
    "Square": "put the square nut over the square peg",
    "NutAssembly": "put each nut over its peg",
    "ToolHang": "assemble the frame and hang the tool on it",
    "TwoArmTransport": "hand the hammer over from one arm to the other and put it into the target bin",
    "Threading": "push the needle through the ring",
    "Coffee": "put the pod into the coffee machine and close the lid",
    "ThreePieceAssembly": "assemble the three pieces",
    "HammerCleanup": "open the drawer, put the hammer in and close it",
    "MugCleanup": "open the drawer, put the mug in and close it",
}
"""robosuite and MimicGen environments to an instruction of ours: their files hold no language."""

RATE_HZ = 20.0
"""robosuite's default `control_freq`, and the rate of all LIBERO data."""

_SCENE = re.compile(r"^[A-Z_]+SCENE\d+_")
"""What LIBERO-90 and LIBERO-10 put before the instruction in the names of their files."""


@dataclass(frozen=True)
class Facts:
    """What one file says about all its demonstrations."""

    layout: str
    cameras: Mapping[str, str]
    """Our camera name to observation key."""
    state_keys: tuple[str, ...]
    """Observation keys that make up the state, in order."""
    state_dim: int
    action_dim: int
    control_mode: str
    rate_hz: float
    embodiment: str
    environment_id: str
    task: str
    upside_down: bool
    description: str
    notes: tuple[str, ...]

    def instruction(self, demo: Any) -> str:
        """The demonstration's own instruction (RoboCasa's `ep_meta`, or `language_instruction`), or the file's."""
        meta = json.loads(demo.attrs.get("ep_meta", "{}"))
        return str(meta.get("lang") or _text(demo.attrs.get("language_instruction", "")) or self.task)


def facts_of(root: Any, path: Path, demos: Sequence[str], dataset: str) -> Facts:
    """The facts of an opened file, dimensions from its first demonstration that has every array; refuses (UserError)
    one without pictures, states, actions or instruction."""
    where, data = f"HDF5 file {path}", root["data"]
    env = _json(data.attrs.get("env_args", "{}"), f"{where}, env_args")
    kwargs = env.get("env_kwargs", {})
    keys = _keys(data, demos)
    layout = _layout(data, env, keys, dataset, where)
    cameras = _cameras(layout, keys, where)
    controller, absolute = _controller(kwargs)
    control_mode = "joint" if controller.startswith("JOINT") else "end effector"
    state_keys = _state_keys(layout, keys, control_mode, where)
    wanted = [f"obs/{key}" for key in (*state_keys, *cameras.values())]
    complete = next((data[demo] for demo in demos if all(name in data[demo] for name in ("actions", *wanted))), None)
    if complete is None or complete["actions"].ndim != 2:
        got = "no demonstration with all of its arrays" if complete is None else f"actions {complete['actions'].shape}"
        raise UserError(where, got=got, expected=f"actions [T, A] and {wanted}", do="correct the file")
    sizes = [columns(complete[f"obs/{key}"]) for key in state_keys]
    environment = str(env.get("env_name", "")) or path.stem
    upside_down = layout == "libero" and _text(data.attrs.get("macros_image_convention", "")) != "opencv"
    task, told_by = _task(layout, data, env, path)
    facts = Facts(
        layout=layout,
        cameras=cameras,
        state_keys=state_keys,
        state_dim=sum(sizes),
        action_dim=int(complete["actions"].shape[1]),
        control_mode=control_mode,
        rate_hz=float(kwargs.get("control_freq", RATE_HZ)),
        embodiment=_robots(kwargs),
        environment_id=environment if layout == "robomimic" else _scene(path),
        task=task,
        upside_down=upside_down,
        description=f"State: {', '.join(f'{key} {size}' for key, size in zip(state_keys, sizes, strict=True))}. "
        f"Actions: {controller}, {'absolute' if absolute else 'relative to the present pose'}, as recorded.",
        notes=(
            f"Cameras: {', '.join(f'{key} is {ours}' for ours, key in cameras.items())}.",
            *([f"Cameras left out: {', '.join(left)}."] if (left := _left_out(layout, keys, cameras)) else []),
            *(["Pictures were turned by 180 degrees (LIBERO stores them upside down)."] * upside_down),
            *([f"The files state no control_freq: {RATE_HZ:g} Hz taken."] * ("control_freq" not in kwargs)),
            *(["The files name no robot: panda taken."] * (not kwargs.get("robots"))),
            f"Instructions come from {told_by}.",
        ),
    )
    if not task and not facts.instruction(complete):
        raise UserError(
            f"{where}, instruction",
            got=f"none for environment {environment}",
            expected="problem_info, ep_meta or an environment of the table",
            do="write it into the file: data.attrs['language_instruction'] = ...",
        )
    return facts


def _keys(data: Any, demos: Sequence[str]) -> set[str]:
    """Of three demonstrations: files may hold thousands."""
    return {key for demo in (demos[0], demos[len(demos) // 2], demos[-1]) for key in data[demo].get("obs", ())}


def _layout(data: Any, env: Mapping[str, Any], keys: set[str], dataset: str, where: str) -> str:
    if dataset:
        if dataset not in CAMERA_KEYS:
            raise UserError(
                "conversion, dataset", got=repr(dataset), expected="robomimic, libero or nothing", do="correct it"
            )
        return dataset
    libero = "bddl_file_name" in data.attrs or "bddl_file" in env or "agentview_rgb" in keys
    if not libero and not keys:
        raise UserError(
            where, got="no obs in its demonstrations", expected="observations with pictures",
            do="render them with robomimic's dataset_states_to_obs.py",
        )  # fmt: skip
    return "libero" if libero else "robomimic"


def _cameras(layout: str, keys: set[str], where: str) -> dict[str, str]:
    found = {
        ours: next(key for key in theirs if key in keys)
        for ours, theirs in CAMERA_KEYS[layout].items()
        if any(key in keys for key in theirs)
    }
    if not found:
        wanted = sorted(key for theirs in CAMERA_KEYS[layout].values() for key in theirs)
        raise UserError(
            f"{where}, cameras", got=f"obs {sorted(keys)}", expected=f"some of {wanted} ({layout})",
            do="render pictures with robomimic's dataset_states_to_obs.py, or name the layout with --dataset",
        )  # fmt: skip
    return {ours: found[ours] for ours in CAMERAS if ours in found}


def _left_out(layout: str, keys: set[str], cameras: Mapping[str, str]) -> list[str]:
    ending = "_rgb" if layout == "libero" else "_image"
    known = {key for theirs in CAMERA_KEYS[layout].values() for key in theirs}
    return sorted(key for key in keys if (key.endswith(ending) or key in known) and key not in cameras.values())


def _state_keys(layout: str, keys: set[str], control_mode: str, where: str) -> tuple[str, ...]:
    wanted: tuple[str, ...]
    if layout == "libero":
        wanted = ("joint_states" if control_mode == "joint" else "ee_states", "gripper_states")
    elif "ee_pose" in keys and "robot0_eef_pos" not in keys:
        wanted = ("ee_pose", "gripper_position")
    else:
        parts = ("joint_pos",) if control_mode == "joint" else ("eef_pos", "eef_quat")
        robots = [robot for robot in ("robot0", "robot1") if f"{robot}_{parts[0]}" in keys] or ["robot0"]
        wanted = tuple(f"{robot}_{part}" for robot in robots for part in (*parts, "gripper_qpos"))
    if absent := [key for key in wanted if key not in keys]:
        raise UserError(
            f"{where}, state", got=f"no obs {absent}", expected=f"{list(wanted)} ({layout}, {control_mode})",
            do="record these observations, or name the layout with --dataset",
        )  # fmt: skip
    return wanted


def _controller(kwargs: Mapping[str, Any]) -> tuple[str, bool]:
    """(The controller's type, whether it takes absolute targets); robosuite 1.5 has one for each body part."""
    configs = kwargs.get("controller_configs") or {}
    config = configs[0] if isinstance(configs, list) and configs else configs
    parts = config.get("body_parts", {}) if isinstance(config, dict) else {}
    parts = parts.get("arms") or parts
    first = next((part for name in ("right", "left") if (part := parts.get(name))), config)
    first = first if isinstance(first, dict) else {}
    return str(first.get("type", "OSC_POSE")), not first.get("control_delta", first.get("input_type") != "absolute")


def _robots(kwargs: Mapping[str, Any]) -> str:
    robots = kwargs.get("robots") or ["Panda"]
    names = [robots] if isinstance(robots, str) else [str(robot) for robot in robots]
    return " and ".join(name.lower() for name in names)


def _task(layout: str, data: Any, env: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """(The file's instruction, what told it); "" where only the demonstrations may know."""
    problem = _json(data.attrs.get("problem_info", "{}"), f"HDF5 file {path}, problem_info")
    told = problem.get("language_instruction") or data.attrs.get("language_instruction") or ""
    if text := _text(" ".join(" ".join(told).split()) if isinstance(told, list) else told):
        return text, "the files' attributes"
    if layout == "libero":
        bddl = str(_text(data.attrs.get("bddl_file_name", "")) or env.get("bddl_file", ""))
        stem = Path(bddl).stem or path.stem.removesuffix("_demo")
        return _SCENE.sub("", stem).replace("_", " ").strip(), "the names of the files"
    name = re.sub(r"_D\d+$", "", str(env.get("env_name", "")))
    return INSTRUCTIONS.get(name, ""), "a table by environment (the files hold no language)" if (
        name in INSTRUCTIONS
    ) else "the demonstrations' attributes"


def _scene(path: Path) -> str:
    """LIBERO's scene where the file's name tells it, otherwise the task: each has a scene of its own."""
    scene = _SCENE.match(path.stem)
    return scene[0].rstrip("_") if scene else path.stem.removesuffix("_demo")


def columns(array: Any) -> int:
    """Numbers per frame of an array [T, ...]."""
    return math.prod(array.shape[1:])


def _text(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip().strip('"').strip()


def _json(text: Any, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(where, got=error, expected="JSON", do="download the file again") from error
    return content if isinstance(content, dict) else {}
