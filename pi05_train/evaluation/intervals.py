"""How sure a number is, and how sure the difference between two."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pi05_train.evaluation.tally import Tally

ROUNDS = 4000
"""Of a bootstrap: enough that an end of its interval does not wobble by more than a twentieth of its length."""


def wilson(successes: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion (z = 1.96: 95 %); it lies in [0, 1] and contains successes / trials.

    No trials say nothing: (0, 1). Source: E. B. Wilson, 1927.
    """
    assert 0 <= successes <= trials, (successes, trials)
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Rounding may push an end past the share it must contain when that share is 0 or 1.
    low = min(max((centre - spread) / scale, 0.0), share)
    high = max(min((centre + spread) / scale, 1.0), share)
    return low, high


def rate_difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """The 95 % interval of the first success rate minus the second, each given as (successes, trials), not paired.

    Source: R. G. Newcombe, 1998 (Statistics in Medicine 17, 873-890), method 10: from the two Wilson intervals.
    """
    (p, (low_p, high_p)), (q, (low_q, high_q)) = (
        (successes / trials if trials else 0.5, wilson(successes, trials)) for successes, trials in (first, second)
    )
    return p - q - sqrt((p - low_p) ** 2 + (high_q - q) ** 2), p - q + sqrt((high_p - p) ** 2 + (q - low_q) ** 2)


def paired_difference(
    first: Tally, second: Tally, episodes: Sequence[int], *, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of the first number minus the second on the same samples, `episodes` theirs.

    Bootstrap over whole episodes, since samples of one are alike: percentiles of the difference when as many episodes
    are drawn with replacement as there are. None with fewer than two episodes. It does not know of training seeds.
    """
    _, groups_N = np.unique(np.asarray(episodes), return_inverse=True)
    episodes_E = int(groups_N.max(initial=-1)) + 1
    if episodes_E < 2:
        return None
    drawn_RE = np.random.default_rng(seed).multinomial(episodes_E, np.full(episodes_E, 1 / episodes_E), ROUNDS)
    differences_R = _values(first, groups_N, drawn_RE) - _values(second, groups_N, drawn_RE)
    low, high = np.nanquantile(differences_R, (0.025, 0.975)).tolist()
    return low, high


def _values(tally: Tally, groups_N: NDArray[np.int64], drawn_RE: NDArray[np.int64]) -> NDArray[np.float64]:
    """The number in every round; NaN where what was drawn does not count."""
    totals_E, counts_E = (np.bincount(groups_N, weights=part) for part in (tally.totals, tally.counts))
    with np.errstate(invalid="ignore"):
        means_R = (drawn_RE @ totals_E) / (drawn_RE @ counts_E)
    return np.asarray(np.sqrt(means_R) if tally.root else means_R)
