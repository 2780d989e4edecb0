"""Overrides in, one validated `Config` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pi05_train.config.cluster import ClusterConfig, check_cluster
from pi05_train.config.convert import build, nearest
from pi05_train.config.schema import Config, TokenizerConfig
from pi05_train.config.validate import check_model, validate
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, check_adaptation
from pi05_train.model.config import ModelConfig
from pi05_train.processing.templates import Templates
from pi05_train.resources import resource

ROOT = "config"
"""The file in `conf/` that every composition begins with."""


def compose(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """The validated configuration of `conf/config.yaml` with Hydra overrides (`experiment=demo_pretrain run.steps=10`).

    `config_dir` adds a folder of your own (`experiment/`, `mixture/`, `source/` ...) behind the shipped ones.
    Raises UserError for an unknown group choice or key (naming the nearest one), a missing or wrongly typed value,
    and every combination `validate` refuses.
    """
    return checked(_values(overrides, config_dir))


def compose_plan(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Config, ClusterConfig]:
    """The configuration of `conf/plan.yaml`: that of a run, and the devices it is planned for; refusals as above."""
    values = _values(overrides, config_dir, primary="plan")
    cluster = build(ClusterConfig, values.pop("cluster"), "cluster")
    check_cluster(cluster)
    return checked(values), cluster


def checked(values: dict[Any, Any]) -> Config:
    """The validated configuration of composed values; refusals as in `compose`."""
    _check_source_names(values)
    config = build(Config, values)
    validate(config)
    return config


def compose_model(overrides: Sequence[str], config_dir: str | None = None) -> tuple[ModelConfig, AdaptationConfig]:
    """The network that overrides of `model` and `adaptation` describe, outside any run; refusals as in `compose`."""
    values = _values(overrides, config_dir, ("model", "adaptation"))
    model = build(ModelConfig, values["model"], "model")
    adaptation = build(AdaptationConfig, values["adaptation"], "adaptation")
    check_model(model)
    check_adaptation(adaptation)
    return model, adaptation


def compose_prompts(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Templates, TokenizerConfig]:
    """The words and tokenizers that overrides describe, outside any run; refusals as in `compose`."""
    values = _values(overrides, config_dir, ("templates", "tokenizer"))
    return build(Templates, values["templates"], "templates"), build(TokenizerConfig, values["tokenizer"], "tokenizer")


def _values(
    overrides: Sequence[str], config_dir: str | None, groups: Sequence[str] = (), *, primary: str = ROOT
) -> dict[Any, Any]:
    """The resolved configuration as plain values, or some of its groups alone."""
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        try:
            composed = hydra_compose(primary, hydra_overrides(overrides, config_dir))
            if groups:
                composed = OmegaConf.masked_copy(composed, list(groups))
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except MissingConfigException as error:
            raise _unknown_choice(error) from None
        except MissingMandatoryValue as error:
            raise UserError(
                str(error.full_key), got="nothing", expected="a value", do=f"set {error.full_key}=..."
            ) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise refusal(error, overrides) from None
    assert isinstance(values, dict)
    return values


def hydra_overrides(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """What Hydra is given: where the groups are, and the overrides as it has to read them."""
    folders = [resource("data_mixtures"), *([Path(config_dir).resolve()] if config_dir else [])]
    search = f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"
    return [search, *map(_lenient, overrides)]


def _lenient(override: str) -> str:
    """Let a value override name a key that YAML leaves to its default; `build` refuses unknown ones by name."""
    key = override.partition("=")[0]
    return f"++{override}" if "." in key and key[0] not in "+~" and not key.startswith("hydra.") else override


def read_config(path: Path) -> Config:
    """The resolved configuration a run folder keeps."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(
            f"run folder {path.parent}",
            got="no config.yaml",
            expected="a folder that `pi05 train` wrote",
            do="check the path",
        ) from None
    return build(Config, yaml.safe_load(text))


def read_run(folder: Path) -> Config:
    """The configuration of the run in a folder, wherever that stands now."""
    config = read_config(folder / "config.yaml")
    return replace(config, run=replace(config.run, folder=str(folder)))


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` reads it back to an equal value."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def _unknown_choice(error: MissingConfigException) -> UserError:
    wanted = (error.missing_cfg_file or "?").removesuffix(".yaml")
    options = [str(option) for option in error.options or []]
    group, _, choice = wanted.rpartition("/")
    do = "`uv sync --extra slurm` brings those of submitit" if group == "hydra/launcher" else nearest(choice, options)
    return UserError(group or "config group", got=repr(choice), expected=f"one of {options}", do=do)


def refusal(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's complaint in our words: an override of an unknown group, or something it could not parse."""
    groups = sorted({path.name for path in resource("conf").iterdir() if path.is_dir()} | {"mixture"})
    for override in overrides:
        key = override.partition("=")[0]
        if not any(mark in key for mark in (".", "@", "hydra/")) and key.lstrip("+~") not in groups:
            return UserError(key, got="an unknown group", expected=f"one of {groups}", do=nearest(key, groups))
    reason = " ".join(str(error).split())
    return UserError(
        "overrides", got=" ".join(overrides), expected="Hydra's key=value syntax", do=f"Hydra says: {reason}"
    )


def _check_source_names(values: dict[Any, Any]) -> None:
    """An override of a source that the mixture does not have would otherwise look like a new source."""
    sources = values["mixture"].get("sources", {})
    known = [name for name, entry in sources.items() if "card" in entry]
    for name in sources.keys() - known:
        raise UserError(
            f"mixture.sources.{name}",
            got="a source without a card",
            expected=f"one of {known}",
            do=nearest(name, known),
        )
