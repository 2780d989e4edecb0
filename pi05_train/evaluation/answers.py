"""What is true of a source's samples, and what a policy answers to their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.evaluation.teacher import TeacherForced, teacher_forced
from pi05_train.policy.policy import Chunk, Policy
from pi05_train.processing.example import Example
from pi05_train.processing.processor import Processor
from pi05_train.processing.sequence import parse_high_level
from pi05_train.samples.schema import ACTION_KINDS, Box, Kind, Sample
from pi05_train.tokenization.boxes import parse_boxes


@dataclass(frozen=True)
class Truth:
    """The targets of samples of one source, in the order of the samples."""

    examples: tuple[Example, ...]
    has_actions: bool
    texts: tuple[str, ...] = ()
    """The whole target text; empty for sources with actions."""
    answers: tuple[str, ...] = ()
    """The subtask, or the whole text of a web answer."""
    boxes: tuple[tuple[Box, ...], ...] = ()
    """Boxes of the target text, in fractions of the picture the network sees."""
    exactness: str = "answer_exact"
    """The metric that compares answers."""

    @property
    def has_targets(self) -> bool:
        """Whether the stage trains text or FAST tokens; one that does not is not asked for any."""
        return all(example.target_ids for example in self.examples)

    @property
    def chunks(self) -> list[NDArray[np.float32]]:
        """True normalised chunks [H, D]."""
        chunks = [example.actions for example in self.examples if example.actions is not None]
        assert len(chunks) == len(self.examples)
        return chunks

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """Valid entries [H, D] of the chunks."""
        return [example.action_mask for example in self.examples if example.action_mask is not None]


@dataclass(frozen=True)
class Answers:
    """A policy's answers, in the order of the samples; text for text sources, chunks for sources with actions."""

    judged: tuple[TeacherForced, ...]
    texts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    boxes: tuple[tuple[Box, ...], ...] = ()
    fast: tuple[Chunk | None, ...] = ()
    flow: tuple[Chunk, ...] = ()
    """Empty without an expert."""


def truth_of(processor: Processor, samples: Sequence[Sample]) -> Truth:
    """Targets of samples of one source, without augmentation."""
    # Before post-training examples carry no actions, but FAST answers are compared with them all the same.
    processor = copy(processor)
    processor.stage_has_expert = True
    examples = tuple(processor(sample, key=(0,), training=False) for sample in samples)
    kind = samples[0].kind
    if kind in ACTION_KINDS:
        return Truth(examples, has_actions=True)
    texts = tuple(processor.tokens.text.decode(example.target_ids) for example in examples)
    boxes, answers = _parse(texts, kind)
    exactness = "answer_exact" if kind == "WD" else "subtask_exact"
    return Truth(examples, False, texts, answers, boxes, exactness)


def ask(policy: Policy, samples: Sequence[Sample], truth: Truth, *, max_tokens: int, seed: int) -> Answers:
    """The policy's answers to the samples' prompts; sample i's flow noise is seeded with `seed + i`."""
    judged = tuple(teacher_forced(policy, truth.examples)) if truth.has_targets else ()
    if truth.has_actions:
        seeds = range(seed, seed + len(samples))
        return Answers(
            judged,
            fast=tuple(policy.normalised_fast_actions(samples, max_tokens=max_tokens)) if truth.has_targets else (),
            flow=tuple(policy.normalised_actions(samples, seeds)) if policy.has_expert else (),
        )
    texts = tuple(policy.text(samples, max_tokens))
    boxes, answers = _parse(texts, samples[0].kind)
    return Answers(judged, texts, answers, boxes)


def _parse(texts: Sequence[str], kind: Kind) -> tuple[tuple[tuple[Box, ...], ...], tuple[str, ...]]:
    """Boxes and answer of every text: the subtask, or all that was said about a web picture."""
    boxes, answers = [], []
    for text in texts:
        found, subtask = parse_high_level(text)
        if kind == "WD":
            found = [Box(b.label, b.y_min, b.x_min, b.y_max, b.x_max) for b in parse_boxes(text)]
        boxes.append(tuple(found))
        answers.append(text.strip() if kind == "WD" else subtask)
    return tuple(boxes), tuple(answers)
