"""`pi05 checkpoint import`, `inspect` and `diff`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from pi05_train.checkpoint.foreign.comparing import compare
from pi05_train.checkpoint.foreign.formats import FOREIGN, infer_sizes, our_view
from pi05_train.checkpoint.foreign.identify import Format, open_source
from pi05_train.checkpoint.foreign.importing import config_beside, import_checkpoint
from pi05_train.checkpoint.foreign.layout import some
from pi05_train.checkpoint.foreign.sizes import Sizes, adaptation_of, config_of
from pi05_train.checkpoint.storage.assets import find_assets
from pi05_train.checkpoint.storage.own import WeightsFolder
from pi05_train.checkpoint.storage.source import TensorSource, total_bytes
from pi05_train.checkpoint.storage.tree import Node, tensor_tree
from pi05_train.commands.progress import progress_bar
from pi05_train.config.compose import compose_model

DEFAULT_MODEL = "model=pi05"
"""The network that `import` expects, unless an override names another."""
SHOWN = 40
"""Differences that `diff` lists."""


def import_(
    where: str,
    folder: str,
    overrides: Sequence[str],
    config_dir: str | None,
    *,
    float32_only: bool,
    take: str | None,
) -> None:
    """Turn the checkpoint at a path or address into a weights folder."""
    model, adaptation = compose_model([DEFAULT_MODEL, *overrides], config_dir)
    with progress_bar("importing") as report:
        found = import_checkpoint(
            where, Path(folder), model, adaptation, float32_only=float32_only, take=take, report=report
        )
    expert = "with its action expert" if found.expert else "without an action expert"
    print(f"{folder}: {found.parameters:,} parameters of {found.format.value}, {expert}")
    for name, why in found.left_out.items():
        print(f"left out: {name} ({why})")
    for asset in found.statistics:
        print(f"statistics: assets/{asset}/norm_stats.json")
    if found.note:
        print(found.note)
    print(f"train from it with run.start_from={folder}")


def inspect(where: str) -> None:
    """Print which format a checkpoint is, what network it holds, and its tensors as a tree."""
    format, source = open_source(where)
    print(f"{format.value}: {source.where}")
    if format in FOREIGN:
        print(_network(infer_sizes(source, format, config_beside(where))))
    elif format is Format.WEIGHTS:
        origin = WeightsFolder.open(Path(where)).origin
        print(f"from {origin['format']} {origin['where']}")
    parameters = sum(spec.elements for spec in source.specs.values())
    print(f"{parameters:,} parameters in {len(source.specs)} tensors, {total_bytes(source.specs) / 1e9:.3f} GB")
    for asset in find_assets(where).files:
        print(f"statistics: assets/{asset}")
    Console().print(_drawn(tensor_tree(source.specs), Tree("[bold]tensors[/bold]")))


def diff(first: str, second: str) -> int:
    """Compare two checkpoints tensor by tensor under our names; 0 where every bit is the same, else 1."""
    one, other = _under_our_names(first), _under_our_names(second)
    different = []
    with progress_bar("comparing") as report:
        for done, found in enumerate(compare(one, other)):
            report(done + 1, max(len(one.specs), done + 1), found.name)
            if not found.equal:
                different.append(found)
    for which, where in (("first", first), ("second", second)):
        missing = [found.name for found in different if found.missing_in == which]
        if missing:
            print(f"not in {where}: {some(missing)}")
    other_numbers = [found for found in different if found.what]
    for found in other_numbers[:SHOWN]:
        print(f"{found.name}: {found.what}")
    if len(other_numbers) > SHOWN:
        print(f"... and {len(other_numbers) - SHOWN} more")
    total = len(one.specs.keys() | other.specs.keys())
    print(f"{total - len(different)} of {total} tensors hold the same bits" + (", all" if not different else ""))
    return 1 if different else 0


def _under_our_names(where: str) -> TensorSource:
    format, source = open_source(where)
    if format not in FOREIGN:
        return source
    config_json = config_beside(where)
    sizes = infer_sizes(source, format, config_json)
    model, adaptation = config_of(sizes, "found"), adaptation_of(sizes)
    return our_view(source, format, model, expert=sizes.expert, adaptation=adaptation, config_json=config_json)


def _network(sizes: Sizes) -> str:
    """What the arrays tell of the network, in one line."""
    what = f"{sizes.family} network" if sizes.expert else "backbone without an action expert"
    return f"{what}: " + ", ".join(f"{key} {value}" for key, value in sizes.numbers.items())


def _drawn(node: Node, tree: Tree) -> Tree:
    for name, child in node.children.items():
        label = f"{escape(name)} [dim]{child.parameters:,}[/dim]"
        for spec, count in child.specs.items():
            times = f"{count} x " if count > 1 else ""
            label += f"  {times}{escape(str(list(spec.shape)))} {spec.dtype}"
        _drawn(child, tree.add(label))
    return tree
