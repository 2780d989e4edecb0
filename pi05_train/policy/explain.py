"""One request with everything that leads from it to its answer, as the policy computes it.

Shape letters: H horizon, D the source's action dims, S side of the network's pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.policy import Denoising, Policy
from pi05_train.policy.tokens import Token, read_tokens
from pi05_train.processing.normalisation import NormStats
from pi05_train.processing.numbers import normalised_state
from pi05_train.processing.sequence import parse_high_level, state_place
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, Box, Sample
from pi05_train.tokenization.boxes import parse_boxes


@dataclass(frozen=True)
class StateNumbers:
    """The robot's state on its way into the network."""

    physical: NDArray[np.float32]
    """[state_dim], as the sample has it."""
    normalised: NDArray[np.float64]
    statistics: NormStats


@dataclass(frozen=True)
class Prompt:
    """A prefix, as the network gets it."""

    sample: Sample
    """What is asked with; its `task` and `subtask` stand in the text."""
    pictures: dict[str, NDArray[np.uint8]]
    """[S, S, 3] by camera, in the order of their tokens."""
    tokens_per_picture: int
    tokens: list[Token]
    """Of the text, which stands after the pictures."""
    cut: bool
    """Whether the text was longer than the model reads."""

    @property
    def length(self) -> int:
        """Tokens of the prefix."""
        return len(self.pictures) * self.tokens_per_picture + len(self.tokens)


@dataclass(frozen=True)
class Words:
    """A prompt that is answered in words."""

    prompt: Prompt
    tokens: list[Token]
    """Of the answer, without the stop id."""
    text: str
    boxes: list[Box]
    """What the answer points at, on the picture as the network sees it."""
    subtask: str
    """"" where the answer has none."""


@dataclass(frozen=True)
class Actions:
    """A prompt that is answered by a chunk."""

    prompt: Prompt
    chunk_HD: NDArray[np.float32]
    """Physical units, as a robot gets it but for its own numbers of a gripper."""
    remainder: Remainder | None
    """What is left of the former chunk, where this one goes on with it."""
    truth_HD: NDArray[np.float32] | None
    """The demonstration; None for a request."""
    truth_valid_H: NDArray[np.bool_] | None
    state_token: bool
    """Whether a token with the state stands before the chunk (pi0)."""
    denoising: Denoising
    """The source's own dims alone."""


@dataclass(frozen=True)
class Explanation:
    """A request, what the network says about it and what it does."""

    sample: Sample
    seed: int
    """Of the noise."""
    mode: str
    """One of hierarchy's `MODES`."""
    words: Words | None
    """For a robot the high level's answer, whether or not actions follow it; None where the run has no high level."""
    actions: Actions | None
    """None for a sample without actions."""
    relative: list[int]
    """Action dims that the network learns relative to the state."""
    state: StateNumbers | None
    target: list[Token]
    """What training wants to hear; none for a request."""
    true_boxes: list[Box]
    """Of the sample, on the pictures as the network sees them."""


def explain(
    policy: Policy,
    sample: Sample,
    seed: int,
    *,
    remainder: Remainder | None = None,
    mode: str = "oracle",
    high_level_source: str | None = None,
    max_text_tokens: int = 64,
) -> Explanation:
    """The explanation of one sample of any kind; actions are those of `Hierarchy.act` for a new robot.

    Refuses (UserError) a sample with actions where the policy has no action expert.
    """
    known = sample.actions is not None or sample.kind not in ACTION_KINDS
    target = policy.processor(sample, key=(), training=False).target_ids if known else []
    words, actions = _answers(policy, sample, seed, remainder, mode, high_level_source, max_text_tokens)
    return Explanation(
        sample=sample,
        seed=seed,
        mode=mode,
        words=words,
        actions=actions,
        relative=[dim for dim, on in enumerate(policy.processor.cards[sample.source].delta_mask) if on],
        state=_state(policy, sample),
        target=read_tokens(target, policy.processor.tokens.text),
        true_boxes=policy.processor.pictures(sample, key=(), training=False).boxes,
    )


