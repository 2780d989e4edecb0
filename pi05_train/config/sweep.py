"""One study, many variants: Hydra's multirun, with every variant checked before the first begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pi05_train.config.compose import ROOT, checked, compose, hydra_overrides, refusal
from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.resources import resource

JOBS, SWEEP = ".jobs", "multirun.yaml"
"""What Hydra keeps in a study folder: something of every job, and the sweep itself."""


@dataclass(frozen=True)
class Variant:
    """One point of a sweep."""

    name: str
    """What is swept, as a folder name: `no_web`, `alpha_1`, `no_web+seed_2`."""
    config: Config
    """Its run folder is the variant's own, in the study folder."""


def variants(overrides: Sequence[str], config_dir: str | None = None) -> list[Variant]:
    """The variants of overrides with sweeps (`ablation=none,no_web stage.objective.alpha=1,10`), in Hydra's order.

    `run.folder` is the study folder. Where `run.start_from` is a study folder too, a variant starts from its namesake
    there. Refuses (UserError) what `compose` refuses of any of them, no sweep, a sweep of `run.folder`, and a study
    folder that is a run folder.
    """
    parsed = _parsed(overrides)
    swept = _swept(parsed)
    points = _points(parsed, overrides)
    if not (swept and points) or "run.folder" in swept:
        raise UserError(
            "--multirun",
            got="a sweep of run.folder" if "run.folder" in swept else "nothing to sweep",
            expected="an override with several values, e.g. ablation=none,no_web, and one run.folder for the study",
            do="correct the overrides",
        )
    found = []
    for point in points:
        name = _name(point, swept)
        found.append(Variant(name, _placed(compose(point, config_dir), name)))
    _check_one_study({Path(variant.config.run.folder).parent for variant in found})
    return found


def study_of(found: Sequence[Variant]) -> Path:
    """The study folder of its variants."""
    return Path(found[0].config.run.folder).parent


def multirun(overrides: Sequence[str], config_dir: str | None, study: Path, task: Callable[[Variant], object]) -> None:
    """`task` for every variant, one after the other; `study` is their folder.

    A variant that fails does not stop the others; the first failure is raised at the end.
    """
    swept = _swept(_parsed(overrides))

    def job(composed: DictConfig) -> None:
        name = _name(list(HydraConfig.get().overrides.task), swept)
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        task(Variant(name, _placed(checked(values), name)))

    ours = [
        f"hydra.sweep.dir='{study}'",
        f"hydra.sweep.subdir='{JOBS}/${{hydra.job.num}}'",
        *("hydra/job_logging=none", "hydra/hydra_logging=none"),
    ]
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            hydra.multirun(ROOT, job, hydra_overrides([*ours, *overrides], config_dir))
        except HydraException as error:
            raise refusal(error, overrides) from error


def launcher(overrides: Sequence[str], config_dir: str | None, study: Path) -> dict[str, Any]:
    """Hydra's launcher, as the overrides choose it: its `_target_` and its options.

    The rest of the overrides has become `variants` already.
    """
    own = [override for override in overrides if override.lstrip("+~").startswith(("hydra/", "hydra."))]
    ours = [f"hydra.sweep.dir='{study}'", f"hydra.job.name='{study.name}'"]
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        try:
            composed = hydra_compose(ROOT, hydra_overrides([*ours, *own], config_dir), return_hydra_config=True)
        except HydraException as error:
            raise refusal(error, own) from None
    options: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    return dict(options)


def record_study(study: Path, overrides: Sequence[str]) -> None:
    """Mark a folder as a study, as Hydra does, where its variants are not trained by Hydra's own launcher."""
    study.mkdir(parents=True, exist_ok=True)
    (study / SWEEP).write_text(yaml.safe_dump({"overrides": list(overrides)}))


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides, without the search path."""
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        try:
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            return parser.parse_overrides(hydra_overrides(overrides, None)[1:])
        except HydraException as error:
            raise refusal(error, overrides) from None


def _points(parsed: list[Override], overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every variant."""
    try:
        return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise refusal(error, overrides) from None


def _swept(overrides: Sequence[Override]) -> list[str]:
    """Keys with several values."""
    return [override.key_or_group for override in overrides if override.is_sweep_override()]


def _name(point: Sequence[str], swept: Sequence[str]) -> str:
    """A choice of a group by its own name, a value behind the last part of its key (the whole key among namesakes)."""
    last = [key.rpartition(".")[2] for key in swept]
    words = []
    for override in OverridesParser.create().parse_overrides(list(point)):
        key = override.key_or_group
        if key in swept:
            short = key.rpartition(".")[2]
            label = short if last.count(short) == 1 else key
            value = override.get_value_element_as_str()
            words.append(f"{label}_{value}" if "." in key else value)
    return "+".join(re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-") for word in words)


def _placed(config: Config, name: str) -> Config:
    """The configuration with the variant's own run folder and, from a study, its own start."""
    start = config.run.start_from
    if start is not None and (Path(start) / SWEEP).is_file():
        start = str(Path(start) / name)
    return replace(config, run=replace(config.run, folder=str(Path(config.run.folder) / name), start_from=start))


def _check_one_study(studies: set[Path]) -> None:
    if len(studies) > 1:
        raise UserError(
            "--multirun, run.folder",
            got=f"{len(studies)} folders, {', '.join(sorted(map(str, studies)))}",
            expected="one folder for the study",
            do="set run.folder=...",
        )
    (study,) = studies
    if (study / "config.yaml").is_file():
        raise UserError(
            f"--multirun, run.folder {study}",
            got="the folder of a run",
            expected="a folder for the study, in which every variant gets a run folder",
            do="choose another run.folder",
        )
