"""The learning rate of a step."""

from __future__ import annotations

import math

from pi05_train.config.run_parts import ScheduleConfig


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of step `step` (0 is the first).

    Linear from peak / (warmup_steps + 1), then the peak, or a cosine to `final_learning_rate` at `decay_steps`
    (openpi training/optimizer.py; the warm-up counts towards `decay_steps`).
    """
    if step < schedule.warmup_steps:
        first = peak / (schedule.warmup_steps + 1)
        return first + (peak - first) * step / schedule.warmup_steps
    if schedule.name == "warmup_constant":
        return peak
    assert schedule.name == "warmup_cosine", schedule.name
    done = min(1.0, (step - schedule.warmup_steps) / (schedule.decay_steps - schedule.warmup_steps))
    final = schedule.final_learning_rate
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))
