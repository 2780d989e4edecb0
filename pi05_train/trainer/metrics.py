"""Rows of metrics.jsonl: losses and shares (the same on every machine), speed and memory (this machine's).

Every name is listed in docs/tracking.md.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch

from pi05_train.data.order.schedule import Schedule
from pi05_train.engine.protocol import StepResult, Tally, mean
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.trainer.devices import peak_flops
from pi05_train.trainer.flops import training_flops

Row = dict[str, float | int]


@dataclass
class Losses:
    """Sums since the last row, and totals since the run began. Part of a checkpoint, so that a resumed run writes the
    rows of an uninterrupted one."""

    steps: int = 0
    loss: float = 0.0
    backbone_norm: float = 0.0
    expert_norm: float = 0.0
    expert_steps: int = 0
    text: dict[str, Tally] = field(default_factory=dict)
    flow: dict[str, Tally] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    """Per source, since the run began."""
    tokens: int = 0
    """Since the run began."""

    def add(self, result: StepResult) -> None:
        """Count one step."""
        self.steps += 1
        self.loss += result.loss
        self.backbone_norm += result.backbone_norm
        if result.expert_norm is not None:
            self.expert_norm += result.expert_norm
            self.expert_steps += 1
        _merge(self.text, result.text)
        _merge(self.flow, result.flow)
        for source, count in result.samples.items():
            self.samples[source] = self.samples.get(source, 0) + count
        self.tokens += result.tokens

    def row(self, kinds: Mapping[str, str]) -> Row:
        """Means over the steps since the last row, per source and per kind (`kinds`: source to kind); realised shares,
        samples and tokens since the run began."""
        row: Row = {"loss/total": self.loss / self.steps, "gradient_norm/backbone": self.backbone_norm / self.steps}
        if self.expert_steps:
            row["gradient_norm/expert"] = self.expert_norm / self.expert_steps
        for term, tallies in (("text", self.text), ("flow", self.flow)):
            if (overall := mean(tallies)) is not None:
                row[f"loss/{term}"] = overall
            row |= {f"loss/{term}/{source}": t.total / t.count for source, t in sorted(tallies.items())}
            for kind in sorted({kinds[source] for source in tallies}):
                of_kind = mean({source: tally for source, tally in tallies.items() if kinds[source] == kind})
                assert of_kind is not None
                row[f"kind/{term}/{kind}"] = of_kind
        total = sum(self.samples.values())
        row |= {f"share/{source}": count / total for source, count in sorted(self.samples.items())}
        return row | {"samples": total, "tokens": self.tokens}

    def restart(self) -> Losses:
        """The sums for the next row: totals are kept."""
        return Losses(samples=dict(self.samples), tokens=self.tokens)

    def state(self) -> dict[str, Any]:
        """For a checkpoint's JSON, which keeps floats exactly."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Losses:
        """The sums saved by `state`."""
        terms = {term: {s: Tally(**tally) for s, tally in state[term].items()} for term in ("text", "flow")}
        return cls(**(state | terms))


def mixture_row(schedule: Schedule, steps: int) -> Row:
    """What the first `steps` steps asked of every source: its share of the samples, and how often each was seen."""
    row: Row = {f"share_requested/{source}": share for source, share in sorted(schedule.requested(steps).items())}
    return row | {f"epochs/{source}": epochs for source, epochs in sorted(schedule.epochs(steps).items())}


def memory_row(device_name: str) -> Row:
    """Gigabytes (10^9 bytes) that this process holds, and the most that its tensors ever took on an accelerator."""
    row: Row = {"memory/host_gigabytes": psutil.Process().memory_info().rss / 1e9}
    if device_name != "cpu":
        row["memory/device_peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def _merge(into: dict[str, Tally], more: dict[str, Tally]) -> None:
    for source, tally in more.items():
        was = into.get(source, Tally(0.0, 0))
        into[source] = Tally(was.total + tally.total, was.count + tally.count)


class Speed:
    """Throughput from elapsed time, saves included; MFU only on devices whose peak is known."""

    def __init__(self, model: ModelConfig, device_name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model, self._clock = model, clock
        self._peak = peak_flops(device_name)
        if self._peak is None and device_name != "cpu":
            warnings.warn(f"the peak of {device_name!r} is not known, so no MFU is written", stacklevel=2)
        self._restart()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time spent here is data wait."""
        begin = self._clock()
        yield
        self._wait += self._clock() - begin

    def add(self, micro_batches: Sequence[Batch], result: StepResult) -> None:
        """Count one step: what this process computed, and the global batch it was part of."""
        self._flops += sum(training_flops(batch, self._model) for batch in micro_batches)
        self._samples += sum(result.samples.values())
        self._tokens += result.tokens

    @property
    def samples_per_second(self) -> float:
        """Since the last row."""
        return self._samples / max(self._clock() - self._begin, 1e-9)

    def row(self) -> Row:
        """Rates since the last row: global samples and tokens, this device's operations; starts the next row."""
        elapsed = max(self._clock() - self._begin, 1e-9)
        row: Row = {
            "speed/samples_per_second": self._samples / elapsed,
            "speed/tokens_per_second": self._tokens / elapsed,
            "speed/data_wait": self._wait / elapsed,
            "speed/device_tflops": self._flops / elapsed / 1e12,
        }
        if self._peak is not None:
            row["speed/mfu"] = self._flops / elapsed / self._peak
        self._restart()
        return row

    def _restart(self) -> None:
        self._begin, self._wait = self._clock(), 0.0
        self._flops, self._samples, self._tokens = 0.0, 0, 0
