"""A sample to an example, and the network's numbers back to the robot's.

Shape letters: H horizon, D the model's action dims (padded), C H W picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig
from pi05_train.processing.augmentation import SAME_PLACE, UNCHANGED, Change, draw_change
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.example import Example
from pi05_train.processing.images import IN_PLACE, BoxTransform, decode_jpeg, resize_with_pad
from pi05_train.processing.limit import TokenLimit, TokenSequence
from pi05_train.processing.normalisation import NormStats, to_absolute, unnormalise
from pi05_train.processing.numbers import checked, network_actions, normalised_chunk, normalised_state
from pi05_train.processing.sequence import build_prompt, build_sequence, parse_actions
from pi05_train.processing.templates import Templates
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, Box, Sample
from pi05_train.tokenization.tokens import Tokens

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Pictures:
    """A sample whose pictures have been decoded."""

    sample: Sample
    images: list[Tensor]
    """uint8 [3, S, S] each, in `CAMERAS` order."""
    changes: list[Change]
    """What is still to be done with each."""
    boxes: list[Box]
    """Those that will then be on the pictures, in the sample's order."""


class Processor:
    """Everything between a stored sample and the packed batch; the same object serves training and the robot."""

    def __init__(
        self,
        model: ModelConfig,
        cards: dict[str, SourceCard],
        statistics: dict[str, dict[str, NormStats]],
        tokens: Tokens,
        templates: Templates,
        augmentation: AugmentationConfig | None,
        stage_has_expert: bool,
        stage_has_text: bool = True,
        normalisation: str = "quantile",
        padded_dims_trained: bool = False,
        prompt_state_dim: int = 0,
    ) -> None:
        """Sources by name with their statistics ("state", "actions"); what does not fit together is refused here.

        Without an expert examples carry no chunk, without text no target: a stage's examples hold what it trains.
        `padded_dims_trained`: whether padded dims are in the flow loss (stage.objective.openpi_exact).
        `prompt_state_dim`: how many numbers of state prompts hold at least, zeros behind (LeRobot's are padded).
        """
        self.model = model
        self.cards = cards
        self.statistics = statistics
        self.tokens = tokens
        self.templates = templates
        self.augmentation = augmentation
        self.stage_has_expert = stage_has_expert
        self.stage_has_text = stage_has_text
        self.normalisation = normalisation
        self.padded_dims_trained = padded_dims_trained
        self.prompt_state_dim = prompt_state_dim
        self.limit = TokenLimit(model.max_prompt_tokens, with_target=model.family == "pi0_fast")
        if tokens.layout.vocab_size > model.vocab_size:
            raise UserError(
                f"model {model.name}, vocab_size",
                got=model.vocab_size,
                expected=f"at least the tokenizer's {tokens.layout.vocab_size}",
                do="choose a matching model or tokenizer",
            )
        for card in cards.values():
            self._check_source(card)

    def __call__(self, sample: Sample, *, key: tuple[int, ...], training: bool) -> Example:
        """The training or evaluation example of a sample; `key` alone decides its augmentation."""
        return self.example(self.pictures(sample, key=key, training=training))

    def pictures(self, sample: Sample, *, key: tuple[int, ...], training: bool) -> Pictures:
        """The first half of an example: the only one that fails for what is inside of an image."""
        return self._pictures(sample, key if training else None)

    def example(self, pictures: Pictures) -> Example:
        """The second half of an example: tokens and actions."""
        sample = pictures.sample
        card, state = self._card(sample.source), self._state(sample)
        chunk = mask = None
        if sample.kind in ACTION_KINDS:
            stats = self._statistics(sample.source, "actions")
            chunk, mask = normalised_chunk(sample, card, stats, self.model, self.normalisation)
        sequence = self._sequence(sample, card, state, chunk, pictures.boxes)
        if not self.stage_has_expert:
            chunk = mask = None
        where = (sample.source, sample.kind, sample.key)
        ids = (sequence.prefix_ids, sequence.target_ids)
        return Example(pictures.images, *ids, chunk, mask, *where, self._state_row(state), pictures.changes)

    def count(self, sample: Sample) -> tuple[int, int]:
        """(prompt and target tokens, pictures) of the sample's example; no picture is looked at.

        Augmentation changes neither: four position tokens stay four, and a box that would leave its picture keeps it in
        place.
        """
        card = self._card(sample.source)
        chunk = None
        if self.stage_has_text and sample.kind in ACTION_KINDS:
            stats = self._statistics(sample.source, "actions")
            chunk, _ = normalised_chunk(sample, card, stats, self.model, self.normalisation)
        boxes = [box for box in sample.boxes if box.camera in sample.images and box.camera in card.cameras]
        on_picture = [box for box in map(IN_PLACE.apply, boxes) if box is not None]
        sequence = self._sequence(sample, card, self._state(sample), chunk, on_picture)
        cameras = [camera for camera in card.cameras if camera in sample.images or self.model.pi0_fast_quirks]
        return len(sequence.prefix_ids) + len(sequence.target_ids), len(cameras)

    def prompt_only(self, sample: Sample) -> Example:
        """The prefix of a sample, nothing to learn from: no target, no actions, no augmentation."""
        pictures, state = self._pictures(sample, None), self._state(sample)
        prompt = self._prompt(sample, state, pictures.boxes)
        where = (sample.source, sample.kind, sample.key)
        return Example(pictures.images, prompt, [], None, None, *where, self._state_row(state))

    def prompt_state(self, state: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The normalised state as prompts hold it."""
        if state is None or state.size >= self.prompt_state_dim:
            return state
        return np.pad(state, (0, self.prompt_state_dim - state.size))

    def flow_dims(self, source: str) -> int:
        """How many leading action dims of a source take part in the flow: its own, or all in openpi's objective.

        The others are 0 for the network at any flow time, in training as on the robot. So whatever another runtime does
        there cannot matter once the weights that read them are 0 (`pi05 checkpoint export`).
        """
        return self.model.action_dim if self.padded_dims_trained else self._card(source).action_dim

    def physical_actions(self, chunk_HD: Floats, source: str, state: Floats | None) -> NDArray[np.float32]:
        """Physical actions [H, the source's action_dim] of a normalised chunk, relative dims added to the state."""
        card = self._card(source)
        stats = self._statistics(source, "actions")
        actions: Floats = unnormalise(chunk_HD[:, : card.action_dim], stats, self.normalisation)
        if any(card.delta_mask):
            actions = to_absolute(actions, checked(state, card.state_dim, source, "state"), card.delta_mask)
        return actions.astype(np.float32)

    def network_actions(self, actions_ND: Floats, source: str, state: Floats | None) -> NDArray[np.float32]:
        """The inverse of `physical_actions` for any number of steps: [N, D], relative to this state, zero padded."""
        card, stats = self._card(source), self._statistics(source, "actions")
        actions = checked(actions_ND, card.action_dim, source, "actions")
        return network_actions(actions, state, source, card, stats, self.model, self.normalisation)

    def normalised_actions(self, ids: Sequence[int], source: str) -> NDArray[np.float64] | None:
        """The chunk [H, D] in the network's units behind generated ids; None where they are no chunk."""
        return parse_actions(
            ids,
            templates=self.templates,
            tokens=self.tokens,
            horizon=self.model.action_horizon,
            dim=self.model.action_dim,
            native_dim=self._card(source).action_dim,
        )

    def _pictures(self, sample: Sample, key: tuple[int, ...] | None) -> Pictures:
        """Without a key nothing is augmented."""
        card = self._card(sample.source)
        size = self.model.vision.image_size
        images: list[Tensor] = []
        changes: list[Change] = []
        moves: dict[str, BoxTransform] = {}
        for camera in CAMERAS:
            if camera in sample.images and camera in card.cameras:
                where = f"{sample.source}, sample {sample.key}, {camera}"
                image, move = resize_with_pad(decode_jpeg(sample.images[camera], where), size, size)
                change = UNCHANGED
                if key is not None and self.augmentation is not None and self.augmentation.enabled:
                    change, move = _draw_change(sample, camera, move, key, self.augmentation, size)
                images.append(image)
                changes.append(change)
                moves[camera] = move
            elif camera in card.cameras and self.model.pi0_fast_quirks:
                images.append(torch.zeros(3, size, size, dtype=torch.uint8))
                changes.append(UNCHANGED)
        moved = [moves[box.camera].apply(box) for box in sample.boxes if box.camera in moves]
        return Pictures(sample, images, changes, [box for box in moved if box is not None])

    def _state(self, sample: Sample) -> NDArray[np.float64] | None:
        """The normalised state [state_dim]; None for a source without state or without its statistics."""
        card = self.cards[sample.source]
        if "state" not in self.statistics.get(sample.source, {}) or (sample.state is None and not card.has_actions):
            return None
        return normalised_state(sample, card, self._statistics(sample.source, "state"), self.normalisation)

    def _sequence(
        self,
        sample: Sample,
        card: SourceCard,
        state: NDArray[np.float64] | None,
        chunk: NDArray[np.float32] | None,
        boxes: list[Box],
    ) -> TokenSequence:
        """Prompt and target; no target in a stage without text."""
        if not self.stage_has_text:
            return TokenSequence(self._prompt(sample, state, boxes), [])
        return build_sequence(
            sample,
            templates=self.templates,
            tokens=self.tokens,
            state_normalised=self.prompt_state(state),
            chunk_normalised=chunk,
            boxes=boxes,
            native_dim=card.action_dim,
            limit=self.limit,
        )

    def _prompt(self, sample: Sample, state: NDArray[np.float64] | None, boxes: list[Box]) -> list[int]:
        return build_prompt(
            sample,
            templates=self.templates,
            tokens=self.tokens,
            state_normalised=self.prompt_state(state),
            boxes=boxes,
            limit=self.limit,
        )

    def _state_row(self, state: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
        """The state as pi0's expert takes it, [D], zero padded; None for a network that does not."""
        if state is None or not self.model.state_token:
            return None
        row = np.zeros(self.model.action_dim, dtype=np.float32)
        row[: state.size] = state
        return row

    def _card(self, source: str) -> SourceCard:
        if source not in self.cards:
            raise UserError("source", got=repr(source), expected=f"one of {sorted(self.cards)}", do="name a known one")
        return self.cards[source]

    def _statistics(self, source: str, name: str) -> NormStats:
        found = self.statistics.get(source, {}).get(name)
        if found is None:
            raise UserError(
                f"source {source}, normalisation statistics",
                got=f"no {name}",
                expected="state and actions",
                do="write them with `pi05 data index`",
            )
        return found

    def _check_source(self, card: SourceCard) -> None:
        if card.action_dim > self.model.action_dim:
            raise UserError(
                f"source {card.name}, action_dim",
                got=card.action_dim,
                expected=f"at most the model's {self.model.action_dim}",
                do="choose a model with wider actions",
            )
        if self.model.state_token and card.state_dim > self.model.action_dim:
            raise UserError(
                f"source {card.name}, state_dim",
                got=card.state_dim,
                expected=f"at most the model's action_dim {self.model.action_dim}, the width of its state token",
                do="choose a wider model",
            )
        for name, dims in (("state", card.state_dim), ("actions", card.action_dim)) if card.has_actions else ():
            found = self._statistics(card.name, name).dims
            if found < dims:
                raise UserError(
                    f"source {card.name}, statistics of {name}",
                    got=f"{found} dimensions",
                    expected=f"{dims}",
                    do="compute them anew",
                )


def _draw_change(
    sample: Sample, camera: str, move: BoxTransform, key: tuple[int, ...], config: AugmentationConfig, size: int
) -> tuple[Change, BoxTransform]:
    """Augmentation that never contradicts the text, and where the boxes of the stored picture go after `move`.

    Positions stay where a box would leave the picture, and where the text holds position tokens of its own.
    """
    change = draw_change(camera, key, config, size)
    if "<loc" in sample.question or "<loc" in sample.answer:
        return replace(change, crop=SAME_PLACE), move
    boxes = [box for box in sample.boxes if box.camera == camera]
    if not boxes:
        return change, move
    after = move.then(change.of_boxes())
    if any(after.apply(box) is None for box in boxes if move.apply(box) is not None):
        return replace(change, crop=SAME_PLACE), move
    return change, after
