"""The numbers of a sample in the network's units: its state, and its action chunk padded to the model's width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig
from pi05_train.processing.normalisation import NormStats, normalise, to_delta
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

Floats = NDArray[np.floating[Any]]


def normalised_state(sample: Sample, card: SourceCard, stats: NormStats, kind: str = "quantile") -> NDArray[np.float64]:
    """The state [state_dim], not padded; UserError unless it is finite and of the card's width."""
    state = checked(sample.state, card.state_dim, f"{sample.source}, sample {sample.key}", "state")
    return normalise(state, stats, kind)


def normalised_chunk(
    sample: Sample, card: SourceCard, stats: NormStats, model: ModelConfig, kind: str = "quantile"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The first action_horizon steps [H, D], relative where the card says so, zero padded; and where they count."""
    where = f"{sample.source}, sample {sample.key}"
    actions = checked(sample.actions, card.action_dim, where, "actions")
    if actions.ndim != 2 or actions.shape[0] < model.action_horizon:
        raise UserError(
            f"{where}, actions",
            got=f"{actions.shape[0]} steps",
            expected=f"at least the model's action_horizon {model.action_horizon}",
            do="record longer chunks or shorten the horizon",
        )
    chunk = network_actions(actions[: model.action_horizon], sample.state, where, card, stats, model, kind)
    mask = np.zeros(chunk.shape, dtype=np.bool_)
    mask[:, : card.action_dim] = True
    if sample.action_valid is not None:
        mask &= sample.action_valid[: model.action_horizon, None]
    return chunk, mask


def network_actions(
    actions_ND: Floats,
    state: Floats | None,
    where: str,
    card: SourceCard,
    stats: NormStats,
    model: ModelConfig,
    kind: str,
) -> NDArray[np.float32]:
    """Any number of steps [N, D], relative to the state where the card says so, zero padded."""
    if any(card.delta_mask):
        actions_ND = to_delta(actions_ND, checked(state, card.state_dim, where, "state"), card.delta_mask)
    padded = np.zeros((len(actions_ND), model.action_dim), dtype=np.float32)
    padded[:, : card.action_dim] = normalise(actions_ND, stats, kind)
    return padded


def checked(values: Floats | None, dims: int, where: str, name: str) -> Floats:
    """Finite numbers of the card's width, or a `UserError`."""
    if values is None or values.shape[-1] != dims or not np.isfinite(values).all():
        got = "nothing" if values is None else f"shape {values.shape}, {int((~np.isfinite(values)).sum())} not finite"
        raise UserError(
            f"{where}, {name}", got=got, expected=f"{dims} finite numbers per step", do="correct card or data"
        )
    return values
