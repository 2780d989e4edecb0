"""What FAST loses on action chunks, and what they cost in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.tokenization.fast import FastTokenizer

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Errors:
    """Sizes of decoded minus encoded over chunks, steps and dims."""

    rmse: float
    p99: float
    """99 % of the absolute errors are at most this."""
    largest: float

    @classmethod
    def of(cls, error: Floats) -> Errors:
        size = np.abs(error)
        return cls(float(np.sqrt(np.mean(size**2))), float(np.quantile(size, 0.99)), float(size.max()))


@dataclass(frozen=True)
class Reconstruction:
    """Encoding and decoding the chunks of one source. Errors are over the source's own dims of the chunks that decode,
    and None where none does.
    """

    chunks: int
    undecodable: int
    normalised: Errors | None
    """In the network's units."""
    percent: Errors | None
    """Of each dim's q99 - q01; None also for statistics without quantiles."""
    worst_dim: int | None
    worst_rmse: float | None
    """The dim with the largest RMSE, and that RMSE in the network's units."""
    tokens_mean: float
    tokens_p50: float
    tokens_p99: float
    tokens_max: int
    """Tokens per chunk."""
    tokens_per_second: float
    """Of motion."""
    compression: float
    """Tokens of naive binning, one per own dim and step, for each FAST token."""
    vocabulary_used: float
    """Share of the FAST vocabulary that occurs."""


def reconstruct(
    fast: FastTokenizer, chunks: Sequence[Floats], *, dims: int, rate_hz: float, span_D: Floats | None
) -> Reconstruction:
    """Measure on at least one normalised chunk [H, D]; the first `dims` dims are the source's own.

    `span_D` [dims] is q99 - q01 in the network's units, None if unknown.
    """
    encoded = [fast.encode(chunk) for chunk in chunks]
    horizon, width = chunks[0].shape
    decoded = [fast.decode(ids, horizon=horizon, dim=width) for ids in encoded]
    errors = [(back - chunk)[:, :dims] for back, chunk in zip(decoded, chunks, strict=True) if back is not None]
    error_NHD = np.stack(errors) if errors else None
    rmse_D = None if error_NHD is None else np.sqrt(np.mean(error_NHD**2, axis=(0, 1)))
    lengths = np.array([len(ids) for ids in encoded])
    used = len(set().union(*encoded))
    return Reconstruction(
        chunks=len(encoded),
        undecodable=len(encoded) - len(errors),
        normalised=None if error_NHD is None else Errors.of(error_NHD),
        percent=None if error_NHD is None or span_D is None else Errors.of(100 * error_NHD / span_D),
        worst_dim=None if rmse_D is None else int(rmse_D.argmax()),
        worst_rmse=None if rmse_D is None else float(rmse_D.max()),
        tokens_mean=float(lengths.mean()),
        tokens_p50=float(np.quantile(lengths, 0.5)),
        tokens_p99=float(np.quantile(lengths, 0.99)),
        tokens_max=int(lengths.max()),
        tokens_per_second=float(lengths.mean() * rate_hz / horizon),
        compression=float(horizon * dims / lengths.mean()),
        vocabulary_used=used / fast.vocab_size,
    )
