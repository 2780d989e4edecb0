"""How sure a success rate is."""

from __future__ import annotations

from math import sqrt


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
