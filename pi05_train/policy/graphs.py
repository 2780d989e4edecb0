"""CUDA graphs: work on tensors of fixed shapes, recorded once and replayed without Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Inputs = TypeVar("Inputs")
Result = TypeVar("Result")

_WARM_UPS = 2
"""Runs before the recording: kernels are loaded and libraries take their workspaces."""


def record(run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of `run` and what it returned, which every replay overwrites. `run` may not wait for the device."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph, result


class Recorded(Generic[Inputs]):
    """`run`, recorded for every shape of its inputs (dataclasses of tensors); the latest few shapes are kept."""

    def __init__(self, run: Callable[[Inputs], Tensor], *, kept: int = 8) -> None:
        self.run = run
        self.kept = kept
        self.graphs: OrderedDict[tuple[Any, ...], tuple[Inputs, torch.cuda.CUDAGraph, Tensor]] = OrderedDict()

    def __call__(self, inputs: Inputs) -> Tensor:
        """What `run` returns."""
        key = tuple(map(_kind, leaves(inputs)))
        if key not in self.graphs:
            while len(self.graphs) >= self.kept:
                self.graphs.popitem(last=False)
            own = cloned(inputs)  # replays overwrite them
            self.graphs[key] = (own, *record(lambda: self.run(own)))
        self.graphs.move_to_end(key)
        own, graph, result = self.graphs[key]
        for mine, given in zip(leaves(own), leaves(inputs), strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given)
        graph.replay()
        return result.clone()


def leaves(inputs: Any) -> Iterator[Any]:
    """Everything in a dataclass of dataclasses, tuples, tensors and plain values, always in the same order."""
    if is_dataclass(inputs):
        for field in fields(inputs):
            yield from leaves(getattr(inputs, field.name))
    elif isinstance(inputs, tuple):
        for item in inputs:
            yield from leaves(item)
    else:
        yield inputs


def cloned(inputs: Inputs) -> Inputs:
    """The same with tensors of its own."""
    if isinstance(inputs, Tensor):
        return cast(Inputs, inputs.clone())
    if isinstance(inputs, tuple):
        return cast(Inputs, tuple(map(cloned, inputs)))
    if is_dataclass(inputs) and not isinstance(inputs, type):
        return replace(inputs, **{field.name: cloned(getattr(inputs, field.name)) for field in fields(inputs)})
    return inputs


def _kind(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf
