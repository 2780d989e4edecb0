"""The learning rate of a step."""

from __future__ import annotations

import math

from pi05_train.config.run_parts import ScheduleConfig


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of step `step` (0 is the first).

    Linear from peak / (warmup_steps + 1), then the peak, a cosine to `final_learning_rate` at `decay_steps` (the
    warm-up counts towards them), or the peak over a square root that grows with the steps since the warm-up (openpi
    training/optimizer.py).
    """
    if step < schedule.warmup_steps:
        first = peak / (schedule.warmup_steps + 1)
        return first + (peak - first) * step / schedule.warmup_steps
    if schedule.name == "warmup_constant":
        return peak
    if schedule.name == "warmup_rsqrt":
        return peak / math.sqrt(1 + (step - schedule.warmup_steps) / schedule.decay_steps)
    assert schedule.name == "warmup_cosine", schedule.name
    done = min(1.0, (step - schedule.warmup_steps) / (schedule.decay_steps - schedule.warmup_steps))
    final = schedule.final_learning_rate
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))
