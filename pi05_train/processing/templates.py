"""The words around the facts of a sample: format strings for every kind of prompt and target. No torch here.

Only the low-level prompts are published (openpi `models/tokenizer.py`). The strings that the paper's authors trained
high-level, web and verbal-instruction samples with were never released: those defaults are this project's choice,
after the paper's figures 3 and 4. Another choice is a few strings of configuration (`conf/templates/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from pi05_train.errors import UserError

TASK_FIELDS = frozenset({"task", "subtask", "state", "control_mode"})
ALLOWED: dict[str, frozenset[str]] = {
    "low_level": TASK_FIELDS,
    "low_level_separator": frozenset(),
    "low_level_begin": frozenset(),
    "low_level_end": frozenset(),
    "control_mode": frozenset({"control_mode"}),
    "high_level_prompt": frozenset({"task", "state"}),
    "high_level_target": frozenset({"boxes", "subtask"}),
    "high_level_target_without_boxes": frozenset({"subtask"}),
    "box_line": frozenset({"box"}),
    "web_prompt": frozenset({"question"}),
    "web_target": frozenset({"answer"}),
    "verbal_prompt": frozenset({"task", "verbal_instruction", "state"}),
    "verbal_target": frozenset({"subtask"}),
}
"""Which fields each template may name."""
CLEANINGS = ("pi05", "pi0_fast")


@dataclass(frozen=True)
class Templates:
    """Format strings. A prefix gets BOS in front, a target EOS behind; neither is written here."""

    low_level: str = "Task: {task}, State: {state};\nAction: "
    """{task} is the subtask where the sample has one, else its task; {subtask} is the subtask alone ("" if none)."""
    low_level_separator: str = ""
    """Last part of the low-level prefix, encoded on its own (pi0: a newline)."""
    low_level_begin: str = ""
    """First part of the low-level target, encoded on its own before the FAST ids (pi0-FAST: "Action: ")."""
    low_level_end: str = "|"
    """Stands between the last FAST id and EOS, encoded on its own."""
    control_mode: str = "<control mode> {control_mode} <control mode>"
    """What {control_mode} becomes in `low_level`; "" for a sample without one."""
    high_level_prompt: str = "Task: {task}. Subtask: "
    high_level_target: str = "Bounding boxes:\n{boxes}\nSubtask: {subtask}"
    high_level_target_without_boxes: str = "Subtask: {subtask}"
    box_line: str = "{box}"
    """One labelled box; the lines of {boxes} are joined by newlines."""
    web_prompt: str = "{question}\n"
    web_target: str = "{answer}"
    verbal_prompt: str = "Task: {task}. Instruction: {verbal_instruction}. Subtask: "
    verbal_target: str = "Subtask: {subtask}"
    cleaning: str = "pi05"
    """How inserted text is cleaned: "pi05" (also pi0's way) or "pi0_fast"; see `clean`."""

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            check_template(name, getattr(self, name), allowed)
        if self.cleaning not in CLEANINGS:
            expected = "one of " + ", ".join(CLEANINGS)
            raise UserError("templates.cleaning", got=repr(self.cleaning), expected=expected, do="correct it")

    def clean(self, text: str) -> str:
        """Text as it is inserted into these templates."""
        return clean(text, self.cleaning)


def check_template(name: str, template: str, allowed: frozenset[str]) -> None:
    """Refuse a template that names a field it cannot be given."""
    try:
        named = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise UserError(
            f"templates.{name}", got=repr(template), expected=f"a format string ({error})", do="balance its braces"
        ) from error
    if named - allowed:
        raise UserError(
            f"templates.{name}",
            got=", ".join("{" + field + "}" for field in sorted(named - allowed)),
            expected=", ".join("{" + field + "}" for field in sorted(allowed)) or "no field",
            do="remove the unknown field",
        )


def names_field(template: str, field: str) -> bool:
    """Whether the template asks for `field`."""
    return any(named == field for _, named, _, _ in Formatter().parse(template))


def clean(text: str, cleaning: str = "pi05") -> str:
    """openpi's cleaning of inserted text.

    pi05: strip, then underscores and newlines become spaces; case is kept. pi0_fast: lower case, strip, underscores
    become spaces; newlines inside are kept.
    """
    if cleaning == "pi0_fast":
        return text.lower().strip().replace("_", " ")
    return text.strip().replace("_", " ").replace("\n", " ")
