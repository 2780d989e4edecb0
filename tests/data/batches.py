"""Batches of a loader compared to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from pi05_train.model.batch import Batch, ImageChanges


def assert_equal_batches(left: Sequence[tuple[int, list[Batch]]], right: Sequence[tuple[int, list[Batch]]]) -> None:
    assert [(step, len(batches)) for step, batches in left] == [(step, len(batches)) for step, batches in right]
    for (_, ours), (_, theirs) in zip(left, right, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.changes is not None
            assert other.changes is not None
            _assert_equal(one.changes, other.changes)
            _assert_equal(replace(one, changes=None), replace(other, changes=None))


def _assert_equal(one: Batch | ImageChanges, other: Batch | ImageChanges) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, field.name
