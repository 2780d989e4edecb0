"""One table between a foreign checkpoint's arrays and our parameters, read in both directions.

A foreign array (a leaf) holds one or many of our parameters, each as a slice with its axes in another order:
ours = theirs[index].permute(order).reshape(our shape), and back the other way round. Nothing is computed, so every bit
survives both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pi05_train.checkpoint.storage.source import Source, TensorSource, TensorSpec
from pi05_train.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Where one of our parameters lies in a leaf."""

    name: str
    index: tuple[int | slice, ...] = ()
    """The slice of the leaf that holds it."""
    order: tuple[int, ...] | None = None
    """The slice's axes in our order; our reshape comes after."""

    def of(self, theirs: Tensor, shape: Shape) -> Tensor:
        """Our parameter out of the leaf."""
        part = theirs[self.index] if self.index else theirs
        return (part if self.order is None else part.permute(self.order)).reshape(shape).contiguous()

    def into(self, theirs: Tensor, ours: Tensor) -> None:
        """Put our parameter where it lies in the leaf."""
        part = theirs[self.index] if self.index else theirs
        permuted = part if self.order is None else part.permute(self.order)
        permuted.copy_(ours.reshape(permuted.shape))


@dataclass(frozen=True)
class Leaf:
    """A foreign array and what of ours is in it."""

    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Layout:
    """Every array of a foreign checkpoint, against every parameter of ours."""

    what: str
    """The arrays in words, such as "openpi's JAX arrays of a pi05 model"."""
    ours: Mapping[str, Shape]
    leaves: Mapping[str, Leaf]
    """In the order in which they are best read. Each of our parameters lies in exactly one of them."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """A second name of a leaf, under which it may be stored too, or instead."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """What may be stored and is left out -> why; `name[rows]` says it of a part of a leaf."""
    writes_copies: bool = False
    """Whether writing stores the copies too."""
    zeros: Mapping[str, Shape] = field(default_factory=dict)
    """What nobody uses and their loader still asks for: written as zeros."""

    def __post_init__(self) -> None:
        placed = [piece.name for leaf in self.leaves.values() for piece in leaf.pieces]
        homes = set(placed)
        assert len(placed) == len(homes), "a parameter lies in two leaves"
        assert homes <= self.ours.keys(), homes - self.ours.keys()
        homeless = [name for name in self.ours if name not in homes]
        if homeless:
            lora = any(".lora_" in name for name in homeless)
            raise UserError(
                self.what,
                got=f"{some(homeless)} to put there",
                expected="parameters that this format has a place for",
                do="merge the adapters into the weights first" if lora else "choose another format, or leave it out",
            )


class OurView(Source):
    """A foreign checkpoint under our names; reading `specs` in order reads every foreign array once.

    Of a leaf that is stored under two names, both must hold the same bits; `take` names the stored array that counts
    where they do not. A checkpoint whose arrays are not those of the layout is refused here, before anything is read.
    """

    def __init__(self, source: TensorSource, layout: Layout, *, take: str | None = None) -> None:
        super().__init__(source.where)
        self._source, self._layout = source, layout
        self._stored = _stored_names(source.specs, layout)
        _check_arrays(source, layout, self._stored)
        if take is not None:
            self._stored = _with_taken(source, self._stored, take)
        self._places = {piece.name: (leaf, piece) for leaf in layout.leaves for piece in layout.leaves[leaf].pieces}
        self.specs = {
            name: TensorSpec(layout.ours[name], source.specs[self._stored[leaf][0]].dtype)
            for name, (leaf, _) in self._places.items()
        }
        self.left_out: Mapping[str, str] = self._left_out()
        """What is stored and not read, with the reason."""

    def _read(self, name: str) -> Tensor:
        leaf, piece = self._places[name]
        first, *copies = self._stored[leaf]
        theirs = self._source.read(first)
        if copies:
            self._compare(first, theirs, copies)
            self._stored[leaf] = [first]  # compared once
        return piece.of(theirs, self._layout.ours[name])

    def _compare(self, name: str, array: Tensor, copies: list[str]) -> None:
        for copy in copies:
            other = self._source.read(copy)
            if not same_bits(array, other):
                raise UserError(
                    f"checkpoint {self.where}",
                    got=f"different arrays {name} and {copy}",
                    expected="one array under both names: the network has a single token embedding",
                    do=f"say which one counts: --take {name} or --take {copy}",
                )

    def _left_out(self) -> dict[str, str]:
        unused = {
            name: why for name, why in self._layout.unused.items() if name.partition("[")[0] in self._source.specs
        }
        read = {names[0] for names in self._stored.values()}
        for copy, leaf in self._layout.copies.items():
            unused |= {
                name: f"another copy of {self._stored[leaf][0]}"
                for name in (copy, leaf)
                if name in self._source.specs and name not in read
            }
        return unused


class TheirView(Source):
    """Weights under our names as the arrays of a foreign checkpoint."""

    def __init__(self, source: TensorSource, layout: Layout) -> None:
        super().__init__(source.where)
        self._source, self._layout = source, layout
        stored = {name: spec.shape for name, spec in source.specs.items()}
        check_names(f"weights {source.where}", stored, layout.ours, "the parameters of the model to convert")
        self.specs = {name: TensorSpec(leaf.shape, _dtype(source, leaf)) for name, leaf in layout.leaves.items()}
        if layout.writes_copies:
            self.specs |= {copy: self.specs[leaf] for copy, leaf in layout.copies.items()}
        like = next(iter(self.specs.values())).dtype
        self.specs |= {name: TensorSpec(shape, like) for name, shape in layout.zeros.items()}

    def _read(self, name: str) -> Tensor:
        leaf, dtype = self._layout.leaves.get(self._layout.copies.get(name, name)), self.specs[name].torch_dtype
        if leaf is None:
            return torch.zeros(self.specs[name].shape, dtype=dtype)
        if leaf.pieces == (Piece(leaf.pieces[0].name),):  # the array as it is
            return self._source.read(leaf.pieces[0].name).reshape(leaf.shape)
        filled = sum(math.prod(self._layout.ours[piece.name]) for piece in leaf.pieces)
        theirs = (torch.empty if filled == math.prod(leaf.shape) else torch.zeros)(leaf.shape, dtype=dtype)
        for piece in leaf.pieces:
            piece.into(theirs, self._source.read(piece.name))
        return theirs


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.contiguous().view(bits), other.contiguous().view(bits))


def some(names: Iterable[str], most: int = 3) -> str:
    """How many there are, and the first few."""
    names = list(names)
    return f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def check_names(
    where: str, stored: Mapping[str, Shape], wanted: Mapping[str, Shape], what: str, *, known: Iterable[str] = ()
) -> None:
    """Refuse arrays of which some are missing, unknown (and not `known`) or of another shape, all in one sentence."""
    missing = [name for name in wanted if name not in stored]
    unknown = sorted(stored.keys() - wanted.keys() - set(known))
    shapes = [
        f"{name}: {list(stored[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    kinds = ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
    found = [f"{word} {some(names)}" for names, word in kinds if names]
    if found:
        do = "check the model's family and sizes"
        if missing and not unknown and not shapes:
            do += ", or fetch the checkpoint again if a download was cut off"
        raise UserError(where, got=f"arrays {', '.join(found)}", expected=f"{what}, {len(wanted)} arrays", do=do)


def _stored_names(specs: Mapping[str, TensorSpec], layout: Layout) -> dict[str, list[str]]:
    """Of every leaf, the names under which it is stored."""
    names = {leaf: [leaf] if leaf in specs else [] for leaf in layout.leaves}
    for copy, leaf in layout.copies.items():
        if copy in specs:
            names[leaf].append(copy)
    return names


def _check_arrays(source: TensorSource, layout: Layout, stored_names: Mapping[str, list[str]]) -> None:
    wanted = {name: leaf.shape for name, leaf in layout.leaves.items() if not stored_names[name]}
    for leaf, names in stored_names.items():
        wanted |= dict.fromkeys(names, layout.leaves[leaf].shape)
    stored = {name: spec.shape for name, spec in source.specs.items()}
    check_names(f"checkpoint {source.where}", stored, wanted, layout.what, known=layout.unused)


def _with_taken(source: TensorSource, stored_names: Mapping[str, list[str]], take: str) -> dict[str, list[str]]:
    twice = [name for names in stored_names.values() if len(names) > 1 for name in names]
    if take not in twice:
        expected = f"one of {', '.join(twice)}" if twice else "nothing: no array is stored twice"
        raise UserError(f"--take, for checkpoint {source.where}", got=take, expected=expected, do="change or drop it")
    return {leaf: [take] if take in names else names for leaf, names in stored_names.items()}


def _dtype(source: TensorSource, leaf: Leaf) -> str:
    """The narrowest dtype that holds every piece exactly."""
    dtype = source.specs[leaf.pieces[0].name].torch_dtype
    for piece in leaf.pieces[1:]:
        dtype = torch.promote_types(dtype, source.specs[piece.name].torch_dtype)
    return str(dtype).removeprefix("torch.")
