"""A checkpoint's names as a tree a person can read: numbered siblings that look alike are one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pi05_train.checkpoint.storage.source import TensorSpec


@dataclass
class Node:
    """A part of the names, with everything below it."""

    children: dict[str, Node] = field(default_factory=dict)
    specs: dict[TensorSpec, int] = field(default_factory=dict)
    """Of the tensors that end here, how many have which shape and dtype."""

    @property
    def parameters(self) -> int:
        own = sum(spec.elements * count for spec, count in self.specs.items())
        return own + sum(child.parameters for child in self.children.values())


def tensor_tree(specs: Mapping[str, TensorSpec]) -> Node:
    """The tree of all names; a component that is a number reads `*`."""
    root = Node()
    for name, spec in specs.items():
        node = root
        for part in re.split(r"[./]", name):
            node = node.children.setdefault("*" if part.isdigit() else part, Node())
        node.specs[spec] = node.specs.get(spec, 0) + 1
    return root
