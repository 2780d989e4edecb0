"""Cameras of LeRobot datasets under our names.

`--dataset` overrides the rule: "front=base_0_rgb,side=none" gives the camera whose feature is `front` or
`observation.images.front` our name base_0_rgb, and leaves `side` out. "control_mode=joint" (or "end effector") says how
the robot is commanded, where the names of the actions do not tell; "subtask=action_text" which text column holds the
subtask of every frame, in datasets that were annotated before LeRobot had columns of its own for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pi05_train.errors import UserError
from pi05_train.samples.schema import CAMERAS

_PREFIXES = ("observation.images.", "observation.image.", "observation.", "images.")
_KNOWN = {
    "base_0_rgb": (
        "base_0_rgb", "base_0", "base", "image", "image_0", "image_primary", "primary", "main", "top", "high", "head",
        "cam_high", "cam_head", "cam_top", "head_camera", "front", "cam_front", "front_camera", "agentview",
        "agentview_image", "agentview_rgb", "overhead", "exterior_1_left", "exterior_image_1_left", "third_person",
    ),
    "base_1_rgb": (
        "base_1_rgb", "base_1", "rear", "back", "cam_rear", "cam_back", "low", "cam_low", "secondary",
        "image_secondary", "exterior_2_left", "exterior_image_2_left",
    ),
    "left_wrist_0_rgb": (
        "left_wrist_0_rgb", "left_wrist_0", "left_wrist", "wrist_left", "cam_left_wrist", "left_wrist_image",
        "wrist", "wrist_image", "image_wrist", "cam_wrist", "wrist_camera", "wrist_image_left", "wrist_cam",
        "hand_camera", "eye_in_hand", "robot0_eye_in_hand", "robot0_eye_in_hand_image",
    ),
    "right_wrist_0_rgb": (
        "right_wrist_0_rgb", "right_wrist_0", "right_wrist", "wrist_right", "cam_right_wrist", "right_wrist_image",
    ),
}  # fmt: skip
"""Names in use, without prefix. A single wrist stands in the left place, as in openpi; of DROID's two views the left
lens of the first is the base."""
_RULE = {theirs: ours for ours, names in _KNOWN.items() for theirs in names}
_FACTS = ("control_mode", "subtask")
"""Overrides that are about no camera."""


def short_name(feature: str) -> str:
    """`observation.images.front` and `front` are the same camera."""
    return next((feature.removeprefix(prefix) for prefix in _PREFIXES if feature.startswith(prefix)), feature)


def parse_overrides(dataset: str) -> dict[str, str]:
    """`--dataset` as a table of short camera names (or `_FACTS`) to values; refuses (UserError) other text."""
    overrides: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in dataset.split(","))):
        theirs, mark, ours = (part.strip() for part in entry.partition("="))
        allowed = ("joint", "end effector") if theirs == "control_mode" else (*CAMERAS, "none")
        if not mark or (ours not in allowed and theirs != "subtask"):
            raise UserError(
                "LeRobot conversion, --dataset",
                got=repr(entry),
                expected=f"entries such as front=base_0_rgb, with one of {list(allowed)}",
                do="correct it",
            )
        overrides[short_name(theirs)] = ours
    return overrides


def name_cameras(features: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, str], where: str) -> dict[str, str]:
    """Feature to our name, in the order of `CAMERAS`. Refuses (UserError) cameras without a name, or two with one."""
    cameras = camera_features(features)
    short = {short_name(feature): feature for feature in cameras}
    if strange := [name for name in overrides if name not in short and name not in _FACTS]:
        raise UserError(f"{where}, --dataset", got=strange, expected=f"cameras among {sorted(short)}", do="correct it")
    named = {feature: overrides.get(name, _RULE.get(name.lower(), "")) for name, feature in short.items()}
    unknown = [name for name, feature in short.items() if not named[feature]]
    taken = [ours for ours in named.values() if ours and ours != "none"]
    doubled = [name for name, feature in short.items() if taken.count(named[feature]) > 1]
    if unknown or doubled:
        free = iter(camera for camera in CAMERAS if camera not in taken)
        proposal = ",".join(f"{name}={next(free, 'none')}" for name in unknown or doubled[1:])
        raise UserError(
            f"{where}, cameras {', '.join(unknown or doubled)}",
            got="names that are not known" if unknown else f"one name, {named[short[doubled[0]]]}, for all of them",
            expected=f"one of {list(CAMERAS)} for each",
            do=f'say which is which, for instance --dataset "{proposal}" (none leaves a camera out)',
        )
    if not taken:
        raise UserError(f"{where}, features", got="no camera", expected="at least one", do="choose another dataset")
    return {feature: ours for ours in CAMERAS for feature, name in named.items() if name == ours}


def camera_features(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Features that are pictures; depth maps are not."""
    return [
        name for name, feature in features.items() if feature.get("dtype") in ("video", "image") and not _depth(feature)
    ]


def depth_features(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Features that are depth maps: no camera of ours."""
    return [
        name for name, feature in features.items() if feature.get("dtype") in ("video", "image") and _depth(feature)
    ]


def _depth(feature: Mapping[str, Any]) -> bool:
    """By the flag; nothing else can be relied on: shapes and their names disagree in published datasets."""
    details = feature.get("info") or feature.get("video_info") or {}
    return isinstance(details, dict) and bool(details.get("video.is_depth_map") or details.get("is_depth_map"))


def control_mode(names: object, overrides: Mapping[str, str]) -> tuple[str, bool]:
    """("joint" or "end effector", whether that is certain), from the names of the action's dimensions."""
    if "control_mode" in overrides:
        return overrides["control_mode"], True
    words = [name.lower() for name in flat_names(names)]
    cartesian = {"x", "y", "z", "dx", "dy", "dz", "delta_x", "delta_y", "delta_z", "pos_x", "pos_y", "pos_z"}
    if any(word in cartesian or "eef" in word or "ee_" in word or "end_effector" in word for word in words):
        return "end effector", True
    jointed = ("joint", "motor", "shoulder", "elbow", "waist", "kleft", "kright")
    return "joint", any(part in word for word in words for part in jointed)


def flat_names(names: object) -> Sequence[str]:
    """Names of a feature's dimensions; files hold a list, a list in a list, or a table of lists."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, dict):
        names = list(names.values()) if all(isinstance(v, list) for v in names.values()) else list(names)
    if isinstance(names, list):
        return [name for part in names for name in flat_names(part)]
    return []
