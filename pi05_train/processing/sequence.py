"""The one place where a sample becomes token ids: what stands in the prefix, what is the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.processing.limit import TokenLimit, TokenSequence
from pi05_train.processing.templates import Templates, names_field
from pi05_train.samples.schema import ACTION_KINDS, BOXES_FIELD, Box, Sample
from pi05_train.tokenization.boxes import box_text, parse_boxes
from pi05_train.tokenization.state import state_text
from pi05_train.tokenization.tokens import Tokens

SUBTASK_MARK = "Subtask:"

Floats = NDArray[np.floating[Any]]


def build_sequence(
    sample: Sample,
    *,
    templates: Templates,
    tokens: Tokens,
    state_normalised: Floats | None,
    chunk_normalised: Floats | None,
    boxes: Sequence[Box],
    native_dim: int | None = None,
    limit: TokenLimit | None = None,
) -> TokenSequence:
    """Prefix and target of a training example.

    `state_normalised` [state_dim] is not padded; `chunk_normalised` [H, model's action_dim] is needed by MM, ME, CE,
    and the source's `native_dim` where FAST sees no padding; `boxes` are the sample's boxes on the pictures as the
    network sees them; what is longer than `limit` is cut.
    """
    prefix = _prompt_ids(sample, templates, tokens, state_normalised, boxes)
    if sample.kind in ACTION_KINDS:
        assert chunk_normalised is not None, sample.key
        begin = tokens.text.encode(templates.low_level_begin)
        end = tokens.text.encode(templates.low_level_end, eos=True)
        target = begin + tokens.action_ids(chunk_normalised, native_dim=native_dim) + end
    else:
        target = tokens.text.encode(target_text(sample, templates, boxes), eos=True)
    sequence = TokenSequence(prefix, target)
    return sequence if limit is None else limit.cut(sequence, sample.source)


def build_prompt(
    sample: Sample,
    *,
    templates: Templates,
    tokens: Tokens,
    state_normalised: Floats | None,
    boxes: Sequence[Box] = (),
    limit: TokenLimit | None = None,
) -> list[int]:
    """The prefix alone, with BOS: what a policy is asked with."""
    prefix = _prompt_ids(sample, templates, tokens, state_normalised, boxes)
    return prefix if limit is None else limit.cut(TokenSequence(prefix, []), sample.source).prefix_ids


def parse_actions(
    ids: Sequence[int], *, templates: Templates, tokens: Tokens, horizon: int, dim: int, native_dim: int | None = None
) -> NDArray[np.float64] | None:
    """The normalised chunk [horizon, dim] behind the ids of a generated low-level answer; None if undecodable.

    openpi reads the text between "Action: " and "|" and encodes it again; here ids are read as they are, which is the
    same wherever that detour loses nothing.
    """
    begin = tokens.text.encode(templates.low_level_begin)
    starts = [i for i in range(len(ids) - len(begin) + 1) if list(ids[i : i + len(begin)]) == begin]
    if not starts:
        return None
    return tokens.actions(ids[starts[0] + len(begin) :], horizon=horizon, dim=dim, native_dim=native_dim)


def _prompt_ids(
    sample: Sample, templates: Templates, tokens: Tokens, state_normalised: Floats | None, boxes: Sequence[Box]
) -> list[int]:
    ids = tokens.text.encode(prompt_text(sample, templates, state_normalised, boxes), bos=True)
    return ids + tokens.text.encode(templates.low_level_separator) if sample.kind in ACTION_KINDS else ids


def prompt_text(
    sample: Sample, templates: Templates, state_normalised: Floats | None, boxes: Sequence[Box] = ()
) -> str:
    """The prompt of a sample, by its kind. Actions are asked for with the subtask where there is one (decision 8)."""
    clean = templates.clean
    task, subtask = clean(sample.task), clean(sample.subtask)
    if sample.kind == "WD":
        question = clean(sample.question).replace(BOXES_FIELD, _box_lines(boxes, templates))
        return templates.web_prompt.format(question=_required(sample, "question", question))
    if sample.kind in ACTION_KINDS:
        template = templates.low_level
        mode = templates.control_mode.format(control_mode=sample.control_mode) if sample.control_mode else ""
        values = {"task": subtask or task, "subtask": subtask, "control_mode": mode}
    else:
        template = templates.verbal_prompt if sample.kind == "VI" else templates.high_level_prompt
        values = {"task": task}
        if sample.kind == "VI":
            values["verbal_instruction"] = _required(sample, "verbal_instruction", clean(sample.verbal_instruction))
    if names_field(template, "state"):
        if state_normalised is None:
            raise UserError(
                f"sample {sample.key} of {sample.source}",
                got="no state",
                expected="a state, which the template names",
                do="remove {state} from the template or add state and statistics to the source",
            )
        values["state"] = state_text(state_normalised)
    return template.format(**values)


def state_place(sample: Sample, templates: Templates, state_normalised: Floats | None) -> tuple[int, int] | None:
    """From which to which character of `prompt_text` the state's numbers stand; None where the prompt has none."""
    names = ("low_level", "high_level_prompt", "verbal_prompt")
    before = replace(templates, **{name: getattr(templates, name).partition("{state}")[0] for name in names})
    start = len(prompt_text(sample, before, None))
    if state_normalised is None or start == len(prompt_text(sample, templates, state_normalised)):
        return None
    return start, start + len(state_text(state_normalised))


def target_text(sample: Sample, templates: Templates, boxes: Sequence[Box]) -> str:
    """What the network is to say about an HL, VI or WD sample, without EOS."""
    if sample.kind == "WD":
        answer = sample.answer.strip().replace(BOXES_FIELD, _box_lines(boxes, templates))
        return templates.web_target.format(answer=_required(sample, "answer", answer))
    subtask = _required(sample, "subtask", templates.clean(sample.subtask))
    if sample.kind == "VI":
        return templates.verbal_target.format(subtask=subtask)
    if not boxes:
        return templates.high_level_target_without_boxes.format(subtask=subtask)
    return templates.high_level_target.format(boxes=_box_lines(boxes, templates), subtask=subtask)


def parse_high_level(text: str) -> tuple[list[Box], str]:
    """Boxes and subtask of a generated high-level answer; without the word "Subtask:" its last line counts."""
    before, mark, after = text.rpartition(SUBTASK_MARK)
    lines = [line.strip() for line in (after if mark else text).splitlines() if line.strip()]
    subtask = "" if not lines else lines[0] if mark else lines[-1]
    boxes = [Box(b.label, b.y_min, b.x_min, b.y_max, b.x_max) for b in parse_boxes(before if mark else text)]
    return boxes, subtask


def _box_lines(boxes: Sequence[Box], templates: Templates) -> str:
    labelled = (Box(templates.clean(b.label), b.y_min, b.x_min, b.y_max, b.x_max) for b in boxes)
    return "\n".join(templates.box_line.format(box=box_text(box)) for box in labelled)


def _required(sample: Sample, name: str, value: str) -> str:
    if not value:
        raise UserError(
            f"sample {sample.key} of {sample.source}, {name}",
            got="nothing",
            expected=f"text, for kind {sample.kind}",
            do="leave the sample out of the shards",
        )
    return value
