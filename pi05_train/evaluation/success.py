"""Success rates of closed-loop episodes, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pi05_train.evaluation.intervals import wilson
from pi05_train.evaluation.results import RolloutResult, RolloutSummary

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class Success:
    """Of some episodes."""

    episodes: int
    successes: int
    low: float
    high: float
    """`low` and `high`: 95 % Wilson interval of the success rate."""
    mean_steps: float

    @classmethod
    def of(cls, results: Sequence[RolloutResult]) -> Success:
        successes = sum(result.success for result in results)
        low, high = wilson(successes, len(results))
        return cls(len(results), successes, low, high, float(np.mean([result.steps for result in results])))

    @property
    def rate(self) -> float:
        return self.successes / self.episodes


def side_by_side(
    results: Sequence[RolloutResult], group: Callable[[RolloutResult], Group]
) -> dict[Group, dict[str, Success]]:
    """By group, in order of appearance: success by policy."""
    parts: dict[Group, dict[str, list[RolloutResult]]] = {}
    for result in results:
        parts.setdefault(group(result), {}).setdefault(result.policy, []).append(result)
    return {key: {policy: Success.of(own) for policy, own in row.items()} for key, row in parts.items()}


def summarise(results: Sequence[RolloutResult]) -> list[RolloutSummary]:
    """One policy's rates: for each source all tasks together, then task by task."""
    summaries = []
    for source in dict.fromkeys(result.source for result in results):
        own = [result for result in results if result.source == source]
        for task in ["", *dict.fromkeys(result.task for result in own)]:
            found = Success.of([result for result in own if task in ("", result.task)])
            summaries.append(RolloutSummary(source=source, task=task, policy=own[0].policy, **vars(found)))
    return summaries