def _answers(
    policy: Policy,
    sample: Sample,
    seed: int,
    remainder: Remainder | None,
    mode: str,
    high_level_source: str | None,
    max_text_tokens: int,
) -> tuple[Words | None, Actions | None]:
    if sample.kind not in ACTION_KINDS:
        return _words(policy, sample, max_text_tokens), None
    if not policy.has_expert:
        raise UserError(
            f"explain {sample.source}, sample {sample.key}",
            got="a run without an action expert",
            expected="a post-trained one, or a sample without actions",
            do="post-train it",
        )
    levels = Hierarchy(policy, mode, high_level_source=high_level_source, max_text_tokens=max_text_tokens)
    ((chunk, state),) = levels.act([Turn(sample, RobotState(), 0.0, seed, remainder=remainder)])
    talks = mode == "hierarchical" or any(card.kind == "HL" for card in policy.processor.cards.values())
    words = _words(policy, levels.question(sample), max_text_tokens) if talks else None
    asked = replace(sample, subtask=state.subtask, boxes=())
    return words, _actions(policy, asked, seed, remainder, chunk)


def _words(policy: Policy, sample: Sample, max_text_tokens: int) -> Words:
    text = policy.processor.tokens.text
    (ids,) = policy.text_ids([sample], max_text_tokens)
    said, camera = text.decode(ids), sample.boxes[0].camera if sample.boxes else CAMERAS[0]
    boxes, subtask = parse_high_level(said)
    if sample.kind == "WD":
        boxes, subtask = [Box(b.label, b.y_min, b.x_min, b.y_max, b.x_max) for b in parse_boxes(said)], ""
    boxes = [replace(box, camera=camera) for box in boxes]
    return Words(_prompt(policy, sample), read_tokens(ids, text), said, boxes, subtask)


def _actions(
    policy: Policy, asked: Sample, seed: int, remainder: Remainder | None, chunk_HD: NDArray[np.float32]
) -> Actions:
    horizon, dims = chunk_HD.shape
    whole = policy.denoising(asked, seed, remainder)
    own = Denoising(whole.times, whole.x_THD[..., :dims], whole.velocity_THD[..., :dims])
    truth = None if asked.actions is None else asked.actions[:horizon]
    valid = None if asked.action_valid is None else asked.action_valid[:horizon]
    return Actions(_prompt(policy, asked), chunk_HD, remainder, truth, valid, policy.model.config.state_token, own)


def _prompt(policy: Policy, sample: Sample) -> Prompt:
    processor = policy.processor
    cut_before = processor.limit.samples_cut[sample.source]
    example = processor.prompt_only(sample)
    cut = processor.limit.samples_cut[sample.source] > cut_before
    cameras = [camera for camera in CAMERAS if camera in processor.cards[sample.source].cameras]
    if not processor.model.pi0_fast_quirks:
        cameras = [camera for camera in cameras if camera in sample.images]
    pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in example.images]
    state = _state(policy, sample)
    in_prompt = processor.prompt_state(None if state is None else state.normalised)
    place = state_place(sample, processor.templates, in_prompt)
    return Prompt(
        sample,
        dict(zip(cameras, pictures, strict=True)),
        processor.model.vision.tokens_per_image,
        read_tokens(example.prefix_ids, processor.tokens.text, place),
        cut,
    )


def _state(policy: Policy, sample: Sample) -> StateNumbers | None:
    """None where the network is not told the state."""
    processor = policy.processor
    statistics = processor.statistics.get(sample.source, {}).get("state")
    if sample.state is None or statistics is None:
        return None
    card = processor.cards[sample.source]
    normalised = normalised_state(sample, card, statistics, processor.normalisation)
    return StateNumbers(sample.state, normalised, statistics)
