"""A foreign checkpoint becomes a weights folder of ours; one array is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pi05_train.checkpoint.foreign.formats import FOREIGN, infer_sizes, our_view
from pi05_train.checkpoint.foreign.identify import Format, open_source
from pi05_train.checkpoint.foreign.lerobot_reading import read_policy, read_statistics
from pi05_train.checkpoint.foreign.merged import Cast
from pi05_train.checkpoint.storage.assets import STATISTICS, find_assets
from pi05_train.checkpoint.storage.own import write_weights_folder
from pi05_train.checkpoint.storage.place import is_url, local_path
from pi05_train.checkpoint.storage.source import TensorSource
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig

Report = Callable[[int, int, str], None]
"""(tensors done, of how many, which one now)."""


@dataclass(frozen=True)
class Imported:
    """What came along."""

    format: Format
    parameters: int
    expert: bool
    left_out: Mapping[str, str]
    """Stored arrays that were not read, with the reason."""
    statistics: tuple[str, ...]
    """Asset ids."""
    note: str
    """Why there are no statistics, where they could not be looked for."""


def import_checkpoint(
    where: str,
    folder: Path,
    model: ModelConfig,
    adaptation: AdaptationConfig,
    *,
    float32_only: bool = False,
    take: str | None = None,
    report: Report | None = None,
) -> Imported:
    """Write the weights folder `folder` from the checkpoint at the path or address `where`.

    Every array is checked against `model` before anything is written; an expert is expected where the checkpoint has
    one. `take` names the stored array that counts where two that should be one differ. bfloat16 is widened to float32,
    which is exact, unless `float32_only` refuses it.
    """
    format, source = open_source(where)
    if format not in FOREIGN:
        raise UserError(
            f"checkpoint {where}",
            got=format.value,
            expected="another program's",
            do="name it in run.start_from as it is",
        )
    config_json = config_beside(where)
    expert = infer_sizes(source, format, config_json).expert
    view = our_view(source, format, model, expert=expert, adaptation=adaptation, config_json=config_json, take=take)
    if float32_only:
        _check_float32(view)
    statistics, origin, note = beside(where, format)
    weights = Cast(view, "float32")
    write_weights_folder(
        folder,
        weights.specs,
        read_all(weights, report),
        model_yaml=yaml.safe_dump(
            {"model": asdict(model), "expert": expert, "adaptation": asdict(adaptation)}, sort_keys=False
        ),
        origin={"format": format.value, "where": where, "dtypes": _dtypes(view), "left_out": view.left_out, **origin},
        assets=statistics,
    )
    parameters = sum(spec.elements for spec in weights.specs.values())
    ids = tuple(path.removesuffix(f"/{STATISTICS}") for path in statistics)
    return Imported(format, parameters, expert, view.left_out, ids, note)


def read_all(source: TensorSource, report: Report | None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in the order in which it is best read."""
    for done, name in enumerate(source.specs):
        if report is not None:
            report(done, len(source.specs), name)
        yield name, source.read(name)
    if report is not None:
        report(len(source.specs), len(source.specs), "")


def config_beside(where: str) -> dict[str, Any] | None:
    """The `config.json` in a checkpoint's folder; it may tell what no array does. None without one."""
    if is_url(where):
        return None
    path = local_path(where)
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        content = json.loads(file.read_text()) if file.is_file() else None
    except ValueError as error:
        raise UserError(f"{file}", got="no JSON", expected="a JSON object", do="fetch the file again") from error
    return content if isinstance(content, dict) else None


def beside(where: str, format: Format) -> tuple[dict[str, bytes], dict[str, Any], str]:
    """Beside weights: statistics by path below `assets/`, what else is worth keeping, and a note for the person."""
    if format is not Format.LEROBOT:
        found = find_assets(where)
        return found.files, {}, found.note
    path = local_path(where)
    policy, statistics = read_policy(path), read_statistics(path)
    files = find_assets(where).files  # LeRobot's base policies have no statistics of their own: a person may add some
    if statistics:
        files = {f"lerobot/{STATISTICS}": (json.dumps({"norm_stats": statistics}, indent=2) + "\n").encode()}
    return files, {"lerobot": asdict(policy)}, "" if files else f"{where} holds no statistics"


def _check_float32(view: TensorSource) -> None:
    others = {name: spec.dtype for name, spec in view.specs.items() if spec.dtype != "float32"}
    if others:
        name, dtype = next(iter(others.items()))
        raise UserError(
            f"checkpoint {view.where}",
            got=f"{dtype} in {len(others)} of {len(view.specs)} parameters, {name} among them",
            expected="float32 throughout",
            do="find the checkpoint in float32, or drop --float32-only: the lost digits cannot be brought back",
        )


def _dtypes(view: TensorSource) -> dict[str, int]:
    """How many parameters were stored in which dtype."""
    counts: dict[str, int] = {}
    for spec in view.specs.values():
        counts[spec.dtype] = counts.get(spec.dtype, 0) + spec.elements
    return counts
