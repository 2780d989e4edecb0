"""Normalisation statistics of a source, from its states and actions alone (images are never decoded)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.mixture import Mixture
from pi05_train.data.reader import Reader
from pi05_train.processing.normalisation import NormStats, to_delta, write_norm_stats
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.shards import parse_header, parse_lowdim


def source_statistics(reader: Reader, source: str, horizon: int) -> dict[str, NormStats]:
    """Statistics under "state" (over anchor frames) and "actions", in physical units, over the source's rows.

    Actions are every valid element of the first `horizon` steps, after the card's `delta_mask` made them relative to
    the anchor's state: what the network will be asked for. Either key is absent when the source has no such numbers.
    """
    card = reader.mixture.cards[source]
    states: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.float32]] = []
    for row in range(len(reader.mixture.rows[source])):
        members = reader.members(source, row)
        header = parse_header(members["json"], f"row {row} of source {source}")
        if not header["lowdim"]:
            continue
        arrays = parse_lowdim(members["lowdim.npz"], header)
        if "state" in arrays:
            states.append(arrays["state"])
        if "actions" in arrays:
            chunk = arrays["actions"][:horizon][arrays["action_valid"][:horizon]]
            if card.delta_mask:
                chunk = np.asarray(to_delta(chunk, arrays["state"], card.delta_mask), np.float32)
            actions.append(chunk)
    statistics = {"state": norm_stats(np.stack(states))} if states else {}
    return statistics | ({"actions": norm_stats(np.concatenate(actions))} if actions else {})


def norm_stats(x_ND: NDArray[np.floating[Any]]) -> NormStats:
    """Quantiles, mean and standard deviation of each column, in double precision.

    A quantile is the smallest number that the share of the data reaches: openpi's (`shared/normalize.py`), whose
    histogram rounds it down to one five-thousandth of the range.
    """
    x = x_ND.astype(np.float64)
    q01, q99 = np.quantile(x, [0.01, 0.99], axis=0, method="inverted_cdf")
    return NormStats(q01=q01, q99=q99, mean=x.mean(axis=0), std=x.std(axis=0))


def write_statistics(folder: Path, card: SourceCard, horizon: int) -> Path | None:
    """Write `norm_stats.json` beside the indexed shards in `folder`, over all training rows; None without numbers."""
    entry = SourceEntry(card=replace(card, shards=str(folder.resolve())), weight=1.0)
    mixture = Mixture.open(MixtureConfig(card.name, {card.name: entry}), folder)
    statistics = source_statistics(Reader(mixture), card.name, horizon)
    if not statistics:
        return None
    path = folder / "norm_stats.json"
    write_norm_stats(path, statistics)
    return path
